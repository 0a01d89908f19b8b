// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/umbra-vm/umbra/ci/bench/internal/line"
	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/rota"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
	"github.com/umbra-vm/umbra/ci/rig"
)

// throughputTarget bounds the proxy's throughput over the bare NIC's, from below, where
// the link is the bound and not the guest's processor. What it comes from was measured at
// the line rate of a Gigabit NIC (Kadav and Swift, Live migration of direct-access devices,
// 2009). Of a processor that is the bound it would ask for 1.003 of the instructions, and
// tcpTarget allows 1.01.
const throughputTarget = 0.997

// lineShare is the link's rate over the speed of the bare NIC's guest without one: so much
// less that neither the guests' processors are the bound nor, with other work on it, this
// machine's.
const lineShare = 0.25

// throughput takes the time of streams in guests whose clock is the host's, one guest at a
// time: as fast as they go, and over a link with a line rate.
func (b *bench) throughput(ctx context.Context) error {
	b.progress("throughput: the wall clock's for the streams of %d guests", len(variants))
	ctx, cancel := context.WithTimeoutCause(ctx, streamsLimit, errors.New("the guests did not end in time"))
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	names := make([]string, len(variants))
	for i, v := range variants {
		names[i] = v.name
	}
	t := newTrack(names)
	for _, v := range variants {
		group.Go(func() error {
			defer t.turns.Leave(v.name)
			if err := b.stream(ctx, v, t); err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			return nil
		})
	}
	group.Go(func() error { // the rate is chosen when all is known
		select {
		case <-t.free:
		case <-ctx.Done():
			return nil // a guest says why
		}
		b.report.LineRate = b.report.lineRate()
		b.progress("throughput: the same over a link of %.1f MiB/s", b.report.LineRate)
		t.start(b.report.LineRate * (1 << 20))
		return nil
	})
	return group.Wait()
}

// streamsLimit bounds all guests together.
const streamsLimit = 20 * time.Minute

var errDropped = errors.New("the network between guest and peer has lost frames")

// stream runs one guest on the track.
func (b *bench) stream(ctx context.Context, v variant, t *track) error {
	opts := WallClock.options(rig.Options{Cmdline: "bench.load=streams " + v.cmdline})
	next := func(lined bool) error { return t.next(ctx, v.name, lined) }
	g, l, err := b.startLined(ctx, "streams-"+v.name, opts, rig.NIC{Model: "e1000", Slot: slots[0]}, next)
	if err != nil {
		return err
	}
	defer g.close()
	t.add(v.name, l)
	kinds := []record.Kind{record.Send, record.Receive, record.Free, record.LineSend, record.LineReceive}
	err = g.records(ctx, kinds, func(r record.Record) {
		if r.Kind == record.Free {
			t.endFree(v.name)
			return
		}
		b.report.round(WallClock, v.name, r)
	})
	if err != nil {
		return err
	}
	// What waits is not lost: a loss would measure how TCP mends it.
	lost := g.listener.Stats().TxDropped
	for _, p := range g.bed.Switch.Ports() {
		lost += p.Counters().QueueFull
	}
	if lost > 0 {
		return fmt.Errorf("%w: %d", errDropped, lost)
	}
	return nil
}

// A track is what guests share whose streams are timed: one at a time transfers, and none
// over a link with a rate before all have without.
type track struct {
	turns *rota.Rota
	free  chan struct{} // closed when all have transferred without a rate
	rated chan struct{} // closed when there is one

	mu      sync.Mutex
	running []string // guests that still transfer without a rate
	links   map[string]*line.Link
	rate    float64 // bytes per second, once it is known
}

func newTrack(guests []string) *track {
	return &track{
		turns: rota.New(guests...), running: slices.Clone(guests), links: make(map[string]*line.Link),
		free: make(chan struct{}), rated: make(chan struct{}),
	}
}

func (t *track) add(guest string, l *line.Link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.links[guest] = l
}

