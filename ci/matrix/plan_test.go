// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package matrix

import (
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
		{"pairs that do not touch are trails of their own", []Pair{{pc, "e1000", "e1000e"}, {pc, "tulip", "pcnet"}}, 2},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			trails := Trails(tc.pairs)
			if len(trails) > tc.trails {
				t.Errorf("%d trails, want at most %d", len(trails), tc.trails)
			}
			var got []Pair
			for _, trail := range trails {
				connected(t, trail)
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

func TestSampleLeavesAndReachesEveryNIC(t *testing.T) {
	seen := make(map[Setup]bool)
	for n := range 60 {
		trail := Sample(n)
		connected(t, trail)
		from, to := make(map[string]int), make(map[string]int)
		for _, p := range trail {
			from[p.From]++
			to[p.To]++
			seen[p.Setup] = true
		}
		for _, m := range Models {
			if from[m.Device] != 1 || to[m.Device] != 1 {
				t.Errorf("sample %d leaves %s %d times and reaches it %d times, want once each", n, m.Device, from[m.Device], to[m.Device])
			}
		}
	}
	if len(seen) != len(Setups) {
		t.Errorf("%d of %d setups sampled", len(seen), len(Setups))
	}
}
