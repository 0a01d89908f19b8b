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
		Roles:   p.supervisor.Roles(),
		FDs:     p.fds.Names(),
		Orphans: p.reaper.Adopted(),
		Faults:  p.faults,
	}
	maps.DeleteFunc(st.Roles, func(role string, _ bool) bool { return strings.HasSuffix(role, recorded) })
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

// lines returns the last lines of a program, or of everything: a quarter of
// what fits into a reply, for JSON may need several bytes for one.
func (p *pid1) lines(name string) []string {
	return p.ring.Tail(notify.MaxReply/4, func(line string) bool {
		return name == "" || strings.HasPrefix(line, name+": ")
	})
}
