// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// loss is a role in want of a new device, and what became of the old one.
type loss struct {
	*role
	verdict drivers.Verdict
	gone    bool // the kernel has given the device up already
	known   bool // it has been told of
	address string
}

// examine compares each role's device with what its address holds now, and claims the
// roles that are lost for the round. One that an alarm has claimed belongs to the next.
// It is called with m.examining held, and gives it back.
func (m *Manager) examine(ctx context.Context, sig Signal) []loss {
	defer m.examining.Unlock()
	return m.lost(ctx, sig, func(r *role) bool {
		if r.alarmed {
			return false
		}
		r.passive, r.opening = false, false
		return true
	})
}

// alarm takes the roles in passive mode whose device is lost into active mode while a
// round is busy with others: what they send must not wait for that. The next round
// goes on with them. It reports whether there were any.
func (m *Manager) alarm(ctx context.Context, sig Signal) bool {
	m.examining.Lock()
	lost := m.lost(ctx, sig, func(r *role) bool {
		if !r.passive {
			return false
		}
		r.passive, r.alarmed = false, true
		return true
	})
	m.examining.Unlock()
	parallel(lost, func(l loss) { m.enter(ctx, sig, l) })
	return len(lost) > 0
}

// overtaken reports whether a role has lost its device since this round looked. Then
// what the round has found belongs to a host that it knows nothing of, and to whom is
// decided only when all the roles that want a device are known.
func (m *Manager) overtaken(ctx context.Context, sig Signal) bool {
	if m.alarm(ctx, sig) {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.roles, func(r *role) bool { return r.alarmed })
}

// resume gives what alarms have claimed to the round that begins now.
func (m *Manager) resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		if r.alarmed {
			r.alarmed, r.entered = false, true
		}
	}
}

