// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package console is what a person sees of the guest: short lines on the
// console device, and a ring that remembers the last of them.
//
// Lines go through one bounded queue, so that a console nobody reads, or a
// slow serial line, delays whoever may wait (a service that floods it) and
// never whoever must not (PID 1). It must never know what the lines mean.
package console

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// queueLines bounds how many lines wait for the console.
const queueLines = 512

// A Console prints lines to a device. It is safe for concurrent use.
type Console struct {
	out     io.Writer
	ring    *Ring
	queue   chan item
	dropped atomic.Int64
}

// item is a line, or a request to say that all lines before it are out.
type item struct {
	line    string
	flushed chan<- struct{}
}

// New returns a Console that prints to out and records into ring. [Console.Run]
// must be running for lines to appear.
func New(out io.Writer, ring *Ring) *Console {
	return &Console{out: out, ring: ring, queue: make(chan item, queueLines)}
}

// Run prints queued lines. It never returns and is to run on a goroutine of
// its own.
func (c *Console) Run() {
	for it := range c.queue {
		c.print(it)
	}
}

func (c *Console) print(it item) {
	if it.flushed != nil {
		close(it.flushed)
		return
	}
	if n := c.dropped.Swap(0); n > 0 {
		_, _ = fmt.Fprintf(c.out, "umbra: %d lines were not printed, the console is too slow\n", n)
	}
	_, _ = io.WriteString(c.out, it.line+"\n")
}

// Print queues a line, and drops and counts it when the queue is full: it
// never waits.
func (c *Console) Print(line string) {
	c.ring.Add(line)
	select {
	case c.queue <- item{line: line}:
	default:
		c.dropped.Add(1)
	}
}

// PrintWait queues a line, waiting for room.
func (c *Console) PrintWait(line string) {
	c.ring.Add(line)
	c.queue <- item{line: line}
}

// Flush waits until every line queued so far is out, or the time is over.
func (c *Console) Flush(limit time.Duration) {
	done := make(chan struct{})
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case c.queue <- item{flushed: done}:
	case <-timeout.C:
		return
	}
	select {
	case <-done:
	case <-timeout.C:
	}
}

// Ring remembers the newest lines, at most a given number of bytes of them.
type Ring struct {
	mu    sync.Mutex
	limit int
	size  int
	lines []string
}

// NewRing returns a Ring for at most limit bytes.
func NewRing(limit int) *Ring { return &Ring{limit: limit} }

// Add appends a line and forgets the oldest ones beyond the limit.
func (r *Ring) Add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	r.size += len(line)
	drop := 0
	for r.size > r.limit && drop < len(r.lines) {
		r.size -= len(r.lines[drop])
		drop++
	}
	r.lines = r.lines[drop:]
}

// Tail returns the newest lines for which keep is true, oldest first, at most
// limit bytes of them.
func (r *Ring) Tail(limit int, keep func(line string) bool) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n, size int
	picked := make([]string, len(r.lines))
	for i := len(r.lines) - 1; i >= 0; i-- {
		if !keep(r.lines[i]) {
			continue
		}
		if size += len(r.lines[i]); size > limit {
			break
		}
		n++
		picked[len(picked)-n] = r.lines[i]
	}
	return picked[len(picked)-n:]
}
