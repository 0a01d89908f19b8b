// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"sync"
	"time"
)

const (
	// Resolution is the shortest pause that is remembered. Twice the default
	// distance of records: below it a pause is only the pacing.
	Resolution = 20 * time.Millisecond

	maxGaps = 1 << 14 // 16 Ki gaps of at least 20 ms: more than five minutes of nothing but gaps
)

// A Gap is a pause between two arrivals.
type Gap struct {
	From time.Time `json:"from"` // the last arrival before it
	To   time.Time `json:"to"`   // the first arrival after it; now, if it is still open
}

// Duration is the length of the gap.
func (g Gap) Duration() time.Duration { return g.To.Sub(g.From) }

// gapLog remembers the pauses between arrivals in bounded memory: while things
// flow it stores nothing.
type gapLog struct {
	mu    sync.Mutex
	first time.Time
	last  time.Time
	gaps  []Gap // ring, oldest at head once it is full
	head  int
	max   time.Duration
}

func (l *gapLog) mark(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first.IsZero() {
		l.first = t
	} else if d := t.Sub(l.last); d >= Resolution {
		g := Gap{l.last, t}
		if len(l.gaps) < maxGaps {
			l.gaps = append(l.gaps, g)
		} else {
			l.gaps[l.head] = g
			l.head = (l.head + 1) % maxGaps
		}
		l.max = max(l.max, d)
	}
	l.last = t
}

// longest returns the longest gap that overlaps [from, to], an open one
// included; the zero Gap if there was no pause of Resolution or more.
func (l *gapLog) longest(from, to, now time.Time) Gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	var worst Gap
	consider := func(g Gap) {
		if g.To.After(from) && g.From.Before(to) && g.Duration() > worst.Duration() {
			worst = g
		}
	}
	for _, g := range l.gaps {
		consider(g)
	}
	if open := (Gap{l.last, now}); !l.last.IsZero() && open.Duration() >= Resolution {
		consider(open)
	}
	return worst
}

// after returns the first arrival after t, exact if a pause was on at t and
// else at most Resolution late; false if nothing has arrived since.
func (l *gapLog) after(t time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.last.IsZero() || !l.last.After(t):
		return time.Time{}, false
	case t.Before(l.first):
		return l.first, true
	}
	for _, g := range l.gaps {
		if !t.Before(g.From) && t.Before(g.To) {
			return g.To, true
		}
	}
	if next := t.Add(Resolution); next.Before(l.last) {
		return next, true
	}
	return l.last, true
}

func (l *gapLog) stats() (last time.Time, longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.max
}
