// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package matrix

import (
	"fmt"
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/image/machine"
)

// connected checks that each pair begins where the last one ended.
func connected(t *testing.T, trail []Pair) {
	t.Helper()
	for i := 1; i < len(trail); i++ {
		if trail[i].From != trail[i-1].To || trail[i].Setup != trail[i-1].Setup {
			t.Errorf("%v cannot follow %v", trail[i], trail[i-1])
		}
	}
}

func TestTrails(t *testing.T) {
	all := Pairs(pc)
	if want := len(Models) * (len(Models) - 1); len(all) != want {
		t.Fatalf("%d pairs, want %d", len(all), want)
	}
	for _, tc := range []struct {
		rule   string
		pairs  []Pair
		trails int // at most
	}{
		{"all pairs of a setup are one trail", all, 1},
		{"setups are not mixed", append(Pairs(pc), Pairs(Setup{machine.Q35, true})...), 2},
		{"what is left after an interruption needs few", all[11:], 12},
		{"no pairs, no trail", nil, 0},
		{"one pair is a trail", all[5:6], 1},
		{"pairs that do not touch are trails of their own", []Pair{
			{Setup: pc, From: "e1000", To: "e1000e"}, {Setup: pc, From: "tulip", To: "pcnet"},
		}, 2},
		{"first moves have a guest each, also those that could follow each other", []Pair{
			{Setup: pc, From: "e1000", To: "tulip", First: true}, {Setup: pc, From: "tulip", To: "pcnet", First: true},
		}, 2},
		{"nor do they follow others", []Pair{there, {Setup: pc, From: "tulip", To: "pcnet", First: true}}, 2},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			trails := Trails(tc.pairs)
			if len(trails) > tc.trails {
				t.Errorf("%d trails, want at most %d", len(trails), tc.trails)
			}
			var got []Pair
			for _, trail := range trails {
				connected(t, trail)
				if len(trail) > 1 && slices.ContainsFunc(trail, func(p Pair) bool { return p.First }) {
					t.Errorf("a first move has company: %v", trail)
				}
				got = append(got, trail...)
			}
			want := slices.Clone(tc.pairs)
			slices.SortFunc(want, comparePairs)
			slices.SortFunc(got, comparePairs)
			if !slices.Equal(got, want) {
				t.Errorf("trails hold %d pairs, want the %d given, each once", len(got), len(want))
			}
		})
	}
}

func TestFirstMovesLeaveAndReachEveryNIC(t *testing.T) {
	moves := FirstMoves()
	once(t, "first moves", moves)
	setups := make(map[Setup]bool)
	for _, p := range moves {
		setups[p.Setup] = true
		if !p.First || p.From == p.To {
			t.Errorf("%v is no first move from one NIC to another", p)
		}
	}
	if len(setups) != len(Setups) {
		t.Errorf("%d of %d setups have a first move", len(setups), len(Setups))
	}
}

// once checks that moves leave and reach every NIC once.
func once(t *testing.T, what string, moves []Pair) {
	t.Helper()
	from, to := make(map[string]int), make(map[string]int)
	for _, p := range moves {
		from[p.From]++
		to[p.To]++
	}
	for _, m := range Models {
		if from[m.Device] != 1 || to[m.Device] != 1 {
			t.Errorf("%s leave %s %d times and reach it %d times, want once each", what, m.Device, from[m.Device], to[m.Device])
		}
	}
}

func TestSampleLeavesAndReachesEveryNIC(t *testing.T) {
	seen := make(map[Setup]bool)
	for n := range 60 {
		trail := Sample(n)
		connected(t, trail)
		once(t, fmt.Sprintf("moves of sample %d", n), trail)
		seen[trail[0].Setup] = true
	}
	if len(seen) != len(Setups) {
		t.Errorf("%d of %d setups sampled", len(seen), len(Setups))
	}
}
