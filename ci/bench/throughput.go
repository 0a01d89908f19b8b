// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
)

// throughputTarget bounds the proxy's throughput over the bare NIC's, from below.
const throughputTarget = 0.997

// throughput counts the instructions of streams in two guests at once, and then takes the
// time of streams in guests whose clock is the host's.
func (b *bench) throughput(ctx context.Context) error {
	for _, clock := range b.clocks {
		b.progress("throughput: streams of %d guests, by the %s's clock", len(guests), clock)
		if err := b.sideBySide(ctx, clock, "throughput-by-"+string(clock), record.Send, record.Receive); err != nil {
			return err
		}
	}
	return nil
}

// Throughput compares TCP streams of MiB after MiB, one way.
type Throughput struct {
	Way string `json:"way"`
	// Instructions of the guest per MiB, of the half of the transfers in which it waited
	// least for its peer.
	Proxy stats.Sample `json:"proxy"`
	Bare  stats.Sample `json:"bare"`
	// Ratio is that of the throughputs where the guest's processor is the bound: bytes per
	// instruction with the proxy over those with the bare NIC, by the least of each. Where
	// link or peer are slower the throughputs are alike, and the guest idles less.
	Ratio float64 `json:"ratio"`
	// WallProxy and WallBare are in MiB per second of the wall clock, and have no target:
	// guests, peer and what else this machine runs share its processors.
	WallProxy stats.Sample `json:"wall_proxy"`
	WallBare  stats.Sample `json:"wall_bare"`
}

// sumThroughput compares the transfers of the two guests.
func (r *Report) sumThroughput() {
	r.Throughput = nil
	for _, way := range []record.Kind{record.Send, record.Receive} {
		t := Throughput{Way: string(way)}
		if proxy, bare, ok := r.both(GuestClock, way); ok {
			cost := compare(string(way), proxy, bare)
			t.Proxy, t.Bare, t.Ratio = cost.Proxy, cost.Bare, stats.Ratio(1, cost.Least)
			r.floor(fmt.Sprintf("throughput of a TCP stream bound by the processor, %s, proxy/bare", way), t.Ratio, throughputTarget)
		}
		if proxy, bare, ok := r.both(WallClock, way); ok {
			t.WallProxy, t.WallBare = stats.Of(column(proxy, speed)), stats.Of(column(bare, speed))
		}
		if t.Proxy.N+t.WallProxy.N > 0 {
			r.Throughput = append(r.Throughput, t)
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
	fmt.Fprintln(w, "Throughput of a TCP stream: instructions per MiB (least of the undisturbed half), ratio of MiB per instruction,\n"+
		"and beside that the wall clock's MiB/s (median, ± spread; no target)")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \tproxy\tmedian\tbare NIC\tmedian\tratio\tof medians\twall: proxy\tbare NIC\tratio")
	for _, x := range r.Throughput {
		fmt.Fprintf(t, "  %s\t%.0f\t%.0f ±%.2f%%\t%.0f\t%.0f ±%.2f%%\t%.4f\t%.4f\t%.1f ±%.0f%%\t%.1f ±%.0f%%\t%.2f\n", x.Way,
			x.Proxy.Min, x.Proxy.Median, 100*x.Proxy.Spread, x.Bare.Min, x.Bare.Median, 100*x.Bare.Spread,
			x.Ratio, stats.Ratio(x.Bare.Median, x.Proxy.Median),
			x.WallProxy.Median, 100*x.WallProxy.Spread, x.WallBare.Median, 100*x.WallBare.Spread,
			stats.Ratio(x.WallProxy.Median, x.WallBare.Median))
	}
	t.Flush()
	fmt.Fprintln(w)
}
