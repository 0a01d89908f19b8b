// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// eightTarget bounds the recovery of eight roles over that of one.
const eightTarget = 1.5

// kinds are the NICs of the eight roles, of all drivers but two: QEMU's i8255x holds its
// interrupt line before a driver has started it (hw/net/eepro100.c, nic_receive), and
// e1000e polls dead hardware for seconds, which take minutes when instructions are
// counted. A role goes from one to the next.
var kinds = []string{"e1000", "rtl8139", "virtio-net-pci", "vmxnet3", "pcnet", "tulip", "e1000-82545em", "ne2k_pci"}

// places are the slots of the eight NICs, by turns.
var places = [][]string{
	{"2", "3", "4", "5", "6", "8", "9", "10"},
	{"11", "12", "13", "14", "15", "16", "17", "18"},
}

// roleOf names the n-th role.
func roleOf(n int) string { return fmt.Sprintf("net%d", n) }

// A Crowd compares the recovery of all roles at once with those of one. Times are the
// guest's, in ms, from the first role's "detected" to the last one's "passive".
type Crowd struct {
	Roles int          `json:"roles"`
	Alone []Alone      `json:"alone"`
	All   stats.Sample `json:"all_ms"`
	// Ratio is that of the smallest of All to the longest of Alone, Mean to their mean.
	Ratio float64 `json:"ratio"`
	Mean  float64 `json:"ratio_to_mean"`
	// Stamps are the timelines of the fastest move of all, by role.
	Stamps []map[string]float64 `json:"timelines_ms"`
}

// Alone is the recovery of one role from one kind of NIC to the next.
type Alone struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	Took float64 `json:"took_ms"`
	// All is what the same change took among the others.
	All    float64            `json:"among_all_ms"`
	Stamps map[string]float64 `json:"timeline_ms"`
}

// eight moves a guest with one role through all kinds of NICs, and one with eight
// roles, each of which makes one of those changes at the same time.
func (b *bench) eight(ctx context.Context) error {
	c := &Crowd{Roles: len(kinds)}
	if err := b.alone(ctx, c); err != nil {
		return fmt.Errorf("one role: %w", err)
	}
	if err := b.together(ctx, c); err != nil {
		return fmt.Errorf("%d roles: %w", c.Roles, err)
	}
	b.report.Crowd = c
	return nil
}

// alone makes every change with one role.
func (b *bench) alone(ctx context.Context, c *Crowd) error {
	nic := func(move int) rig.NIC {
		return rig.NIC{Model: kinds[move%len(kinds)], Slot: places[move%len(places)][0]}
	}
	g, err := b.start(ctx, "one-role", GuestClock.options(rig.Options{}), nic(0))
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.atRest(ctx); err != nil {
		return err
	}
	count := make([]uint64, 1)
	for move := range kinds {
		to := nic(move + 1)
		b.progress("one role: %s → %s", kinds[move], to)
		tls, err := g.recover(ctx, count, to)
		if err != nil {
			return fmt.Errorf("move to %s: %w", to, err)
		}
		began, ended := span(tls)
		c.Alone = append(c.Alone, Alone{
			From: kinds[move], To: to.Model, Took: ms(ended - began), Stamps: since(tls[0], began),
		})
	}
	return nil
}

// together makes all changes at once, each with a role of its own.
func (b *bench) together(ctx context.Context, c *Crowd) error {
	bundle, err := b.eightImage(ctx)
	if err != nil {
		return err
	}
	nics := func(move int) (out []rig.NIC) {
		for n := range kinds {
			out = append(out, rig.NIC{
				Model: kinds[(n+move)%len(kinds)], Slot: places[move%len(places)][n],
				MAC: fmt.Sprintf("52:54:00:75:08:%02x", n),
			})
		}
		return out
	}
	opts := GuestClock.options(rig.Options{Bundle: bundle, Slots: slices.Concat(places...)})
	g, err := b.start(ctx, "eight-roles", opts, nics(0)...)
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.atRest(ctx); err != nil {
		return err
	}
	count := make([]uint64, len(kinds))
	var took []float64
	for move := range b.rounds {
		b.progress("%d roles at once, %d of %d", len(kinds), move+1, b.rounds)
		tls, err := g.recover(ctx, count, nics(move+1)...)
		if err != nil {
			return fmt.Errorf("move %d: %w", move+1, err)
		}
		began, ended := span(tls)
		took = append(took, ms(ended-began))
		if took[move] > slices.Min(took) {
			continue
		}
		c.Stamps = nil
		for n, tl := range tls {
			_, done := span(tls[n : n+1])
			c.Alone[(n+move)%len(kinds)].All = ms(done - began)
			c.Stamps = append(c.Stamps, since(tl, began))
		}
	}
	c.compare(took)
	return nil
}

