// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
)

// throughputTarget bounds the proxy's throughput over the bare NIC's, from below.
const throughputTarget = 0.997

// throughput takes the time of streams in two guests whose clock is the host's.
func (b *bench) throughput(ctx context.Context) error {
	both := slices.DeleteFunc(slices.Clone(variants), func(v variant) bool { return v.name == guestShortcut })
	b.progress("throughput: the wall clock's for the streams of %d guests", len(both))
	return b.sideBySide(ctx, WallClock, "streams", both, record.Send, record.Receive)
}

// Throughput compares TCP streams one way.
type Throughput struct {
	Way  string `json:"way"`
	With string `json:"with"` // the guest that is compared with that of the bare NIC
	// Bound is the ratio of the throughputs where the guest's processor is the bound:
	// bytes per instruction over those with the bare NIC. It is the inverse
	// of what the steady state's streams cost, and 0 where that was not measured. Where
	// link or peer are slower than the processor it idles a little less instead.
	Bound float64 `json:"processor_bound_ratio,omitempty"`
	// Proxy and Bare are in MiB per second of the wall clock, and have no target: guests,
	// peer and what else this machine runs share its processors. They have no rounds where
	// that was not measured.
	Proxy stats.Sample `json:"wall_proxy"`
	Bare  stats.Sample `json:"wall_bare"`
}

// sumThroughput compares the streams of the two guests.
func (r *Report) sumThroughput() {
	r.Throughput = nil
	for _, way := range []struct {
		name           string
		counted, timed record.Kind
	}{
		{"send", record.TCP, record.Send},
		{"receive", record.TCPReceive, record.Receive},
	} {
		for _, with := range []string{guestProxy, guestShortcut} {
			t := Throughput{Way: way.name, With: with}
			proxy, bare, counted := r.both(GuestClock, with, way.counted)
			if counted {
				cost := compare(way.name, proxy, bare)
				t.Bound = stats.Ratio(1, cost.Least)
				r.floor("throughput of a TCP stream bound by the processor, "+way.name+", "+with+"/bare", t.Bound, throughputTarget)
				r.spread(cost)
			}
			proxy, bare, timed := r.both(WallClock, with, way.timed)
			if timed {
				t.Proxy, t.Bare = stats.Of(column(proxy, speed)), stats.Of(column(bare, speed))
			}
			if counted || timed {
				r.Throughput = append(r.Throughput, t)
			}
		}
	}
}

// speed is that of a transfer in MiB/s.
func speed(r record.Record) float64 { return stats.Ratio(float64(r.Count)*1e9, float64(r.Elapsed)) }

// renderThroughput writes what streams cost, and how fast they were.
func (r *Report) renderThroughput(w io.Writer) {
	if len(r.Throughput) == 0 {
		return
	}
	fmt.Fprintln(w, "Throughput of a TCP stream, with/bare NIC: bytes per instruction (least of the undisturbed half), and beside that\n"+
		"MiB per second of the wall clock (median, ± spread; no target)")
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
}
