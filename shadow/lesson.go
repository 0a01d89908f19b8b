// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"fmt"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// factLessons is the journal's fact with a role's lessons.
const factLessons = "lessons"

// The bounds of a role's lessons: the drivers that it has had last, and what their
// operations take in bytes, so that the journal takes them in one piece.
const (
	lessonsKept = 8
	lessonBytes = 256 << 10
)

// A lesson is what a role knows of a driver that has served it: there is no other way to
// know beforehand what a driver can do.
type lesson struct {
	Driver string `json:"driver"`
	IDs    string `json:"ids"`
	MAC    string `json:"mac,omitempty"` // ctl.MACGiven or MACRefused, empty if it was not asked
	// Ops are the operations in the log, and why each was deferred, empty if it was not.
	Ops map[string]string `json:"ops,omitempty"`
}

// learn takes down what the role's log says of the device that serves it now.
func (m *Manager) learn(r *role, dev drivers.Device) {
	if r.auto {
		return
	}
	l := m.lesson(r, dev)
	m.mu.Lock()
	r.lessons = slices.DeleteFunc(r.lessons, func(o lesson) bool { return o.Driver == l.Driver && o.IDs == l.IDs })
	r.lessons = append(r.lessons, l)
	r.lessons = lastLessons(r.lessons)
	lessons := slices.Clone(r.lessons)
	m.mu.Unlock()
	m.note(r.Name, r.journal.Fact(factLessons, lessons))
}

// lastLessons are those within the bounds, the newest of them.
func lastLessons(lessons []lesson) []lesson {
	size, first := 0, len(lessons)
	for first > 0 && len(lessons)-first < lessonsKept {
		for op, why := range lessons[first-1].Ops {
			size += len(op) + len(why)
		}
		if size > lessonBytes {
			break
		}
		first--
	}
	return lessons[first:]
}

// relearn is learn for a device that has just been given up: what was set since.
func (m *Manager) relearn(r *role, driver string) {
	log := r.shadow.Log()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, l := range r.lessons {
		if l.Driver == driver && l.IDs == r.last.IDs {
			r.lessons[i].Ops = outcomes(log)
		}
	}
}

// lesson is what a device teaches that serves the role.
func (m *Manager) lesson(r *role, dev drivers.Device) lesson {
	var st ctl.RoleStatus
	r.shadow.Status(&st)
	return lessonOf(driverOf(dev), r.class.Identify(dev), st.MAC, r.Class, r.shadow.Log())
}

// lessonOf makes a lesson of a role's log while a device serves it. mac is what the
// proxy has.
func lessonOf(driver string, id Identity, mac, class string, log []ctl.LogEntry) lesson {
	l := lesson{Driver: driver, IDs: id.IDs, Ops: outcomes(log)}
	if id.MAC != "" && mac != "" && !is(id.MAC, mac) {
		l.MAC = ctl.MACGiven
	}
	for _, e := range log {
		if e.Key == class+".mac" && e.Deferred != "" {
			l.MAC = ctl.MACRefused
		}
	}
	return l
}

func outcomes(log []ctl.LogEntry) map[string]string {
	ops := make(map[string]string, len(log))
	for _, e := range log {
		ops[operation(e)] = e.Deferred
	}
	return ops
}

func operation(e ctl.LogEntry) string { return fmt.Sprintf("%s=%s", e.Key, e.Value) }

// recall finds the lesson of a device: of the same model, or else of the first of the
// drivers that claim it, if it is the only one. exact says that it is of the model.
func recall(lessons []lesson, ids string, claim []string) (l lesson, exact bool) {
	for _, l := range slices.Backward(lessons) {
		if is(l.IDs, ids) && slices.Contains(claim, l.Driver) {
			return l, true
		}
	}
	if len(claim) != 1 {
		return lesson{}, false
	}
	for _, l := range slices.Backward(lessons) {
		if l.Driver == claim[0] {
			return l, false
		}
	}
	return lesson{}, false
}

// foresee says what a driver can do with the operations of a log, as far as l tells.
func (l lesson) foresee(log []ctl.LogEntry) (deferred []ctl.Deferred, unknown []string) {
	for _, e := range log {
		op := operation(e)
		why, known := l.Ops[op]
		switch {
		case !known:
			unknown = append(unknown, op)
		case why != "":
			deferred = append(deferred, ctl.Deferred{Op: op, Reason: why})
		}
	}
	return deferred, unknown
}

// published is the span of recoveries in the README's recorded run, in ms.
var published = ctl.Gap{Source: ctl.GapPublished, MinMS: 2000, MaxMS: 4000}

// gapOf is how long what is sent was held in the recoveries of timelines that ended on a
// driver, on a standby or not. Without one it is what is published, of a device, and nil
// of a standby.
func gapOf(timelines []ctl.Timeline, driver string, standby bool) *ctl.Gap {
	g := ctl.Gap{Source: ctl.GapMeasured}
	for _, tl := range timelines {
		released, ok := tl.Since(ctl.StampReleased)
		name, _, _ := strings.Cut(tl.To, " at ")
		switch tl.Cause {
		case CauseBoot, ctl.CauseReload, ctl.CauseUnplug: // not what a move takes
			continue
		}
		if !ok || name != driver || isStandby(tl.To) != standby || isStandby(tl.From) {
			continue
		}
		ms := float64(released.Microseconds()) / 1e3
		if g.Recoveries == 0 {
			g.MinMS = ms
		}
		g.Recoveries++
		g.MinMS, g.MaxMS = min(g.MinMS, ms), max(g.MaxMS, ms)
	}
	switch {
	case g.Recoveries > 0:
		return &g
	case standby:
		return nil
	}
	p := published
	return &p
}
