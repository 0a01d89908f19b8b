// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package matrix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/witness"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Times of a move. Nothing is judged by them but that it ends.
const (
	moveLimit = 2 * time.Minute        // with the recovery, until traffic is as before
	calm      = 700 * time.Millisecond // of traffic before and after a move
)

// bulkPort is the peer's port of the bulk stream.
const bulkPort = testbed.WitnessPort + 1

// bulkInterval is the time between two records of the bulk stream, of 2 KiB on
// average, in each direction.
const bulkInterval = time.Millisecond

// Build builds the guest of all moves: it has every driver, and its programs keep
// a TCP stream both ways, datagrams both ways, and a bulk stream.
func Build(ctx context.Context, dir string, opts image.Options) (*image.Bundle, error) {
	bulk := netip.AddrPortFrom(testbed.Subnet4.Addr(), bulkPort).String()
	return rig.Build(ctx, rig.GuestOptions{
		Dir: dir, Options: opts,
		Witness: []string{"-echo"},
		Extra: fmt.Sprintf("[[service]]\nname = \"bulk\"\nexec = [\"/bin/witness\", \"-peer\", %q, \"-udp-interval\", \"-1s\", \"-tcp-interval\", %q]\nneeds = [%q]\nrestart = \"never\"\n",
			bulk, bulkInterval.String(), rig.Role),
	})
}

// A Runner moves guests along trails.
type Runner struct {
	Bundle *image.Bundle
	Dir    string // for sockets: a short path
	// Console, if not nil, gives the writer for a guest's consoles.
	Console func(trail string) io.WriteCloser
	Logger  *slog.Logger
}

// Run makes the moves of a trail, each told to report. A guest that is harmed is
// given up, and the next one begins where it was to go. The error is of the
// testbed, not of a guest.
func (r *Runner) Run(ctx context.Context, name string, trail []Pair, report func(Result)) error {
	var g *guest
	defer func() {
		if g != nil {
			g.close()
		}
	}()
	for i, p := range trail {
		if g == nil {
			var err error
			if g, err = r.start(ctx, fmt.Sprintf("%s-%d", name, i), p.Setup, p.nic(p.From, i)); err != nil {
				return fmt.Errorf("guest with %s: %w", p.From, err)
			}
		}
		res := Result{Pair: p}
		err := g.move(ctx, p.nic(p.To, i+1), &res)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			res.Error = err.Error()
		}
		if res.Error != "" || i == len(trail)-1 {
			if err := g.finish(ctx); err != nil && res.Error == "" {
				res.Error = "at the end: " + err.Error()
			}
			g.close()
			g = nil
		}
		report(res)
	}
	return nil
}

// guest is a guest under traffic, and its test network.
type guest struct {
	*rig.Rig
	bed     *testbed.Bed
	bulk    *witness.Peer
	dir     string
	console io.WriteCloser
	count   uint64 // recoveries so far
	carried int64  // by the bulk stream

	// told is the account of the moves so far. What the next one cost is counted from
	// there, and not from an instant in which a datagram on its way counts as missing.
	told witness.Verdict
}

func (r *Runner) start(ctx context.Context, name string, s Setup, nic rig.NIC) (_ *guest, err error) {
	g := new(guest)
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.dir, err = os.MkdirTemp(r.Dir, ""); err != nil {
		return nil, err
	}
	if g.bed, err = testbed.Open(ctx, testbed.Options{Dir: g.dir, Logger: r.Logger}); err != nil {
		return nil, err
	}
	addr := netip.AddrPortFrom(testbed.Subnet4.Addr(), bulkPort)
	l, err := g.bed.Peer.Listen(addr)
	if err != nil {
		return nil, err
	}
	pc, err := g.bed.Peer.ListenPacket(addr)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	g.bulk = witness.NewPeer(l, pc, witness.PeerOptions{Interval: bulkInterval, Logger: r.Logger})
	ro := rig.Options{Bed: g.bed, Bundle: r.Bundle, Dir: g.dir, Type: s.Type, RootPorts: s.Type == machine.Q35, Logger: r.Logger}
	if r.Console != nil {
		g.console = r.Console(name)
		ro.Console = func(host string) io.Writer {
			fmt.Fprintf(g.console, "\n--- %s\n", host)
			return g.console
		}
	}
	if g.Rig, err = rig.Start(ctx, ro, nic); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, moveLimit, errors.New("the guest's programs do not connect"))
	defer cancel()
	if err := errors.Join(g.bed.Witness.Wait(wait), g.bulk.Wait(wait)); err != nil {
		return nil, err
	}
	tls, err := g.Timelines(wait)
	if err != nil {
		return nil, err
	}
	g.count = rig.LastRecovery(tls)
	if _, err := g.Host.WaitConsole(wait, rig.Settled); err != nil {
		return nil, err
	}
	return g, sleep(ctx, calm)
}

