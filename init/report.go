// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"maps"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/notify"
)

// report returns the status for the control socket.
func (p *pid1) report() *notify.Status {
	st := &notify.Status{
		Uptime:  boot.Uptime(),
		Roles:   p.supervisor.Up(),
		FDs:     p.fds.Names(),
		Orphans: p.reaper.Adopted(),
		Faults:  p.faults,
	}
	maps.DeleteFunc(st.Roles, func(role string, _ bool) bool { return strings.Contains(role, "/") })
	for _, s := range p.supervisor.Status() {
		svc := notify.Service{
			Name: s.Name, State: string(s.State), PID: s.PID, Starts: s.Starts, LastExit: s.LastExit,
		}
		if !s.Since.IsZero() {
			svc.For = time.Since(s.Since)
		}
		st.Services = append(st.Services, svc)
	}
	return st
}

// followers bounds for how many clients PID 1 waits for a line at once: each takes a
// connection of the control socket.
const followers = 8

// linesBytes of the book fit into a reply: JSON may need six bytes for one.
const linesBytes = notify.MaxReply / 8

// lines answers a request for lines.
func (p *pid1) lines(req notify.Request) notify.Reply {
	var patience time.Duration
	if req.Wait && p.following.Add(1) <= followers {
		patience = notify.LogsWait
	}
	if req.Wait {
		defer p.following.Add(-1)
	}
	r := notify.Reply{OK: true, Last: p.book.Last()}
	for _, l := range p.book.Follow(req.Name, req.After, linesBytes, patience) {
		r.Lines = append(r.Lines, notify.Line{N: l.N, At: l.At, From: l.Source, Text: l.Text})
	}
	return r
}
