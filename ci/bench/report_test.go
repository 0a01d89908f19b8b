// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
)

func TestReportComparesTheRoundsThatWaitedLeast(t *testing.T) {
	var r Report
	for _, x := range []struct {
		guest   string
		work    float64
		elapsed int64
	}{
		{guestProxy, 2200, 2200}, {guestProxy, 2300, 2400}, {guestProxy, 9000, 99000},
		{guestShortcut, 2020, 2020}, {guestShortcut, 2060, 2060}, {guestShortcut, 9000, 99000},
		{guestBare, 2000, 2000}, {guestBare, 2000, 2100}, {guestBare, 1, 99000},
	} {
		r.round(GuestClock, x.guest, record.Record{Kind: record.UDP, Count: 2, Work: x.work, Elapsed: x.elapsed})
	}
	r.sum()
	if len(r.Steady) != 2 || len(r.Results) != 2 {
		t.Fatalf("%d comparisons and %d results, want two of each: %+v", len(r.Steady), len(r.Results), r.Steady)
	}
	s := r.Steady[0]
	if s.Proxy.Median != 1125 || s.Bare.Median != 1000 || s.Ratio != 1.125 || s.Least != 1.1 {
		t.Errorf("proxy %v, bare %v, ratio %v, of the least %v; want 1125, 1000, 1.125, 1.1 a datagram",
			s.Proxy.Median, s.Bare.Median, s.Ratio, s.Least)
	}
	if !r.Results[0].Missed {
		t.Errorf("%v is not said to be over %v", r.Results[0].Value, r.Results[0].Target)
	}
	if got, want := r.Results[0].Spread, s.Proxy.Spread; got != want || got == 0 {
		t.Errorf("spread %v, want the larger one of both, %v", got, want)
	}
	if s := r.Steady[1]; s.With != guestShortcut || s.Least != 1.01 || r.Results[1].Missed {
		t.Errorf("with %s the least is %v, %+v; want 1.01 with the shortcut, which is in order", s.With, s.Least, r.Results[1])
	}
}

func TestReportNeedsBothSides(t *testing.T) {
	var r Report
	r.round(GuestClock, guestProxy, record.Record{Kind: record.TCP, Count: 1, Work: 1, Elapsed: 1})
	r.sum()
	if len(r.Steady)+len(r.Results) != 0 {
		t.Errorf("a ratio to nothing: %+v", r.Results)
	}
}

func TestReportSumsUpMovesByNIC(t *testing.T) {
	var r Report
	for _, m := range []Move{
		{NIC: "a", FirstFrame: 160, Bare: Bare{Probe: 50, Open: 40, Link: 10}, Stamps: map[string]float64{"opened": 60}},
		{NIC: "b", FirstFrame: 7},
		{NIC: "a", FirstFrame: 300, Bare: Bare{Probe: 40, Open: 30, Link: 10}, Stamps: map[string]float64{"opened": 80}},
		{NIC: "a", FirstFrame: 200, Bare: Bare{Probe: 70, Open: 20, Link: 10}, Stamps: map[string]float64{"opened": 70}},
	} {
		m.Clock, m.Way = GuestClock, OtherSlot
		r.move(m)
	}
	// What was timed by another clock is told apart and has no target.
	r.move(Move{Clock: WallClock, Way: OtherSlot, NIC: "a", FirstFrame: 9000, Bare: Bare{Probe: 1}})
	// In the same slot the old driver's unload is part of it.
	r.move(Move{Clock: GuestClock, Way: SameSlot, NIC: "a", FirstFrame: 300, Bare: Bare{Unload: 200, Probe: 50, Open: 40, Link: 10}})
	r.sum()
	if n := len(r.Recovery); n != 4 || len(r.Results) != 3 {
		t.Fatalf("%d recoveries and %d results, want 4 and 3", n, len(r.Results))
	}
	if same := r.Recovery[2]; same.Way != SameSlot || same.Ratio != 1 {
		t.Errorf("same slot: %+v, want a ratio of 1 to all that the drivers do alone", same)
	}
	if got := nicsOf(r.Moves); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("NICs %v, want a and b in the order of their first moves", got)
	}
	a := r.Recovery[0]
	if a.FirstFrame.Median != 200 || a.Bare.Median != 100 || a.Ratio != 2 {
		t.Errorf("a: first frame %v, bare %v, ratio %v; want medians 200 and 100, and 160/80", a.FirstFrame, a.Bare, a.Ratio)
	}
	if a.Steps.Open != 30 || a.Stamps["opened"] != 60 {
		t.Errorf("a: steps %+v, timeline %v; want those of the fastest", a.Steps, a.Stamps)
	}
	if !r.Results[0].Missed || r.Results[0].Target != recoveryTarget {
		t.Errorf("2 is over the target: %+v", r.Results[0])
	}
}

