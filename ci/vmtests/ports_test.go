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

// TestRootPorts moves a guest whose NIC is in another PCI Express root port on each
// host. The state of a port comes with the guest: one that was empty before hides
// what is in it now until it is given power. Afterwards hot-plug works as ever, in
// ports that were moved to, and from, and that never held anything.
func TestRootPorts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		native bool
		moves  []rig.NIC
		plugs  []rig.NIC
	}{
		{"to another port, and back to the first: a port that was empty hides its device", false,
			[]rig.NIC{virtioAt5, e1000eAt2}, nil},
		{"from port to port, then hot-plug by ACPI", false,
			[]rig.NIC{virtioAt5, rtl8139At4, e1000eAt2}, []rig.NIC{virtioAt2, e1000At5, rtl8139At3}},
		// QEMU 7.2 then refuses a guest whose ports are not occupied as at the source.
		{"in the same port, then hot-plug by the ports' own driver, which knows nothing of the power that they had", true,
			[]rig.NIC{virtioAt2, e1000eAt2}, []rig.NIC{e1000At5, rtl8139At3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, e1000eAt2, func(o *setup) {
				o.Type, o.RootPorts, o.NativeHotPlug = machine.Q35, true, tc.native
			})
			g.traffic()
			n := 0
			for _, nic := range tc.moves {
				g.move(nic)
				n++
				g.lossless(g.recovered(n))
				g.traffic()
			}
			for _, nic := range tc.plugs {
				g.unplug()
				g.waitRole("active", func(st ctl.RoleStatus) bool { return st.Mode == ctl.ModeActive })
				g.plug(nic)
				n++
				g.lossless(g.recovered(n))
				g.traffic()
			}
			// A pull takes the driver away before anybody is told, and what is on
			// its way with it.
			if v := g.verdict(); len(tc.plugs) > 0 {
				v.UDPOut.Missing = 0
				if err := v.Err(); err != nil {
					t.Error(err)
				}
			} else if err := v.Err(); err != nil {
				t.Error(err)
			}
			g.oneConnection()
		})
	}
}
