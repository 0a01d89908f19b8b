// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/streams"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/capture"
)

// PeerMove is one move as the wire between the guest and a Linux peer saw it. Times
// are the wire's, in ms.
type PeerMove struct {
	NIC    string `json:"nic"`
	Hasten bool   `json:"hasten"`
	// Gap is from the guest's last segment on the old NIC to its first on the new one,
	// which is when what was held is released.
	Gap float64 `json:"gap_ms"`
	// Lost is, by kind of connection, from that first segment until the receiver has
	// acknowledged something new; where one side asks, until both have.
	Lost map[string]float64 `json:"lost_ms"`
}

// peersSettle is how long connections are left alone before a move, for windows to open
// and round-trip times to be known.
const peersSettle = 4 * time.Second

// peers measures how long peers stand still after a recovery is over: once with what
// the guest can do about it, and once without.
func (b *bench) peers(ctx context.Context) error {
	var errs []error
	for _, hasten := range []bool{false, true} {
		errs = append(errs, b.peersWith(ctx, hasten))
	}
	return errors.Join(errs...)
}

func (b *bench) peersWith(ctx context.Context, hasten bool) error {
	name := "peers"
	if hasten {
		name += "-hastened"
	}
	p, err := b.startPeers(ctx, name, hasten)
	if err != nil {
		return err
	}
	defer p.close()
	for i := range b.rounds * len(b.nics) {
		nic := rig.NIC{Model: b.nics[i%len(b.nics)], Slot: slots[(i+1)%len(slots)]}
		b.progress("%s, %d of %d: %s → %s", name, i+1, b.rounds*len(b.nics), p.NICs[0], nic)
		time.Sleep(peersSettle)
		o, err := p.move(ctx, nic)
		if err != nil {
			return fmt.Errorf("move to %s: %w%s", nic, err, lastLines(p.Host))
		}
		b.report.Peers = append(b.report.Peers, peerMove(nic, hasten, o))
	}
	return nil
}

// peerGuest is a guest with a Linux guest for its peer, with what both stand on.
type peerGuest struct {
	*rig.Pair
	bed   *testbed.Bed
	log   io.Closer
	trace *capture.Trace
	count uint64 // recoveries so far
}

func (b *bench) startPeers(ctx context.Context, name string, hasten bool) (p *peerGuest, err error) {
	built, err := filepath.Abs(filepath.Join(b.out, name))
	if err != nil {
		return nil, err
	}
	opts := rig.GuestOptions{Dir: built, NoWitness: true, Streams: true, Options: b.image}
	if hasten {
		opts.Role = "hasten = \"on\"\n"
	}
	bundle, err := rig.Build(ctx, opts)
	if err != nil {
		return nil, err
	}
	log, err := b.console(name)
	if err != nil {
		return nil, err
	}
	p = &peerGuest{log: log, trace: new(capture.Trace)}
	bed, dir, err := b.bed(ctx, name, p.trace)
	if err != nil {
		log.Close()
		return nil, err
	}
	p.bed = bed
	p.Pair, err = rig.StartPair(ctx, rig.Options{
		Bed: bed, Bundle: bundle, Dir: dir, Cmdline: b.cmdline,
		Console: func(string) io.Writer { return log },
	}, rig.NIC{Model: "e1000", Slot: slots[0]}, false)
	if err != nil {
		bed.Close()
		log.Close()
		return nil, err
	}
	return p, nil
}

func (p *peerGuest) close() {
	p.Pair.Close()
	p.bed.Close()
	p.log.Close()
}

// move moves the guest and waits until all connections go on.
func (p *peerGuest) move(ctx context.Context, nic rig.NIC) (o rig.Outage, err error) {
	host, incoming, err := p.Prepare(ctx, nic)
	if err != nil {
		return o, err
	}
	// The host lives as long as ctx, the wait does not.
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	p.trace.Take() // of the move before
	if _, err := p.MoveTo(ctx, host, incoming, nic); err != nil {
		return o, err
	}
	if _, p.count, err = p.WaitRecovery(ctx, p.count); err != nil {
		return o, err
	}
	if o, err = p.outage(ctx); err != nil {
		return o, err
	}
	_, err = host.WaitConsole(ctx, rig.Settled)
	return o, err
}

// outage waits until all connections go on.
func (p *peerGuest) outage(ctx context.Context) (rig.Outage, error) {
	var events []capture.Event
	for {
		more, overflow := p.trace.Take()
		events = append(events, more...)
		if overflow > 0 {
			return rig.Outage{}, fmt.Errorf("%d segments too many for the capture", overflow)
		}
		if text := p.Failed(); text != "" {
			return rig.Outage{}, fmt.Errorf("%w: %s", errGuest, text)
		}
		o, err := p.Outage(events)
		if err == nil {
			return o, nil
		}
		select {
		case <-ctx.Done():
			return o, errors.Join(context.Cause(ctx), err)
		case <-time.After(rig.Poll):
		}
	}
}

func peerMove(nic rig.NIC, hasten bool, o rig.Outage) PeerMove {
	m := PeerMove{NIC: nic.Model, Hasten: hasten, Gap: ms(o.Released.Sub(o.Left)), Lost: make(map[string]float64)}
	for kind, at := range o.Again {
		m.Lost[kind] = ms(at.Sub(o.Released))
	}
	return m
}

// renderPeers writes what peers lost, the median of each NIC.
func renderPeers(w io.Writer, moves []PeerMove) {
	if len(moves) == 0 {
		return
	}
	fmt.Fprintln(w, "Connections with a Linux peer, released → each moves again, ms (and over the gap before; medians)")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "  NIC\thasten\tmoves\tgap")
	for _, k := range streams.Kinds() {
		fmt.Fprint(t, "\t", k.Name)
	}
	fmt.Fprintln(t)
	type row struct {
		nic    string
		hasten bool
	}
	var rows []row
	for _, m := range moves {
		if r := (row{m.NIC, m.Hasten}); !slices.Contains(rows, r) {
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.nic, b.nic) })
	for _, r := range rows {
		of := slices.DeleteFunc(slices.Clone(moves), func(m PeerMove) bool { return r != row{m.NIC, m.Hasten} })
		gap := median(of, func(m PeerMove) float64 { return m.Gap })
		fmt.Fprintf(t, "  %s\t%t\t%d\t%.0f", r.nic, r.hasten, len(of), gap)
		for _, k := range streams.Kinds() {
			lost := median(of, func(m PeerMove) float64 { return m.Lost[k.Name] })
			ratio := median(of, func(m PeerMove) float64 { return stats.Ratio(m.Lost[k.Name], m.Gap) })
			fmt.Fprintf(t, "\t%.0f (%.2f)", lost, ratio)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	fmt.Fprintln(w)
}

func median(moves []PeerMove, of func(PeerMove) float64) float64 {
	var v []float64
	for _, m := range moves {
		v = append(v, of(m))
	}
	return stats.Of(v).Median
}
