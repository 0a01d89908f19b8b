// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"context"
	"slices"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// seat describes the role to Assign.
func (m *Manager) seat(r *role) Seat {
	s := Seat{Role: r.Role}
	if _, ok := r.stander(); !ok {
		s.Role.Standby.Pair = PairNone
	}
	m.mu.Lock()
	dev, standby := r.dev, r.standby
	s.Last = r.last
	m.mu.Unlock()
	if dev.Address != "" {
		s.Device = r.class.Identify(dev)
	}
	if standby.Address != "" {
		s.Standby = r.class.Identify(standby)
	}
	var st ctl.RoleStatus
	r.shadow.Status(&st)
	s.MAC = st.MAC
	return s
}

// assign gives free devices to the roles that want one, class by class, and returns those
// that are to stand by.
func (m *Manager) assign(ctx context.Context, sig Signal, frees []*free) map[*role]drivers.Device {
	standbys := make(map[*role]drivers.Device)
	for _, class := range append([]Class{m.opt.Generic}, m.opt.Classes...) {
		if class == nil {
			continue
		}
		var (
			seats []Seat
			rs    = make(map[string]*role)
			ids   []Identity
			of    []*free
		)
		for _, f := range frees {
			if f.class == class && !f.taken {
				ids = append(ids, class.Identify(f.dev))
				of = append(of, f)
			}
		}
		if len(ids) == 0 {
			continue
		}
		for _, r := range m.rolesOf(class) {
			seats = append(seats, m.seat(r))
			rs[r.Name] = r
		}
		as := Assign(seats, ids)
		for name, i := range as.Device {
			of[i].taken = true
			m.endAuto(of[i].dev)
			m.seatOn(ctx, rs[name], of[i].dev, sig)
		}
		for name, i := range as.Standby {
			of[i].taken = true
			m.endAuto(of[i].dev)
			standbys[rs[name]] = of[i].dev
		}
	}
	return standbys
}

// rolesOf returns the roles of a class that may be given a device: one that was made for
// a device only if it has lost that.
func (m *Manager) rolesOf(class Class) (out []*role) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		if r.class == class && (!r.auto || r.rec != nil) {
			out = append(out, r)
		}
	}
	return out
}

// endAuto ends the role that was made for a device which a configured role takes.
func (m *Manager) endAuto(dev drivers.Device) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roles = slices.DeleteFunc(m.roles, func(a *role) bool {
		if !a.auto || a.dev.Address != dev.Address {
			return false
		}
		m.note(a.Name, a.journal.Close())
		return true
	})
}

// seatOn gives dev to a role. What it has meanwhile stands by, and goes on carrying.
func (m *Manager) seatOn(ctx context.Context, r *role, dev drivers.Device, sig Signal) {
	m.mu.Lock()
	had, standby := r.dev, r.standby
	m.mu.Unlock()
	if had.Address != "" && had.Address != standby.Address && !m.standBy(ctx, r, had) {
		return
	}
	m.mu.Lock()
	if had.Address != "" {
		if r.rec == nil {
			r.rec = NewRecovery(r.Name, sig.Cause, m.follow(r))
			r.rec.Between(onStandby(had), "")
		}
		r.carried, r.passive = r.passive, false
	}
	r.dev, r.opening = dev, true
	if r.rec != nil {
		r.rec.Between("", describe(dev), ctl.Stamp{Name: ctl.StampProbed, At: Now()})
	}
	m.mu.Unlock()
	m.note(r.Name, r.journal.Fact(factDevice, dev))
}

// adoptRest makes a role of its own for every bound device that no
// configured role claimed, so that its settings outlive it too.
func (m *Manager) adoptRest(frees []*free) {
	if m.opt.Generic == nil {
		return
	}
	for _, f := range frees {
		if f.taken || m.hasAuto(f.dev.Address) {
			continue
		}
		r, err := m.addRole(Role{Name: "dev-" + f.dev.Address, Class: m.opt.Generic.Name()}, m.opt.Generic, true)
		if err != nil {
			m.log.Error("device without a shadow", "device", describe(f.dev), "err", err)
			continue
		}
		m.mu.Lock()
		r.dev = f.dev
		m.mu.Unlock()
	}
}

func (m *Manager) hasAuto(address string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.roles, func(r *role) bool { return r.auto && r.dev.Address == address })
}
