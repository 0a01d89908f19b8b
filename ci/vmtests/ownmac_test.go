// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestRefusedMAC moves a guest to a NIC whose driver takes no MAC but its own, as those
// of virtual functions that their host does not trust: here virtio as the standby of a
// primary that never comes. The role works with that MAC, says so, and has its own again
// on the next NIC.
func TestRefusedMAC(t *testing.T) {
	g := start(t, fullImage, e1000At2, func(o *setup) {
		o.Extra = []string{"-global", "virtio-net-pci.failover=on"}
	})
	g.traffic()
	mac := g.waitRole("passive", func(st ctl.RoleStatus) bool { return st.Mode == ctl.ModePassive }).MAC
	stubborn := rig.NIC{Model: "virtio-net-pci", Slot: "5", MAC: "52:54:00:75:6d:f0"}

	g.move(stubborn)
	tl := g.waitPassive(1)
	g.lossless(tl)
	if !deferredWithReason(tl, "net.mac") {
		t.Errorf("the timeline does not say that the NIC kept its own MAC: %+v", tl.Deferred)
	}
	g.waitRole("passive with the NIC's MAC, and the role's deferred", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.MAC == stubborn.MAC && st.Deferred == 1
	})
	g.logged(map[string]string{"net.mac": mac}, []string{"net.mac"})
	g.waitConsole("keeps its own MAC.*" + stubborn.MAC)
	g.traffic()

	g.move(rtl8139At2)
	tl = g.waitPassive(2)
	g.lossless(tl)
	if len(tl.Deferred) != 0 {
		t.Errorf("deferred on a NIC that takes any MAC: %+v", tl.Deferred)
	}
	g.waitRole("passive with its own MAC", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.MAC == mac && st.Deferred == 0
	})
	g.logged(map[string]string{"net.mac": mac}, nil)
	g.traffic()
	// The interface that was the proxy's port is one that the driver has put before
	// its own: what it had in its ring when it left is not known by that name.
	g.connected()
}

// TestDeafVirtio moves a guest to a virtio NIC that cannot be told another MAC, while
// its driver takes any.
func TestDeafVirtio(t *testing.T) {
	g := start(t, fullImage, e1000At2, func(o *setup) {
		o.Extra = []string{"-global", "virtio-net-pci.ctrl_mac_addr=off"}
	})
	g.traffic()
	for i, nic := range []rig.NIC{virtioAt5, rtl8139At2} {
		g.move(nic)
		g.lossless(g.recovered(i + 1))
		g.traffic()
	}
	g.waitConsole("receives for its own MAC only")
	g.unharmed()
}
