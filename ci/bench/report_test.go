// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

func TestReportComparesTheRoundsThatWaitedLeast(t *testing.T) {
	var r Report
	for _, x := range []struct {
		guest   string
		work    float64
		elapsed int64
	}{
		{guestProxy, 2200, 2200}, {guestProxy, 2200, 2300}, {guestProxy, 9000, 99000},
		{guestBare, 2000, 2000}, {guestBare, 2000, 2100}, {guestBare, 1, 99000},
	} {
		r.round(x.guest, record.Record{Kind: record.UDP, Count: 2, Work: x.work, Elapsed: x.elapsed})
	}
	r.sum()
	if len(r.Steady) != 1 || len(r.Results) != 1 {
		t.Fatalf("%d comparisons and %d results, want one of each: %+v", len(r.Steady), len(r.Results), r.Steady)
	}
	s := r.Steady[0]
	if s.Proxy.Median != 1100 || s.Bare.Median != 1000 || s.Ratio != 1.1 {
		t.Errorf("proxy %v, bare %v, ratio %v; want 1100, 1000, 1.1 a datagram", s.Proxy.Median, s.Bare.Median, s.Ratio)
	}
	if !r.Results[0].Over {
		t.Errorf("%v is not said to be over %v", r.Results[0].Value, r.Results[0].Target)
	}
}

func TestReportNeedsBothSides(t *testing.T) {
	var r Report
	r.round(guestProxy, record.Record{Kind: record.TCP, Count: 1, Work: 1, Elapsed: 1})
	r.sum()
	if len(r.Steady)+len(r.Results) != 0 {
		t.Errorf("a ratio to nothing: %+v", r.Results)
	}
}

func TestReportSumsUpMovesByNIC(t *testing.T) {
	var r Report
	for _, m := range []Move{
		{NIC: "a", FirstFrame: 100, Ratio: 1, Bare: Bare{Probe: 50, Open: 40, Link: 10}, Stamps: map[string]float64{"opened": 60}},
		{NIC: "b", FirstFrame: 7, Ratio: 7},
		{NIC: "a", FirstFrame: 300, Ratio: 3, Bare: Bare{Probe: 60, Open: 30, Link: 10}, Stamps: map[string]float64{"opened": 80}},
		{NIC: "a", FirstFrame: 200, Ratio: 2, Bare: Bare{Probe: 70, Open: 20, Link: 10}, Stamps: map[string]float64{"opened": 70}},
	} {
		r.move(m)
	}
	r.sum()
	if got := nicsOf(r.Moves); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("NICs %v, want a and b in the order of their first moves", got)
	}
	a := r.Recovery[0]
	if a.FirstFrame.Median != 200 || a.Ratio.Median != 2 || a.Bare.Median != 100 || a.Steps.Open != 30 || a.Stamps["opened"] != 70 {
		t.Errorf("medians of a: %+v", a)
	}
	if !r.Results[0].Over || r.Results[0].Target != recoveryTarget {
		t.Errorf("2 is over 1.5: %+v", r.Results[0])
	}
}

func TestReportIsPrintedAndSaved(t *testing.T) {
	var r Report
	r.sizes(4<<20, 13<<20, 26, 8<<20)
	for _, user := range []float64{3000, 2500, 9000} {
		r.boot(1000, user)
	}
	var b strings.Builder
	r.Render(&b)
	for _, want := range []string{"user's program with its network up 2000 ms", "4 MiB", "over target"} {
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
	if again.Boot != r.Boot || !slices.Equal(again.Results, r.Results) {
		t.Errorf("read back %+v, want %+v", again.Boot, r.Boot)
	}
}

func TestParseHandOver(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       float64
		ok         bool
	}{
		{"init's first line", "umbra: 1.85s umbra devel on Linux 6.1.0-56-amd64, 1 CPU, 205 MiB", 1850, true},
		{"a later line of init is not it", "umbra: 1.99s file systems and devices are ready", 0, false},
		{"nor is a line of the kernel", "[    1.850000] Run /init as init process", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseHandOver(tc.line)
			if got != tc.want || (err == nil) != tc.ok {
				t.Errorf("parseHandOver(%q) = %v, %v; want %v", tc.line, got, err, tc.want)
			}
		})
	}
}

func TestTimelineOf(t *testing.T) {
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
			if got := timelineOf(tc.stamps); got != tc.want {
				t.Errorf("timelineOf(%v) = %q, want %q", tc.stamps, got, tc.want)
			}
		})
	}
}