// compare takes what all roles took at once, in each move.
func (c *Crowd) compare(took []float64) {
	var alone []float64
	for _, a := range c.Alone {
		alone = append(alone, a.Took)
	}
	c.All = stats.Of(took)
	c.Ratio, c.Mean = stats.Ratio(c.All.Min, slices.Max(alone)), stats.Ratio(c.All.Min, stats.Mean(alone))
}

// eightImage builds the guest with eight roles.
func (b *bench) eightImage(ctx context.Context) (*image.Bundle, error) {
	dir, err := filepath.Abs(filepath.Join(b.out, "eight"))
	if err != nil {
		return nil, err
	}
	var extra strings.Builder
	for n := 1; n < len(kinds); n++ {
		fmt.Fprintf(&extra, "[[role]]\nname = %q\nclass = \"net\"\n[role.network]\nmethod = \"none\"\n", roleOf(n))
	}
	return rig.Build(ctx, rig.GuestOptions{Dir: dir, NoWitness: true, Options: b.image, Extra: extra.String()})
}

// atRest waits until the guest has booted and is ready for a move.
func (g *guest) atRest(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	if _, err := g.Host.WaitConsole(ctx, rig.Settled); err != nil {
		return fmt.Errorf("%w%s", err, lastLines(g.Host))
	}
	return nil
}

// recover moves the guest, waits until each of its roles has recovered once more than
// count says, and is ready for the next move, and returns the timelines.
func (g *guest) recover(ctx context.Context, count []uint64, nics ...rig.NIC) ([]ctl.Timeline, error) {
	host, incoming, err := g.Prepare(ctx, nics...)
	if err != nil {
		return nil, err
	}
	// The host lives as long as ctx, the wait does not.
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	if _, err := g.MoveTo(ctx, host, incoming, nics...); err != nil {
		return nil, err
	}
	tls := make([]ctl.Timeline, len(count))
	for n := range count {
		for tls[n].Recovery == 0 {
			var all []ctl.Timeline
			err := g.Call(ctx, ctl.CmdTimeline, ctl.RoleArgs{Role: roleOf(n)}, &all)
			// The first is the boot's; a recovery is numbered once it is over.
			i := slices.IndexFunc(all, func(tl ctl.Timeline) bool { return tl.Recovery > max(count[n], 1) })
			if err == nil && i >= 0 {
				tls[n], count[n] = all[i], rig.LastRecovery(all)
				continue
			}
			select {
			case <-ctx.Done():
				return nil, errors.Join(context.Cause(ctx), err, fmt.Errorf("%s did not recover%s", roleOf(n), lastLines(host)))
			case <-time.After(rig.Poll):
			}
		}
	}
	_, err = host.WaitConsole(ctx, rig.Settled)
	return tls, err
}

// span returns when the first of the recoveries was detected, and the last over.
func span(tls []ctl.Timeline) (began, ended time.Duration) {
	for i, tl := range tls {
		from, _ := tl.Stamp(ctl.StampDetected)
		to, _ := tl.Stamp(ctl.StampPassive)
		if i == 0 || time.Duration(from) < began {
			began = time.Duration(from)
		}
		ended = max(ended, time.Duration(to))
	}
	return began, ended
}

// since returns a timeline's stamps in ms after an instant. What comes when it is over
// is nobody's loss, and the host tells by its own clock when it resumed the guest.
func since(tl ctl.Timeline, began time.Duration) map[string]float64 {
	out := make(map[string]float64)
	end, _ := tl.Stamp(ctl.StampPassive)
	for _, s := range tl.Stamps {
		if s.Name != ctl.StampResumed && s.At <= end {
			out[s.Name] = ms(time.Duration(s.At) - began)
		}
	}
	return out
}

// crowdOrder are the stamps of a whole recovery.
var crowdOrder = append(slices.Clone(stampOrder), ctl.StampReplayed, ctl.StampUnloaded, ctl.StampReleased, ctl.StampPassive)

func (c *Crowd) render(w io.Writer) {
	fmt.Fprintf(w, "%d roles at once and one, detected → passive, by the guest's clock\n", c.Roles)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  from\tto\talone, ms\tamong all, ms")
	for _, a := range c.Alone {
		fmt.Fprintf(t, "  %s\t%s\t%.0f\t%.0f\n", a.From, a.To, a.Took, a.All)
	}
	t.Flush()
	fmt.Fprintf(w, "  all: %.0f ms, median %.0f of %d; over the longest alone: %.2f, over the mean: %.2f\n",
		c.All.Min, c.All.Median, c.All.N, c.Ratio, c.Mean)
	fmt.Fprintln(w, "  where it goes, ms after the stamp before:")
	for _, a := range c.Alone {
		fmt.Fprintf(w, "    %s alone: %s\n", a.To, chain(crowdOrder, a.Stamps))
	}
	for n, stamps := range c.Stamps {
		fmt.Fprintf(w, "    %s of all: %s\n", roleOf(n), chain(crowdOrder, stamps))
	}
	fmt.Fprintln(w)
}
