// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package console is what a person sees of the guest: short lines on the
// console device.
//
// Lines go through one bounded queue, so that a console nobody reads, or a
// slow serial line, delays whoever may wait (a service that floods it) and
// never whoever must not (PID 1). It must never know what the lines mean.
package console

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// queueLines bounds how many lines wait for the console.
const queueLines = 512

// A Console prints lines to a device. It is safe for concurrent use.
type Console struct {
	out     io.Writer
	queue   chan item
	dropped atomic.Int64
}

// item is a line, or a request to say that all lines before it are out.
type item struct {
	line    string
	flushed chan<- struct{}
}

// New returns a Console that prints to out. [Console.Run] must be running for
// lines to appear.
func New(out io.Writer) *Console {
	return &Console{out: out, queue: make(chan item, queueLines)}
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
	select {
	case c.queue <- item{line: line}:
	default:
		c.dropped.Add(1)
	}
}

// PrintWait queues a line, waiting for room.
func (c *Console) PrintWait(line string) { c.queue <- item{line: line} }

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
