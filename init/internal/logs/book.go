// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package logs remembers the last lines that each program of the guest printed.
//
// Every program has a ring of its own, so that one that floods its log costs no
// other a line, and every ring has a bound in bytes. It must never know what a
// line means, nor where else it goes.
package logs

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// DefaultBytes is the bound of a ring that was not given one.
const DefaultBytes = 64 << 10

// lineBytes is what a line takes beside its text: an empty one is not for nothing.
const lineBytes = 64

// Line is one line of a program.
type Line struct {
	N      uint64 // counts the lines of all programs together, from 1, without gaps
	At     time.Time
	Source string // the program's name
	Text   string
}

func (l Line) cost() int { return len(l.Text) + lineBytes }

// A Book has the rings of all programs. The zero value is ready to use, and safe for
// concurrent use.
type Book struct {
	mu    sync.Mutex
	rings map[string]*ring
	last  uint64
	added chan struct{} // closed with the next line; nil while nobody waits
}

// ring has the newest lines of one program, oldest first.
type ring struct {
	limit, size int
	lines       []Line
}

// Last returns the number of the newest line, 0 if there was none.
func (b *Book) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// Limit sets the bound of a program's ring, in bytes.
func (b *Book) Limit(source string, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.ring(source)
	r.limit = bytes
	r.trim()
}

// Add appends a line and forgets the program's oldest beyond its bound.
func (b *Book) Add(source, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	r := b.ring(source)
	l := Line{N: b.last, At: time.Now(), Source: source, Text: text}
	r.lines = append(r.lines, l)
	r.size += l.cost()
	r.trim()
	if b.added != nil {
		close(b.added)
		b.added = nil
	}
}

func (b *Book) ring(source string) *ring {
	r := b.rings[source]
	if r == nil {
		if b.rings == nil {
			b.rings = make(map[string]*ring)
		}
		r = &ring{limit: DefaultBytes}
		b.rings[source] = r
	}
	return r
}

func (r *ring) trim() {
	drop := 0
	for r.size > r.limit && drop < len(r.lines) {
		r.size -= r.lines[drop].cost()
		drop++
	}
	r.lines = r.lines[drop:]
}

// After returns the oldest lines with a number above n of a program, or of all if source
// is empty, at most limit bytes of them, a line counted as its ring counts it. Whoever
// reads those of all programs sees by a number that is missing that a line was forgotten
// before it was read.
func (b *Book) After(source string, n uint64, limit int) []Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []Line
	for name, r := range b.rings {
		if source != "" && source != name {
			continue
		}
		i, _ := slices.BinarySearchFunc(r.lines, n+1, func(l Line, n uint64) int { return cmp.Compare(l.N, n) })
		lines = append(lines, r.lines[i:]...)
	}
	slices.SortFunc(lines, func(x, y Line) int { return cmp.Compare(x.N, y.N) })
	size := 0
	for i, l := range lines {
		if size += l.cost(); size > limit {
			return lines[:i]
		}
	}
	return lines
}

// Follow is [Book.After], but waits for a line if there is none, at most for patience.
func (b *Book) Follow(source string, n uint64, limit int, patience time.Duration) []Line {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		added := b.await()
		if lines := b.After(source, n, limit); len(lines) > 0 {
			return lines
		}
		select {
		case <-added:
		case <-timeout.C:
			return nil
		}
	}
}

// await returns a channel that is closed with the next line.
func (b *Book) await() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.added == nil {
		b.added = make(chan struct{})
	}
	return b.added
}