func TestReportIsPrintedAndSaved(t *testing.T) {
	var r Report
	r.sizes(4<<20, 13<<20, 26, 8<<20)
	for _, user := range []float64{3000, 2500, 9000} {
		r.boot(1000, user, map[string]float64{"address": user - 1500})
	}
	var b strings.Builder
	r.Render(&b)
	for _, want := range []string{"user's program with its network up 2000 ms", "address +1500", "4 MiB", "over target"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &b)
		}
	}
	name := filepath.Join(t.TempDir(), "bench.json")
	if err := r.Save(name); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if again.Boot.HandOver != r.Boot.HandOver || !maps.Equal(again.Boot.Steps, r.Boot.Steps) || !slices.Equal(again.Results, r.Results) {
		t.Errorf("read back %+v, want %+v", again.Boot, r.Boot)
	}
}

func TestReadBoot(t *testing.T) {
	for _, tc := range []struct {
		name, console string
		kernel        float64
		steps         map[string]float64
		err           error
	}{
		{"steps are told from init's first line", "umbra: 1.50s umbra devel on Linux\numbra: 2.00s shadowd: started pid=88\numbra: 6.75s net0: 10.99.0.10/24 by DHCP server=10.99.0.1",
			1500, map[string]float64{"agent started": 500, "address": 5250}, nil},
		{"the first line of a kind counts", "umbra: 1.00s umbra devel\numbra: 2.00s shadowd: started\numbra: 3.00s shadowd: started", 1000, map[string]float64{"agent started": 1000}, nil},
		{"lines of the kernel and of programs are no steps", "[    1.85] Run /init as init process\numbra: 1.00s umbra devel\nload: umbra: 2.00s shadowd: started", 1000, map[string]float64{}, nil},
		{"without init's first line there is no origin", "umbra: 2.00s shadowd: started", 0, nil, errNoHandOver},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var console []vm.Line
			for _, text := range strings.Split(tc.console, "\n") {
				console = append(console, vm.Line{Text: text})
			}
			kernel, steps, err := readBoot(console)
			if kernel != tc.kernel || !maps.Equal(steps, tc.steps) || !errors.Is(err, tc.err) {
				t.Errorf("readBoot = %v, %v, %v; want %v, %v, %v", kernel, steps, err, tc.kernel, tc.steps, tc.err)
			}
		})
	}
}

func TestChain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stamps map[string]float64
		want   string
	}{
		{"each step is told from the one before it", map[string]float64{"detected": 10, "active": 30, "scanned": 35}, "detected +10, active +20, scanned +5"},
		{"in the order of time, not of names", map[string]float64{"harvested": 50, "opened": 40, "link": 60}, "opened +40, harvested +10, link +10"},
		{"what comes after the first frame is left out", map[string]float64{"link": 60, "passive": 90}, "link +60"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := chain(stampOrder, tc.stamps); got != tc.want {
				t.Errorf("chain(%v) = %q, want %q", tc.stamps, got, tc.want)
			}
		})
	}
}

func TestThroughputBoundByTheProcessorIsTheInverseOfWhatStreamsCost(t *testing.T) {
	var r Report
	for _, x := range []struct {
		clock         Clock
		guest         string
		kind          record.Kind
		work, elapsed float64
	}{
		{GuestClock, guestProxy, record.TCP, 320, 320}, {GuestClock, guestBare, record.TCP, 256, 300},
		// The wall clock's say another thing, and decide nothing.
		{WallClock, guestProxy, record.Send, 0, 2e9}, {WallClock, guestBare, record.Send, 0, 8e9},
		{WallClock, guestProxy, record.Receive, 0, 8e9}, {WallClock, guestBare, record.Receive, 0, 8e9},
	} {
		r.round(x.clock, x.guest, record.Record{Kind: x.kind, Count: 32, Work: x.work, Elapsed: int64(x.elapsed)})
	}
	r.sum()
	if len(r.Throughput) != 2 || len(r.Results) != 1 {
		t.Fatalf("%d ways and %d results, want both ways, and what sent bytes cost", len(r.Throughput), len(r.Results))
	}
	if x := r.Throughput[0]; x.Bound != 0.8 || x.Proxy.Median != 16 || x.Bare.Median != 4 || x.Line != nil {
		t.Errorf("%+v; want 0.8 of the bytes per instruction, and 16 and 4 MiB/s", x)
	}
}