// next waits for a guest's turn. With the link's rate, each begins with nothing for the
// link to catch up with.
func (t *track) next(ctx context.Context, guest string, lined bool) error {
	t.turns.Done(guest)
	if lined {
		select {
		case <-t.rated:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := t.turns.Next(ctx, guest); err != nil || !lined {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.links[guest]
	if !ok {
		return fmt.Errorf("%s has its turn before its link is known", guest)
	}
	l.SetRate(t.rate)
	return nil
}

// endFree says that a guest has transferred without a rate as often as it is to.
func (t *track) endFree(guest string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := len(t.running)
	t.running = slices.DeleteFunc(t.running, func(g string) bool { return g == guest })
	if was > 0 && len(t.running) == 0 {
		close(t.free)
	}
}

// start lets guests transfer over links with a rate in bytes per second. It is called once.
func (t *track) start(rate float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rate = rate
	close(t.rated)
}

// Throughput compares TCP streams one way.
type Throughput struct {
	Way  string `json:"way"`
	With string `json:"with"` // the guest that is compared with that of the bare NIC
	// Line is where the link is the bound; nil if that was not measured.
	Line *AtLine `json:"at_line_rate,omitempty"`
	// Bound is the ratio of the throughputs where the guest's processor is the bound:
	// bytes per instruction over those with the bare NIC, the worst that there is. It is
	// the inverse of what the steady state's streams cost, and 0 where that was not measured.
	Bound float64 `json:"processor_bound_ratio,omitempty"`
	// Proxy and Bare are in MiB per second of the wall clock, as fast as they go, and have
	// no target: guest, peer and what else this machine runs share its processors. They
	// have no rounds where that was not measured.
	Proxy stats.Sample `json:"wall_proxy"`
	Bare  stats.Sample `json:"wall_bare"`
}

// AtLine compares streams over a link with a rate, in MiB of data per second.
type AtLine struct {
	Proxy stats.Sample `json:"proxy"`
	Bare  stats.Sample `json:"bare"`
	Ratio float64      `json:"ratio"` // of the medians
	// What the guests' processors idled meanwhile, of 1: with none left they were the bound.
	ProxyIdle float64 `json:"proxy_idle"`
	BareIdle  float64 `json:"bare_idle"`
}

// lineRate is the rate in MiB of frames per second of the link, as lineShare says, of the
// slower direction: a cable has one.
func (r *Report) lineRate() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	median := func(k record.Kind) float64 {
		return stats.Of(column(r.rounds[series{WallClock, guestBare, k}], speed)).Median
	}
	return lineShare * min(median(record.Send), median(record.Receive))
}

// sumThroughput compares the streams of the guests.
func (r *Report) sumThroughput() {
	r.Throughput = nil
	for _, way := range []struct {
		name                  string
		counted, timed, lined record.Kind
	}{
		{"send", record.TCP, record.Send, record.LineSend},
		{"receive", record.TCPReceive, record.Receive, record.LineReceive},
	} {
		for _, with := range []string{guestProxy, guestShortcut} {
			t := Throughput{Way: way.name, With: with}
			proxy, bare, counted := r.both(GuestClock, with, way.counted)
			if counted {
				t.Bound = stats.Ratio(1, compare(way.name, proxy, bare).Least)
			}
			proxy, bare, timed := r.both(WallClock, with, way.timed)
			if timed {
				t.Proxy, t.Bare = stats.Of(column(proxy, speed)), stats.Of(column(bare, speed))
			}
			proxy, bare, lined := r.both(WallClock, with, way.lined)
			if lined {
				t.Line = &AtLine{
					Proxy: stats.Of(column(proxy, speed)), Bare: stats.Of(column(bare, speed)),
					ProxyIdle: stats.Of(column(proxy, idle)).Median, BareIdle: stats.Of(column(bare, idle)).Median,
				}
				t.Line.Ratio = stats.Ratio(t.Line.Proxy.Median, t.Line.Bare.Median)
				r.floor("throughput of a TCP stream at line rate, "+way.name+", "+with+"/bare", t.Line.Ratio, throughputTarget)
				r.Results[len(r.Results)-1].Spread = max(t.Line.Proxy.Spread, t.Line.Bare.Spread)
			}
			if counted || timed || lined {
				r.Throughput = append(r.Throughput, t)
			}
		}
	}
}

// idle is the share of a transfer's time in which the guest's processor had nothing to do.
func idle(r record.Record) float64 { return stats.Ratio(float64(r.Idle), float64(r.Elapsed)) }

// speed is that of a transfer in MiB/s.
func speed(r record.Record) float64 { return stats.Ratio(float64(r.Count)*1e9, float64(r.Elapsed)) }

// renderThroughput writes what streams cost, and how fast they were.
func (r *Report) renderThroughput(w io.Writer) {
	if len(r.Throughput) == 0 {
		return
	}
	fmt.Fprintln(w, "Throughput of a TCP stream, with/bare NIC: bytes per instruction where the processor is the bound (least of the\n"+
		"undisturbed half; the worst case, whose target is that of the instructions), and beside that MiB per second of the\n"+
		"wall clock (median, ± spread; no target)")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \twith\tbound by the processor\twall: with\tbare NIC\tratio\ttransfers")
	for _, x := range r.Throughput {
		bound := "not counted"
		if x.Bound != 0 {
			bound = fmt.Sprintf("%.4f", x.Bound)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s", x.Way, x.With, bound)
		if x.Proxy.N > 0 {
			fmt.Fprintf(t, "\t%.1f ±%.0f%%\t%.1f ±%.0f%%\t%.2f\t%d",
				x.Proxy.Median, 100*x.Proxy.Spread, x.Bare.Median, 100*x.Bare.Spread,
				stats.Ratio(x.Proxy.Median, x.Bare.Median), x.Proxy.N)
		} else {
			fmt.Fprint(t, "\tnot timed\t\t\t")
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	fmt.Fprintln(w)
	r.renderLine(w)
}

// renderLine writes how fast streams were over a link with a rate.
func (r *Report) renderLine(w io.Writer) {
	if r.LineRate == 0 {
		return
	}
	fmt.Fprintf(w, "The same over a link of %.1f MiB of frames per second each way, %g of what the bare NIC's guest does without: MiB of\n"+
		"data per second of the wall clock (median, ± spread), and what the guest's processor idles\n", r.LineRate, lineShare)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \twith\tproxy\tidle\tbare NIC\tidle\tratio\ttransfers")
	for _, x := range r.Throughput {
		if l := x.Line; l != nil {
			fmt.Fprintf(t, "  %s\t%s\t%.3f ±%.2f%%\t%.0f%%\t%.3f ±%.2f%%\t%.0f%%\t%.4f\t%d\n", x.Way, x.With,
				l.Proxy.Median, 100*l.Proxy.Spread, 100*l.ProxyIdle, l.Bare.Median, 100*l.Bare.Spread, 100*l.BareIdle, l.Ratio, l.Proxy.N)
		}
	}
	t.Flush()
	fmt.Fprintln(w)
}
