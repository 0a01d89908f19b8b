// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

func TestCrowdIsComparedWithTheLongestAloneAndTheMean(t *testing.T) {
	c := &Crowd{Roles: 2, Alone: []Alone{{Took: 100}, {Took: 200}}}
	c.compare([]float64{260, 240, 900})
	if c.Ratio != 1.2 || c.Mean != 1.6 {
		t.Errorf("ratios %v and %v, want 1.2 and 1.6", c.Ratio, c.Mean)
	}
	r := Report{Crowd: c, Detection: []Detection{{Way: "w", Target: 20}}}
	r.Detection[0].Took.Median, r.Detection[0].Took.Max = 5, 21
	r.sum()
	var over []bool
	for _, x := range r.Results {
		over = append(over, x.Missed)
	}
	if d := cmp.Diff([]bool{false, true}, over); d != "" {
		t.Errorf("over target (-want +got):\n%s%+v", d, r.Results)
	}
}

func TestSpan(t *testing.T) {
	tl := func(detected, passive int64) ctl.Timeline {
		return ctl.Timeline{Stamps: []ctl.Stamp{
			{Name: ctl.StampResumed, At: 1}, {Name: ctl.StampDetected, At: detected},
			{Name: ctl.StampPassive, At: passive}, {Name: ctl.StampUnloaded, At: passive + 9e6},
		}}
	}
	tls := []ctl.Timeline{tl(30e6, 70e6), tl(20e6, 50e6), tl(40e6, 90e6)}
	began, ended := span(tls)
	if began != 20*time.Millisecond || ended != 90*time.Millisecond {
		t.Errorf("from %v to %v, want from the first detected to the last passive", began, ended)
	}
	want := map[string]float64{ctl.StampDetected: 10, ctl.StampPassive: 50}
	if d := cmp.Diff(want, since(tls[0], began)); d != "" {
		t.Errorf("without the host's clock, and what comes afterwards (-want +got):\n%s", d)
	}
}
