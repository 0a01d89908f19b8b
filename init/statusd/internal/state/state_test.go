// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package state_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/init/statusd/internal/state"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// agent is one whose programs have printed lines.
type agent struct {
	mu    sync.Mutex
	lines []ctl.Line
	asked map[string]int
	fails error
}

func (a *agent) print(from string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range n {
		l := uint64(len(a.lines) + 1)
		a.lines = append(a.lines, ctl.Line{N: l, From: from, Text: fmt.Sprint(from, " ", l)})
	}
}

// batch is how many lines the agent sends at once.
const batch = 7

func (a *agent) serve(t *testing.T) (path string) {
	t.Helper()
	a.asked = make(map[string]int)
	answer := func(cmd string, data func(ctl.LogsArgs) any) ctl.Handler {
		return ctl.Handle(func(_ context.Context, args ctl.LogsArgs) (any, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.asked[cmd]++
			return data(args), a.fails
		})
	}
	handlers := map[string]ctl.Handler{
		ctl.CmdStatus:   answer(ctl.CmdStatus, func(ctl.LogsArgs) any { return ctl.Status{Hostname: "guest"} }),
		ctl.CmdTimeline: answer(ctl.CmdTimeline, func(ctl.LogsArgs) any { return []ctl.Timeline{{Role: "net0"}} }),
		ctl.CmdLog:      answer(ctl.CmdLog, func(ctl.LogsArgs) any { return []ctl.LogEntry{{Key: "net.mtu"}} }),
		ctl.CmdServices: answer(ctl.CmdServices, func(ctl.LogsArgs) any { return []ctl.Service{{Name: "app"}} }),
		ctl.CmdLogs: answer(ctl.CmdLogs, func(args ctl.LogsArgs) any {
			rest := a.lines[min(int(args.After), len(a.lines)):]
			return ctl.Logs{Lines: rest[:min(batch, len(rest))], Last: uint64(len(a.lines))}
		}),
	}
	path = filepath.Join(t.TempDir(), "look.sock")
	l, err := ctl.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := ctl.NewServer(handlers, nil).Serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

func read(t *testing.T, r *state.Reader) *state.State {
	t.Helper()
	s, err := r.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTailsAreTheLastLinesOfEachProgram(t *testing.T) {
	a := new(agent)
	path := a.serve(t)
	a.print("quiet", 2)
	a.print("loud", 5*state.TailLines)
	s := read(t, state.NewReader(path))
	if s.Status.Hostname != "guest" || len(s.Timelines) != 1 || len(s.Log) != 1 || len(s.Services) != 1 {
		t.Errorf("state %+v", s)
	}
	if got := s.Tails["quiet"]; len(got) != 2 || got[1].N != 2 {
		t.Errorf("lines of the quiet program: %v", got)
	}
	if got := s.Tails["loud"]; len(got) != state.TailLines || got[len(got)-1].N != uint64(len(a.lines)) {
		t.Errorf("lines of the loud program: %v", got)
	}
}

func TestReadersShareAnAnswer(t *testing.T) {
	a := new(agent)
	r := state.NewReader(a.serve(t))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { read(t, r) })
	}
	wg.Wait()
	// A machine may be so slow that an answer is old before the last has read it.
	if n := a.asked[ctl.CmdStatus]; n == 0 || n == 20 {
		t.Errorf("20 readers asked the agent %d times", n)
	}
}

// An agent that is not there is looked for again; nothing is kept of a failure, and
// no line is told twice.
func TestAgentsComeAndGo(t *testing.T) {
	if _, err := state.NewReader("/nonexistent/look.sock").Read(t.Context()); !isDial(err) {
		t.Errorf("without an agent: %v", err)
	}
	a := new(agent)
	r := state.NewReader(a.serve(t))
	a.print("app", 3)
	first := read(t, r)
	a.fails = errors.New("no role")
	again := func() (*state.State, error) { // when an answer is too old
		time.Sleep(1100 * time.Millisecond)
		return r.Read(t.Context())
	}
	var remote *ctl.RemoteError
	if s, err := again(); s != nil || !errors.As(err, &remote) {
		t.Errorf("of an agent that fails: state %v, %v", s, err)
	}
	a.fails = nil
	a.print("app", 1)
	s, err := again()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Tails["app"]; len(first.Tails["app"]) != 3 || len(got) != 4 || got[3].N != 4 {
		t.Errorf("lines %v, before %v", got, first.Tails["app"])
	}
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
