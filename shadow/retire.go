// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// retire removes, off the critical path, what a recovery left behind: the
// kernel's idea of devices that are gone, and their drivers, which are then
// loaded afresh for the next move.
func (m *Manager) retire(ctx context.Context, r *role, tl ctl.Timeline, retired []Old) {
	name := r.Name
	freed := false
	for _, old := range retired {
		err := old.Remove(ctx)
		m.mu.Lock()
		freed = freed || m.leaving[old.Address]
		delete(m.leaving, old.Address)
		m.mu.Unlock()
		if err != nil {
			m.log.Warn("old device not removed", "role", name, "device", old.Address, "err", err)
			continue
		}
		m.stampDone(name, tl.Recovery, ctl.StampUnloaded)
		if err := m.unload(ctx, old.Module); err != nil && !errors.Is(err, drivers.ErrInUse) {
			m.log.Warn("old driver not unloaded", "role", name, "module", old.Module, "err", err)
		}
	}
	if freed { // what has come there meanwhile was passed over, or is not known to the kernel
		select {
		case m.freed <- struct{}{}:
		default:
		}
	}
	m.mu.Lock()
	over := r.rec == nil && len(r.old) == 0
	m.mu.Unlock()
	if over {
		m.note(name, r.journal.Fact(factOld, nil))
	}
	m.prefetch(ctx)
}

// removeStale removes what a predecessor had given up, and not removed when it died: its
// driver is bound to hardware that is not there any more, and no role must be given it.
func (m *Manager) removeStale(ctx context.Context, gone []drivers.Device) {
	devs, err := m.hw.Scan(ctx)
	if err != nil {
		m.log.Error("scan the buses", "err", err)
		return
	}
	for _, d := range devs {
		stale := slices.ContainsFunc(gone, func(g drivers.Device) bool { return g.Address == d.Address && g.IDs == d.IDs })
		if !stale || d.Driver == "" || m.works(ctx, d) {
			continue
		}
		if err := unlessGone(m.hw.Remove(ctx, d)); err != nil {
			m.log.Warn("old device not removed", "device", d.Address, "err", err)
		}
	}
}

// unload takes a module out of the kernel unless a device is bound to it: a
// bound device does not hold its driver's module, and would be lost with it
// (kernel/module/main.c, delete_module).
func (m *Manager) unload(ctx context.Context, module string) error {
	if module == "" {
		return nil
	}
	m.binding.Lock()
	defer m.binding.Unlock()
	devs, err := m.hw.Scan(ctx)
	if err != nil {
		return fmt.Errorf("scan the buses: %w", err)
	}
	for _, d := range devs {
		for _, x := range append([]drivers.Device{d}, d.Children...) {
			if x.Module == module {
				return nil
			}
		}
	}
	return m.hw.Unload(ctx, module)
}

// stampDone adds a stamp to a timeline that is already done.
func (m *Manager) stampDone(name string, recovery uint64, stamp string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		if r.Name != name {
			continue
		}
		for i, tl := range r.done {
			if tl.Recovery == recovery {
				r.done[i] = withStamp(tl, stamp, Now())
				m.note(name, r.journal.Done(r.done[i]))
			}
		}
	}
}

func withStamp(tl ctl.Timeline, stamp string, at int64) ctl.Timeline {
	rec := &Recovery{tl: cloneTimeline(tl)}
	rec.StampAt(stamp, at)
	return rec.Timeline()
}
