// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestOvertaken migrates a guest again while it still recovers from the
// migration before.
func TestOvertaken(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ports bool // PCI Express root ports
		via   rig.NIC
		when  string // the stamp that the first recovery has reached; any if empty
		to    rig.NIC
	}{
		// e1000's link takes two seconds to come up, so that the second
		// migration finds the recovery at that.
		{"while the new NIC waits for its link", false, e1000At5, ctl.StampOpened, rtl8139At2},
		{"from the slot of the first NIC to it again", false, virtioAt5, "", rtl8139At2},
		{"from a host without any NIC", false, noNIC, "", virtioAt5},
		{"from root port to root port", true, virtioAt5, "", rtl8139At4},
		{"from a host without any NIC to another root port", true, noNIC, "", virtioAt5},
		{"another NIC in a root port that has just been given power", true, virtioAt5, ctl.StampOpened, rtl8139At5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, rtl8139At2, func(o *setup) {
				if tc.ports {
					o.Type, o.RootPorts = machine.Q35, true
				}
			})
			g.traffic()
			next, incoming, err := g.Prepare(g.ctx, tc.to)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { next.Close() })
			g.move(tc.via)
			if tc.when != "" {
				g.waitStamp(tc.when)
			}
			if _, err := g.MoveTo(g.ctx, next, incoming, tc.to); err != nil {
				t.Fatal(err)
			}
			g.waitRole("passive on "+tc.to.String(), func(st ctl.RoleStatus) bool {
				return st.Mode == ctl.ModePassive && st.Device == g.addressOf(tc.to)
			})
			g.traffic()
			tls, err := g.timelines()
			if err != nil {
				t.Fatal(err)
			}
			for _, tl := range tls[1:] {
				if tl.Frames.Dropped != 0 {
					t.Errorf("recovery %d dropped %d frames", tl.Recovery, tl.Frames.Dropped)
				}
			}
			g.unharmed()
		})
	}
}
