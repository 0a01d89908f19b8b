// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package state is what the status page shows: what the agent says of itself and,
// on PID 1's behalf, of the guest's programs.
//
// It knows the agent's protocol. It must never know how the state is shown, and the
// agent does not depend on it: one that dies or hangs costs an answer, and no more.
package state

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// A State is what was known at one time.
type State struct {
	At        time.Time
	Status    ctl.Status
	Timelines []ctl.Timeline // oldest first
	Log       []ctl.LogEntry
	Services  []ctl.Service
	// Tails are the last lines of each program, oldest first, at most [TailLines].
	Tails map[string][]ctl.Line
}

// TailLines is how many of a program's lines are kept.
const TailLines = 20

// The agent is asked at most once in fresh, however many read, and has patience to answer.
const (
	fresh    = time.Second
	patience = 3 * time.Second
)

// maxBatches bounds how often one reading asks for lines; the next one goes on.
const maxBatches = 64

// A Reader reads the state from an agent. It is safe for concurrent use.
type Reader struct {
	path string // of the agent's socket

	mu    sync.Mutex
	next  time.Time // when to ask again
	state *State
	err   error
	tails map[string][]ctl.Line
	last  uint64 // number of the last line in tails
}

// NewReader returns a Reader of the agent that listens on the unix socket at path.
func NewReader(path string) *Reader {
	return &Reader{path: path, tails: make(map[string][]ctl.Line)}
}

// Read returns the state, up to a second old, or why there is none. What it returns is
// not to be changed.
func (r *Reader) Read(ctx context.Context) (*State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.next) {
		return r.state, r.err
	}
	// Others wait for this reading too, whatever becomes of who began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	r.state, r.err = r.ask(ctx)
	r.next = time.Now().Add(fresh)
	return r.state, r.err
}

// ask speaks with the agent that is there now.
func (r *Reader) ask(ctx context.Context) (*State, error) {
	c, err := ctl.Dial(ctx, r.path, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s := &State{At: time.Now()}
	for _, q := range []struct {
		cmd string
		out any
	}{{ctl.CmdStatus, &s.Status}, {ctl.CmdTimeline, &s.Timelines}, {ctl.CmdLog, &s.Log}, {ctl.CmdServices, &s.Services}} {
		if err := c.Call(ctx, q.cmd, nil, q.out); err != nil {
			return nil, fmt.Errorf("asking the agent: %w", err)
		}
	}
	if err := r.readLines(ctx, c); err != nil {
		return nil, fmt.Errorf("asking the agent: %w", err)
	}
	s.Tails = make(map[string][]ctl.Line, len(r.tails))
	for name, tail := range r.tails {
		s.Tails[name] = slices.Clone(tail)
	}
	return s, nil
}

// readLines reads the lines that came since the last reading.
func (r *Reader) readLines(ctx context.Context, c *ctl.Client) error {
	for range maxBatches {
		var logs ctl.Logs
		if err := c.Call(ctx, ctl.CmdLogs, ctl.LogsArgs{After: r.last}, &logs); err != nil {
			return err
		}
		for _, l := range logs.Lines {
			tail := append(r.tails[l.From], l)
			r.tails[l.From] = tail[max(0, len(tail)-TailLines):]
			r.last = l.N
		}
		if len(logs.Lines) == 0 || r.last >= logs.Last {
			return nil
		}
	}
	return nil
}