func TestThroughputAtLineRateHasATarget(t *testing.T) {
	r := Report{LineRate: 16}
	for _, x := range []struct {
		guest           string
		kind            record.Kind
		seconds, idling float64
	}{
		{guestBare, record.LineSend, 2, 1}, {guestBare, record.LineSend, 2, 1}, {guestBare, record.LineSend, 9, 1},
		{guestProxy, record.LineSend, 2.5, 0.5}, {guestProxy, record.LineSend, 2.5, 0.5}, {guestProxy, record.LineSend, 1, 0.5},
		{guestBare, record.LineReceive, 2, 1}, {guestProxy, record.LineReceive, 2.004, 1},
	} {
		r.round(WallClock, x.guest, record.Record{Kind: x.kind, Count: 32, Elapsed: int64(x.seconds * 1e9), Idle: int64(x.idling * 1e9)})
	}
	var b strings.Builder
	r.Render(&b)
	if len(r.Results) != 2 {
		t.Fatalf("%d results, want one each way: %+v", len(r.Results), r.Results)
	}
	if x := r.Results[0]; x.Value != 0.8 || !x.Floor || !x.Missed {
		t.Errorf("send: %+v; want 0.8 of the bare NIC's by the median, which is too little", x)
	}
	if x := r.Results[1]; x.Missed || x.Value < 0.997 || x.Value > 0.999 {
		t.Errorf("receive: %+v; want 0.998, which is enough", x)
	}
	if l := r.Throughput[0].Line; l.BareIdle != 0.5 || l.ProxyIdle != 0.2 {
		t.Errorf("idle: %+v; want a half and a fifth", l)
	}
	for _, want := range []string{"≥ 0.997", "under target", "a link of 16.0 MiB", "12.800 ±0.00%"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &b)
		}
	}
}

func TestLineRateIsAShareOfTheSlowerDirection(t *testing.T) {
	var r Report
	for _, x := range []struct {
		guest   string
		kind    record.Kind
		seconds int64
	}{
		{guestBare, record.Send, 1}, {guestBare, record.Receive, 2}, {guestProxy, record.Send, 8}, {guestProxy, record.Receive, 8},
	} {
		r.round(WallClock, x.guest, record.Record{Kind: x.kind, Count: 32, Elapsed: x.seconds * 1e9})
	}
	if got := r.lineRate(); got != 4 {
		t.Errorf("%v MiB/s, want 4: a quarter of what the bare NIC's guest receives", got)
	}
}

func TestReportComparesTheShortestBoots(t *testing.T) {
	r := Report{Race: &Race{
		UmbraSize: 6, Umbra: Start{Init: stats.Of([]float64{900}), Program: stats.Of([]float64{1200, 1500})},
		URootSize: 5, URoot: Start{Init: stats.Of([]float64{1000, 9000}), Program: stats.Of([]float64{7000})},
	}}
	var b strings.Builder
	r.Render(&b)
	if got := r.Results; len(got) != 2 || got[0].Value != 1.2 || got[0].Missed || got[1].Value != 1.2 || !got[1].Missed {
		t.Errorf("results %+v; want 1.2 twice, for the size allowed and for the time not", got)
	}
	if want := "1 of 2 missed"; !strings.Contains(b.String(), want) {
		t.Errorf("the report does not say %q:\n%s", want, &b)
	}
}

func TestRunRefusesABenchmarkThatIsNone(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	err := run(t.Context(), []string{"-out", out, "-only", "boot,stedy"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `-only: "stedy" is none of`) {
		t.Errorf("run = %v, want that it names what it does not know", err)
	}
}
