// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/init/internal/cgroup"
)

// Status is what is known of one program.
type Status struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since"` // of the present state, if running or ended
	Starts   int       `json:"starts"`
	Series   int       `json:"series"` // ends in quick succession
	LastExit string    `json:"last_exit,omitempty"`
}

// A Supervisor keeps programs running.
type Supervisor struct {
	reaper *Reaper
	output Output
	files  FileKeeper
	groups *cgroup.Tree
	env    []string
	log    *slog.Logger

	mu       sync.Mutex
	services []*service
	up       map[string]bool
	changed  chan struct{} // closed and replaced when up changes
	stopping bool
}

// Config is what a Supervisor needs from its surroundings. Files may be nil, and Groups
// if no Spec has limits.
type Config struct {
	Reaper *Reaper
	Output Output
	Files  FileKeeper
	Groups *cgroup.Tree
	Env    []string // of every program
	Logger *slog.Logger
}

// New returns a Supervisor without programs.
func New(c Config) *Supervisor {
	return &Supervisor{
		reaper: c.Reaper, output: c.Output, files: c.Files, groups: c.Groups, env: c.Env, log: c.Logger,
		up: make(map[string]bool), changed: make(chan struct{}),
	}
}

// Add begins to look after a program. It does nothing once Stop was called.
func (s *Supervisor) Add(spec Spec) {
	svc := &service{
		spec: spec, sup: s,
		log:    s.log.With("service", spec.Name),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		status: Status{Name: spec.Name, State: Waiting},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	s.services = append(s.services, svc)
	go svc.run()
}

// SetRole notes that the network of a role, or whatever else a Spec needs by the name and
// no other provides, came up or went down. Programs that wait for it are started; none is stopped, for a
// network that is down is what the shadow keeps from them.
func (s *Supervisor) SetRole(role string, up bool) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up[role] == up {
		return false
	}
	s.up[role] = up
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// Up returns which roles' networks are up, by name, and what else is needed and provided.
func (s *Supervisor) Up() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.up)
}

// missing returns the needs that are not up, and a channel that is closed when
// that may have changed.
func (s *Supervisor) missing(needs []string) ([]string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Missing(needs, s.up), s.changed
}

// Status returns the status of every program, in the order they were added.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	services := slices.Clone(s.services)
	s.mu.Unlock()
	all := make([]Status, len(services))
	for i, svc := range services {
		svc.set(func(st *Status) { all[i] = *st })
	}
	return all
}

// Stop stops every program in the order of [StopOrder], each stage when the
// one before is done. Every program has its own limit, and Stop returns when
// the last has ended or was given up.
func (s *Supervisor) Stop() {
	s.mu.Lock()
	s.stopping = true
	byName := make(map[string]*service)
	var specs []Spec
	for _, svc := range s.services {
		byName[svc.spec.Name] = svc
		specs = append(specs, svc.spec)
	}
	s.mu.Unlock()
	for _, stage := range StopOrder(specs) {
		for _, name := range stage {
			byName[name].askStop()
		}
		for _, name := range stage {
			svc := byName[name]
			// The goroutine bounds its own work; the limit here is for
			// a goroutine that does not get to it.
			if !awaitClosed(svc.done, svc.spec.StopTimeout+2*killLimit) {
				svc.log.Error("could not be stopped", "limit", svc.spec.StopTimeout+2*killLimit)
			}
		}
	}
}

// DefaultStopTimeout is how long a program has from SIGTERM to its end unless
// its Spec says otherwise.
const DefaultStopTimeout = 5 * time.Second
