// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

// factStandby is the journal's fact that names a role's standby.
const factStandby = "standby"

// stander returns the role's shadow if it can have a standby.
func (r *role) stander() (Stander, bool) {
	s, ok := r.shadow.(Stander)
	return s, ok && !r.auto
}

// vacant reports whether the role has no device of its own. It needs the Manager's mu.
func (r *role) vacant() bool {
	return r.dev.Address == "" || r.dev.Address == r.standby.Address
}

// failOver gives a role without a device to its standby, if that can carry. It is a
// recovery of its own, and short: a standby has its driver already. If it fails the round
// goes on with it, or with a device.
func (m *Manager) failOver(ctx context.Context, sig Signal, r *role) {
	s, ok := r.stander()
	m.mu.Lock()
	standby := r.standby
	ok = ok && r.dev.Address == "" && standby.Address != ""
	m.mu.Unlock()
	if !ok || !m.works(ctx, standby) || !s.Ready(ctx) {
		return
	}
	m.mu.Lock()
	r.dev, r.opening = standby, true
	if r.rec != nil {
		r.rec.Between("", onStandby(standby))
	}
	m.mu.Unlock()
	m.note(r.Name, r.journal.Fact(factDevice, standby))
	ctx, cancel := context.WithTimeout(ctx, failOverLimit)
	defer cancel()
	_ = m.complete(ctx, r, sig) // it has told
}

// failOverLimit is how long a round waits for a standby that has just lost its link, before
// it looks for a device.
const failOverLimit = 5 * time.Second

func (m *Manager) failOverAll(ctx context.Context, sig Signal) {
	parallel(m.all(), func(r *role) { m.failOver(ctx, sig, r) })
}

// onStandby names a standby for a person, in the place of a device.
func onStandby(d drivers.Device) string { return describe(d) + standbyMark }

const standbyMark = " (standby)"

// isStandby reports whether a name is one that onStandby has made.
func isStandby(name string) bool { return strings.HasSuffix(name, standbyMark) }

func (m *Manager) works(ctx context.Context, dev drivers.Device) bool {
	v, err := m.hw.Verify(ctx, dev)
	return err == nil && v == drivers.Alive
}

// dismiss gives up the standbys that are not there any more, or that the host is about to
// unplug, and whose role has a device or none. It reports whether a bus scan could
// find something else in their places.
func (m *Manager) dismiss(ctx context.Context, sig Signal) (again bool) {
	for _, r := range m.all() {
		m.mu.Lock()
		standby, carries := r.standby, r.carried
		ok := standby.Address != "" && standby.Address != r.dev.Address
		m.mu.Unlock()
		if !ok {
			continue
		}
		verdict, err := m.hw.Verify(ctx, standby)
		switch {
		case errors.Is(err, drivers.ErrNoDevice):
			verdict = drivers.Absent
		case err != nil, verdict == drivers.Alive && sig.Unplug != standby.Address:
			continue
		}
		old := m.old(verdict, standby)
		err = m.takeOut(ctx, r, old, carries)
		m.mu.Lock()
		r.stuck = errors.Is(err, ErrKept) && (carries || r.stuck)
		m.mu.Unlock()
		if errors.Is(err, ErrKept) {
			m.log.Debug("the standby stays", "role", r.Name, "device", standby.Address, "err", err)
			continue
		}
		m.forgetStandby(r)
		switch verdict {
		case drivers.Alive:
			err = errors.Join(err, unlessGone(m.hw.Unbind(ctx, standby)))
		case drivers.Absent: // nobody waits for its address
			m.retireLater(ctx, r, old)
		default:
			err = errors.Join(err, old.Remove(ctx))
			again = true
		}
		m.log.Warn("the standby is given up", "role", r.Name, "device", standby.Address, "verdict", verdict.String(), "err", err)
	}
	return again
}

// retireLater has a standby's device removed, with the role's own if that is lost too.
func (m *Manager) retireLater(ctx context.Context, r *role, old Old) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving[old.Address] = true
	if r.rec != nil {
		r.retired = append(r.retired, old)
		return
	}
	m.tidying.Go(func() { m.retire(ctx, r, ctl.Timeline{}, []Old{old}) })
}

// takeOut takes a standby out of the role. One that carries, while the role's device is
// not ready yet, is given up like a device.
func (m *Manager) takeOut(ctx context.Context, r *role, old Old, carries bool) error {
	s, _ := r.stander()
	m.mu.Lock()
	rec := r.rec
	r.carried = false
	m.mu.Unlock()
	if !carries || rec == nil {
		return s.Dismiss(ctx, old)
	}
	if err := s.Activate(ctx, old, rec); err != nil {
		return err
	}
	return s.Detach(ctx, old, rec)
}

// forgetStandby ends that a role has a standby.
func (m *Manager) forgetStandby(r *role) {
	m.mu.Lock()
	r.standby = drivers.Device{}
	m.mu.Unlock()
	m.note(r.Name, r.journal.Fact(factStandby, nil))
}

// standBy makes dev stand by, which may be what the role has had as its device. It
// reports whether it does.
func (m *Manager) standBy(ctx context.Context, r *role, dev drivers.Device) bool {
	s, ok := r.stander()
	if !ok {
		return false
	}
	if err := s.StandBy(ctx, dev); err != nil {
		m.log.Error("no standby", "role", r.Name, "device", describe(dev), "err", err)
		return false
	}
	m.mu.Lock()
	r.standby = dev
	m.mu.Unlock()
	m.note(r.Name, r.journal.Fact(factStandby, dev))
	m.log.Info("stands by", "role", r.Name, "device", describe(dev))
	return true
}

// canHaveMore reports whether a role has a paravirtual device, and no other beside it: a
// migration takes that along, and there may be another on the new host.
func (m *Manager) canHaveMore() bool {
	return slices.ContainsFunc(m.all(), func(r *role) bool {
		_, ok := r.stander()
		m.mu.Lock()
		dev, standby := r.dev, r.standby
		m.mu.Unlock()
		return ok && dev.Address != "" && standby.Address == "" && r.Standby.Pair != PairNone && r.class.Identify(dev).Paravirtual
	})
}

// restoreStandby takes over a role's standby from a predecessor.
func (m *Manager) restoreStandby(ctx context.Context, r *role, st journal.State) {
	var dev drivers.Device
	if _, err := st.Fact(factStandby, &dev); err != nil {
		m.log.Error("journal", "role", r.Name, "err", err)
	}
	s, ok := r.stander()
	if !ok || dev.Address == "" {
		return
	}
	m.mu.Lock()
	r.standby = dev
	m.mu.Unlock()
	if !m.works(ctx, dev) {
		return // the first round gives it up
	}
	if err := s.StandBy(ctx, dev); err != nil {
		m.log.Error("standby not taken over", "role", r.Name, "device", dev.Address, "err", err)
		m.forgetStandby(r)
	}
}
