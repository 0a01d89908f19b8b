// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import "github.com/umbra-vm/umbra/shadow/ctl"

// A Signal tells the Manager to look at its devices: something may have
// happened to them.
type Signal struct {
	// Cause is a word for the timeline, e.g. "vmgenid" or "uevent".
	Cause string
	// At is when the signal arose, CLOCK_MONOTONIC in ns; 0 means now.
	At int64
	// Resumed is when the guest went on after the migration, CLOCK_MONOTONIC
	// in ns, where the source knows it; 0 otherwise.
	Resumed int64
	// Role, if not empty, is recovered even if its device is alive: a
	// driver reload.
	Role string
	// Unplug, if not empty, is the bus address of a device that the host is
	// about to take away: it is given up while it works, and nobody takes it
	// until it has gone, or a migration is signalled, or UnplugBy has passed,
	// CLOCK_MONOTONIC in ns.
	Unplug   string
	UnplugBy int64
	// Removed, if not empty, is the bus address of a device that the kernel has
	// given up. What is there from now on is another.
	Removed string
	// Stalled says that the guest may have stood still, for which there are other
	// reasons than a migration.
	Stalled bool
	// Quiet marks a signal that repeats by itself: devices that failed
	// before are not tried again because of it.
	Quiet bool
}

// merge makes one of two signals that wait for their turn: a migration is
// followed by a flood of others, and neither the time of its end nor the wish
// of a reload may be lost in it.
func merge(old *Signal, sig Signal) *Signal {
	if old != nil && sig.Resumed == 0 {
		sig.Resumed = old.Resumed
	}
	if old != nil && sig.Role == "" && old.Role != "" {
		sig.Role, sig.Cause = old.Role, old.Cause
	}
	if old != nil && sig.Unplug == "" && old.Unplug != "" {
		sig.Unplug, sig.UnplugBy, sig.Cause = old.Unplug, old.UnplugBy, old.Cause
	}
	return &sig
}

// alert has the classes get ready while it is found out which devices are gone: after what
// is or may be a migration, and when hardware comes of which nobody was told; not when
// a recovery has looked for it.
func (m *Manager) alert(sig Signal, idle bool) {
	plugged := sig.Cause == ctl.CauseHotplug && sig.Removed == ""
	if sig.Cause != ctl.CauseMigration && !sig.Stalled && !(idle && plugged) {
		return
	}
	for _, c := range m.opt.Classes {
		if a, ok := c.(Alerter); ok {
			a.Alert()
		}
	}
}
