// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestDetection moves a guest that learns of it in one way only.
func TestDetection(t *testing.T) {
	for _, tc := range []struct {
		name               string
		mute, noGeneration bool
		cause              string
	}{
		{"the VM generation id is enough", true, false, ctl.CauseMigration},
		{"a message of the host is enough", false, true, ctl.CauseMigration},
		{"a guest that nobody tells looks for itself", true, true, "identity check"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, e1000At2, func(o *setup) { o.Mute, o.NoGeneration = tc.mute, tc.noGeneration })
			g.traffic()
			g.move(rtl8139At2)
			tl := g.recovered(1)
			g.lossless(tl)
			// Without another signal the identity check may be faster than
			// the host's message, which waits for a guest that is busy.
			if tl.Cause != tc.cause && tl.Cause != "identity check" {
				t.Errorf("cause %q, want %q", tl.Cause, tc.cause)
			}
			g.unharmed()
		})
	}
}

// TestHotPlug pulls the NIC, with the guest's knowledge, and gives it another.
// The kernel takes the driver away before anybody is told, so datagrams that
// are on their way then may be lost; the connection may not.
func TestHotPlug(t *testing.T) {
	for _, tc := range []struct {
		name string
		then rig.NIC
	}{
		{"another model in another slot", rtl8139At5},
		{"another model in the slot that was emptied", virtioAt2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, e1000At2)
			g.traffic()
			g.unplug()
			g.waitRole("active", func(st ctl.RoleStatus) bool { return st.Mode == ctl.ModeActive })
			g.plug(tc.then)
			tl := g.recovered(1)
			g.lossless(tl)
			// The identity check may come between the kernel's doing and its word.
			if tl.Cause != ctl.CauseHotplug && tl.Cause != "identity check" {
				t.Errorf("cause %q, want %q", tl.Cause, ctl.CauseHotplug)
			}
			g.connected()
		})
	}
}