func (g *guest) close() {
	if g.Rig != nil {
		g.Rig.Close()
	}
	if g.bulk != nil {
		g.bulk.Close()
	}
	if g.bed != nil {
		g.bed.Close()
	}
	if g.console != nil {
		g.console.Close()
	}
	os.RemoveAll(g.dir)
}

// move migrates the guest and waits until its traffic is as before.
func (g *guest) move(ctx context.Context, nic rig.NIC, res *Result) error {
	rep, err := g.Move(ctx, nic) // the host lives as long as ctx
	if rep == nil {
		return fmt.Errorf("migration: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errors.New("no recovery in time"))
	defer cancel()
	res.StoppedMS = float64(rep.Downtime.Microseconds()) / 1000
	var tl ctl.Timeline
	tl, g.count, err = g.WaitRecovery(ctx, g.count)
	if err != nil {
		return err
	}
	for name, p := range map[string]*witness.Peer{"the": g.bed.Witness, "the bulk": g.bulk} {
		if err := flows(ctx, p, rep.ResumedAt); err != nil {
			return fmt.Errorf("%s stream does not go on: %w: %+v", name, err, p.Snapshot().Verdict)
		}
	}
	after, err := g.settled(ctx)
	if err != nil {
		return err
	}
	if err := g.bed.Fault(); err != nil {
		return fmt.Errorf("not the guest's fault: %w", err)
	}
	gap := g.bed.Witness.Stalls(rep.StoppedAt.Add(-time.Second), time.Now()).TCP()
	res.StallMS = float64(gap.Duration().Microseconds()) / 1000
	g.account(res, tl, after.Verdict)
	switch bulk := g.bulk.Snapshot(); {
	case after.Resets+after.Reconnects+bulk.Resets+bulk.Reconnects > 0:
		return errors.New("a connection was lost")
	case after.BytesCorrupt+bulk.BytesCorrupt > 0:
		return errors.New("bytes were altered")
	}
	return nil
}

// settled returns the witness's account once the guest's own part of it, which
// comes once a second, is about what was sent after the move. A datagram that is on
// its way counts as missing: so the least of several counts holds.
func (g *guest) settled(ctx context.Context) (witness.Snapshot, error) {
	if err := sleep(ctx, 1500*time.Millisecond); err != nil {
		return witness.Snapshot{}, err
	}
	best := g.bed.Witness.Snapshot()
	for range 5 {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return best, err
		}
		if now := g.bed.Witness.Snapshot(); now.UDPOut.Missing <= best.UDPOut.Missing {
			best = now
		}
	}
	return best, nil
}

func (g *guest) account(res *Result, tl ctl.Timeline, after witness.Verdict) {
	f := tl.Frames
	res.Held, res.Harvested, res.Resent, res.Dropped = f.Held, f.Harvested, f.Resent, f.Dropped
	for _, d := range tl.Deferred {
		res.Deferred = append(res.Deferred, d.Op+": "+d.Reason)
	}
	slices.Sort(res.Deferred)
	res.Missing = max(0, after.UDPOut.Missing) - max(0, g.told.UDPOut.Missing)
	res.Duplicated = after.UDPOut.Duplicated - g.told.UDPOut.Duplicated
	res.Reordered = after.UDPOut.Reordered - g.told.UDPOut.Reordered
	g.told = after
	carried := g.bulk.Snapshot().BytesSent
	res.BulkBytes, g.carried = carried-g.carried, carried
}

// flows waits until records arrive again, both ways.
func flows(ctx context.Context, p *witness.Peer, since time.Time) error {
	for {
		record, ok1 := p.FirstRecordAfter(since)
		ack, ok2 := p.FirstAckAfter(since)
		if ok1 && ok2 && time.Since(record) > calm && time.Since(ack) > calm {
			return nil
		}
		if err := sleep(ctx, rig.Poll); err != nil {
			return err
		}
	}
}

// finish ends the programs in good order and takes the verdict on all moves.
// The datagrams that are missing have been told move by move: there must not be more.
func (g *guest) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errors.New("the guest's programs do not finish"))
	defer cancel()
	var errs []error
	for _, p := range []*witness.Peer{g.bulk, g.bed.Witness} {
		v, err := p.Final(ctx)
		if p == g.bed.Witness {
			v.UDPOut.Missing -= max(0, g.told.UDPOut.Missing)
		}
		errs = append(errs, err, v.Err())
	}
	return errors.Join(errs...)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
