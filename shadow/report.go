// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// ErrNoRole says that a command named a role that does not exist.
var ErrNoRole = errors.New("no such role")

// Roles reports the state of every configured role, and of every device that
// has a shadow of its own, in that order.
func (m *Manager) Roles() []ctl.RoleStatus {
	offset := clock(unix.CLOCK_BOOTTIME) - Now()
	var out []ctl.RoleStatus
	for _, r := range m.all() {
		m.mu.Lock()
		st := ctl.RoleStatus{
			Name: r.Name, Class: r.Class, Mode: ctl.ModeActive,
			Device: r.dev.Address, Driver: driverOf(r.dev),
			Standby: r.standby.Address, OnStandby: r.carried,
			Since: r.since + offset, Message: r.message,
		}
		if r.passive || r.carried {
			st.Mode = ctl.ModePassive
		}
		if r.vacant() {
			st.Device = ""
		}
		m.mu.Unlock()
		r.shadow.Status(&st)
		out = append(out, st)
	}
	return out
}

// Recoveries counts the recoveries that ended in passive mode since the
// Manager started, boot not counted.
func (m *Manager) Recoveries() int {
	n := 0
	for _, tl := range m.timelines(nil) {
		if _, done := tl.Stamp(ctl.StampPassive); done && tl.Cause != CauseBoot {
			n++
		}
	}
	return n
}

// Timelines returns the timelines of a role, of every role if name is empty,
// oldest first; the last may be of a recovery still under way.
func (m *Manager) Timelines(name string) ([]ctl.Timeline, error) {
	if name == "" {
		return m.timelines(nil), nil
	}
	r, err := m.role(name)
	if err != nil {
		return nil, err
	}
	return m.timelines(r), nil
}

func (m *Manager) timelines(of *role) (out []ctl.Timeline) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		if of != nil && r != of {
			continue
		}
		out = append(out, r.done...)
		if r.rec != nil {
			out = append(out, r.rec.Timeline())
		}
	}
	slices.SortStableFunc(out, func(a, b ctl.Timeline) int { return cmp.Compare(a.Started, b.Started) })
	return out
}

// Log returns the log of a role, of every role if name is empty.
func (m *Manager) Log(name string) ([]ctl.LogEntry, error) {
	if name != "" {
		r, err := m.role(name)
		if err != nil {
			return nil, err
		}
		return r.shadow.Log(), nil
	}
	var out []ctl.LogEntry
	for _, r := range m.all() {
		out = append(out, r.shadow.Log()...)
	}
	return out, nil
}

// HasRole returns an error that wraps ErrNoRole if name is no role.
func (m *Manager) HasRole(name string) error {
	_, err := m.role(name)
	return err
}

func (m *Manager) role(name string) (*role, error) {
	for _, r := range m.all() {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoRole, name)
}
