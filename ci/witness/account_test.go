// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	const w = windowBits
	for _, tc := range []struct {
		name                          string
		seqs                          []uint64
		sent                          uint64
		unique, dup, reordered, stale uint64
		absent                        []Range
	}{
		{name: "nothing received, all missing", sent: 3, absent: []Range{{0, 2}}},
		{name: "in order", seqs: []uint64{0, 1, 2}, sent: 3, unique: 3},
		{name: "a hole is missing", seqs: []uint64{0, 3}, sent: 4, unique: 2, absent: []Range{{1, 2}}},
		{name: "the tail is missing", seqs: []uint64{0}, sent: 3, unique: 1, absent: []Range{{1, 2}}},
		{name: "late is reordered, not missing", seqs: []uint64{0, 2, 1}, sent: 3, unique: 3, reordered: 1},
		{name: "twice is duplicated", seqs: []uint64{0, 1, 1, 0}, sent: 2, unique: 2, dup: 2},
		{name: "below the window is stale and stays missing",
			seqs: []uint64{0, w, 0, w + 1, 1}, sent: w + 2, unique: 3, stale: 2,
			absent: []Range{{1, w - 1}}},
		{name: "a jump over the whole window", seqs: []uint64{0, 3 * w}, sent: 3*w + 1, unique: 2,
			absent: []Range{{1, 3*w - 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var win window
			for _, s := range tc.seqs {
				win.add(s)
			}
			if win.unique != tc.unique || win.duplicated != tc.dup || win.reordered != tc.reordered || win.stale != tc.stale {
				t.Errorf("unique %d, duplicated %d, reordered %d, stale %d; want %d, %d, %d, %d",
					win.unique, win.duplicated, win.reordered, win.stale, tc.unique, tc.dup, tc.reordered, tc.stale)
			}
			if got := win.absent(tc.sent); !slices.Equal(got, tc.absent) {
				t.Errorf("absent %v, want %v", got, tc.absent)
			}
		})
	}
}

// TestWindowAgreesWithASet compares the window with the obvious unbounded
// implementation over random losses, repetitions and delays within its reach.
func TestWindowAgreesWithASet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var w window
	seen := make(map[uint64]bool)
	var dup uint64
	const n = 3 * windowBits
	for s := uint64(0); s < n; s++ {
		for range rng.IntN(3) { // 0, 1 or 2 times
			at := s - min(s, rng.Uint64N(1000))
			if seen[at] {
				dup++
			}
			seen[at] = true
			w.add(at)
		}
	}
	if w.unique != uint64(len(seen)) || w.duplicated != dup || w.stale != 0 {
		t.Errorf("unique %d, duplicated %d, stale %d; want %d, %d, 0", w.unique, w.duplicated, w.stale, len(seen), dup)
	}
	if len(w.absent(n)) > maxRanges {
		t.Errorf("%d ranges remembered, want at most %d", len(w.absent(n)), maxRanges)
	}
}

func TestGaps(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	arrivals := []int{0, 10, 20, 500, 510, 520, 1520, 1530}
	var l gapLog
	for _, ms := range arrivals {
		l.mark(at(ms))
	}
	for _, tc := range []struct {
		name          string
		from, to, now int
		want          Gap
	}{
		{"the longest pause of all", 0, 1530, 1530, Gap{at(520), at(1520)}},
		{"only pauses that overlap the question count", 0, 515, 1530, Gap{at(20), at(500)}},
		{"a pause that began before the question counts whole", 300, 400, 1530, Gap{at(20), at(500)}},
		{"a steady stream has none", 501, 519, 1530, Gap{}},
		{"a pause that still lasts ends now", 1525, 9000, 9000, Gap{at(1530), at(9000)}},
		{"a pause below the resolution is none", 1525, 1545, 1545, Gap{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := l.longest(at(tc.from), at(tc.to), at(tc.now)); got != tc.want {
				t.Errorf("longest = %v to %v, want %v to %v", got.From.Sub(t0), got.To.Sub(t0), tc.want.From.Sub(t0), tc.want.To.Sub(t0))
			}
		})
	}
	for _, tc := range []struct {
		name  string
		t     int
		want  int
		found bool
	}{
		{"before everything: the first arrival", -5, 0, true},
		{"inside a pause: its end", 21, 500, true},
		{"at the start of a pause: its end", 20, 500, true},
		{"in the steady stream: within the resolution", 501, 521, true},
		{"near the end: the last arrival", 1521, 1530, true},
		{"after everything: none", 1530, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := l.after(at(tc.t))
			if ok != tc.found || ok && got != at(tc.want) {
				t.Errorf("after = %v, %v, want %d ms, %v", got.Sub(t0), ok, tc.want, tc.found)
			}
		})
	}
}

func TestGapsAreBoundedAndKeepTheNewest(t *testing.T) {
	var l gapLog
	t0 := time.Unix(1000, 0)
	for i := range maxGaps + 500 {
		l.mark(t0.Add(time.Duration(i) * time.Second))
	}
	if len(l.gaps) != maxGaps {
		t.Errorf("%d gaps kept, want %d", len(l.gaps), maxGaps)
	}
	last := t0.Add(time.Duration(maxGaps+499) * time.Second)
	if g := l.longest(last.Add(-time.Millisecond), last, last); g.Duration() != time.Second {
		t.Errorf("newest gap is %v", g.Duration())
	}
	if g := l.longest(t0, t0.Add(time.Second/2), last); g != (Gap{}) {
		t.Errorf("the oldest gap is still there: %v", g)
	}
}