// lost returns the roles that a signal is about, because of what became of their
// device, or by name, or because they were alarmed; but only those that claim takes,
// which is called with m.mu held.
func (m *Manager) lost(ctx context.Context, sig Signal, claim func(*role) bool) []loss {
	var (
		mu   sync.Mutex
		lost []loss
	)
	parallel(m.all(), func(r *role) {
		m.mu.Lock()
		dev, known, again := r.dev, r.kept || r.entered, r.entered || sig.Role == r.Name || sig.Unplug == r.dev.Address
		m.mu.Unlock()
		if dev.Address == "" {
			return
		}
		verdict, err := m.hw.Verify(ctx, dev)
		switch {
		case err != nil && errors.Is(err, drivers.ErrNoDevice):
			verdict = drivers.Absent
		case err != nil:
			m.log.Warn("device not verified: left alone", "role", r.Name, "device", dev.Address, "err", err)
			return
		}
		if verdict == drivers.Alive && !again {
			return
		}
		m.mu.Lock()
		// A round that is busy may have given the role another device meanwhile.
		ok := r.dev.Address == dev.Address && claim(r)
		m.mu.Unlock()
		if !ok {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		lost = append(lost, loss{r, verdict, errors.Is(err, drivers.ErrNoDevice), known, dev.Address})
	})
	return lost
}

// vacate takes the lost roles into active mode. Where the old address holds
// something else, the old driver must go first, or a bus scan would not see
// what is there now; where it holds nothing, the old driver is left for after
// the new one is up (see fill), which costs the applications nothing. But if that took
// long, as in a guest that has little time, it closes at once: it would begin to reset its
// device otherwise, which takes longer, under the lock that the new one needs.
func (m *Manager) vacate(ctx context.Context, sig Signal, lost []loss) {
	parallel(lost, func(l loss) {
		r := l.role
		rec, dev, old := m.enter(ctx, sig, l)
		m.mu.Lock()
		r.entered = false
		kept := r.kept
		m.mu.Unlock()
		if kept {
			return
		}
		// A device that the kernel still believes in keeps its address from
		// being used; of one that is gone nothing is left to wait for.
		if l.verdict == drivers.Absent && !l.gone {
			if Now()-cmp.Or(sig.At, Now()) > m.opt.Watchdog.Nanoseconds() {
				m.detach(ctx, r, old, rec)
			}
			m.mu.Lock()
			r.old = append(r.old, old)
			r.dev = drivers.Device{}
			var gone []drivers.Device
			for _, o := range r.old {
				gone = append(gone, o.Device)
			}
			m.mu.Unlock()
			m.note(r.Name, r.journal.Fact(factOld, gone))
			return
		}
		m.detach(ctx, r, old, rec)
		if l.verdict == drivers.Alive && sig.Unplug == dev.Address {
			m.release(ctx, r, dev, rec)
			return
		}
		m.mu.Lock()
		r.retired = append(r.retired, old)
		r.dev = drivers.Device{}
		standby := r.standby
		m.mu.Unlock()
		if standby.Address != "" {
			m.note(r.Name, r.journal.Fact(factOld, []drivers.Device{dev}))
		}
		m.failOver(ctx, sig, r)
		if err := old.Remove(ctx); err != nil {
			m.fail(r, &RoleError{r.Name, "remove", dev.Address, err})
		}
		if sig.Role == r.Name {
			// A reload is there to get a new driver, not a new probe.
			if err := m.unload(ctx, dev.Module); err != nil {
				m.fail(r, &RoleError{r.Name, "unload the driver of", dev.Address, err})
			}
		}
		m.mu.Lock()
		under := r.rec == rec
		m.mu.Unlock()
		if under { // else retire stamps it
			rec.Stamp(ctl.StampUnloaded)
		}
	})
}

// release takes a device from its driver that the host is about to unplug. The kernel
// removes it then: were it done here, a bus scan would bring it back.
func (m *Manager) release(ctx context.Context, r *role, dev drivers.Device, rec *Recovery) {
	if err := unlessGone(m.hw.Unbind(ctx, dev)); err != nil {
		m.fail(r, &RoleError{r.Name, "unbind", dev.Address, err})
	}
	rec.Stamp(ctl.StampUnloaded)
	m.mu.Lock()
	r.dev = drivers.Device{}
	m.mu.Unlock()
}

// enter takes a lost role into active mode. Doing it again does no harm.
func (m *Manager) enter(ctx context.Context, sig Signal, l loss) (*Recovery, drivers.Device, Old) {
	r := l.role
	m.mu.Lock()
	served := r.rec == nil
	var reached []ctl.Stamp
	if served {
		r.rec = NewRecovery(r.Name, sig.Cause, m.follow(r))
		reached = append(reached, ctl.Stamp{Name: ctl.StampDetected, At: cmp.Or(sig.At, Now())})
	}
	// The host may have told of the resumption before this recovery began. What a
	// recovery was told from is the migration before.
	at := began(r.rec.Timeline())
	if served {
		at = reached[0].At
	}
	if m.lastResumed != r.resumed && at+clockSlack >= m.lastResumed && at-m.lastResumed < resumedKept {
		reached = append(reached, ctl.Stamp{Name: ctl.StampResumed, At: min(at, m.lastResumed)})
		r.resumed = m.lastResumed
	}
	rec, dev := r.rec, r.dev
	rec.Between(describe(dev), "", reached...)
	r.carried = false
	if dev.Address == r.standby.Address {
		r.standby = drivers.Device{}
		m.note(r.Name, r.journal.Fact(factStandby, nil))
	}
	if !r.kept {
		r.since = Now()
		r.message = "active: the device is " + l.verdict.String()
	}
	r.last = r.identify(dev)
	m.mu.Unlock()

	old := m.old(l.verdict, dev)
	err := r.shadow.Activate(ctx, old, rec)
	if err != nil {
		m.fail(r, &RoleError{r.Name, "enter active mode", dev.Address, err})
	}
	rec.Stamp(ctl.StampActive)
	// Not before: a line on a slow serial console is time in which a driver with a
	// watchdog may give up what it has to send.
	if !l.known {
		m.log.Warn("device is not what it was", "role", r.Name, "device", dev.Address, "driver", dev.Driver, "verdict", l.verdict.String(), "cause", sig.Cause)
	}
	if served && !r.auto {
		m.relearn(r, driverOf(dev))
	}
	m.mu.Lock()
	r.kept = errors.Is(err, ErrKept)
	m.mu.Unlock()
	return rec, dev, old
}
