// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// shortcutImage has a role with a shortcut.
var shortcutImage = build("shortcut", rig.GuestOptions{Drivers: []string{"e1000e", "8139cp"}, Role: "shortcut = \"on\"\n"})

// TestShortcut moves a guest whose role has a shortcut, by a host that has nothing for it.
// What is sent goes around the proxy before and behind, but for what is bound to it; in active
// mode no route is left, and all is held; and what the old device was given by the shortcut
// arrives as what it was given by the proxy.
func TestShortcut(t *testing.T) {
	peer := testbed.Subnet4.Addr().String()
	g := start(t, shortcutImage, e1000eAt2, cmdline("nemesis=way@"+peer))
	around := func(from int) {
		t.Helper()
		if _, err := g.rec.wait(g.ctx, "way to "+peer+": around net0, bound through net0: true, routes left: true", from); err != nil {
			t.Fatal(err)
		}
		g.waitRole("with a shortcut", func(st ctl.RoleStatus) bool { return st.Shortcut != nil && st.Shortcut.Routes > 0 })
	}
	around(0)
	g.traffic()

	from := g.rec.next()
	g.move(noNIC)
	g.waitRole("in active mode, with what is sent held", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModeActive && st.Shortcut != nil && st.Shortcut.Routes == 0 && st.Held > 0
	})
	if _, err := g.rec.wait(g.ctx, "way to "+peer+": nowhere, .*routes left: false", from); err != nil {
		t.Fatal(err)
	}

	from = g.rec.next()
	g.plug(rtl8139At5)
	tl := g.recovered(1)
	g.lossless(tl)
	if tl.Frames.Held == 0 || tl.Frames.Harvested == 0 {
		t.Errorf("%+v: nothing was held, or the old device had nothing", tl.Frames)
	}
	around(from)
	g.traffic()
	g.unharmed()
}

// shortcutsImage has two roles with shortcuts, each with a witness: net0 has a network with DHCP
// and may have a standby, net1 is on another network.
var shortcutsImage = build("shortcuts", rig.GuestOptions{
	Drivers: []string{"e1000e", "8139cp", "virtio_net"}, Witness: severalPace, Role: "shortcut = \"on\"\n",
	Extra: fmt.Sprintf(`[[role]]
name = "net1"
class = "net"
shortcut = "on"
[role.network]
method = "static"
addresses = ["10.99.1.10/24"]
[[service]]
name = "witness1"
exec = ["/bin/witness", "-peer", "10.99.1.1:%d", "%s"]
needs = ["net1"]
restart = "never"
`, testbed.WitnessPort, strings.Join(severalPace, `", "`)),
})

// TestShortcuts moves a guest with two roles that have shortcuts, one of them with a standby,
// and kills the agent in between. The devices change places; each role's packets go around its
// own proxy; to a standby there is no shortcut; and whatever a killed agent has left, no
// route is by what is not in use any more.
func TestShortcuts(t *testing.T) {
	const (
		mac0 = rig.GuestMAC // the standby's too
		mac1 = "52:54:00:75:00:01"
	)
	var (
		first   = testbed.Subnet4.Addr().String()
		another = subnetOf(1).Addr().String()
	)
	if testing.Short() {
		t.Skip("a VM test")
	}
	bed, err := testbed.Open(vmtest.Context(t), testbed.Options{Dir: vmtest.Dir(t), Subnet: subnetOf(1), Witness: severalPeer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bed.Close() })
	nic0 := func(model, slot string) rig.NIC { return rig.NIC{Model: model, Slot: slot, MAC: mac0} }
	nic1 := func(model, slot string) rig.NIC { return rig.NIC{Model: model, Slot: slot, MAC: mac1, Bed: bed} }

	g := startAll(t, shortcutsImage, []rig.NIC{nic0("e1000e", "2"), standbyAt6, nic1("rtl8139", "3")}, mute, func(s *setup) { s.peer = severalPeer },
		cmdline("nemesis=way@"+first+" nemesis=way@"+another+"@net1 nemesis=kill@now,"+ctl.StampActive+",carried"))
	// goes waits until a role's packets go as is said, and all routes are by ports in use.
	goes := func(from int, role, peer, way string, routes bool) {
		t.Helper()
		line := fmt.Sprintf("way to %s: %s %s, bound through %s: true, routes left: %t, astray: 0", peer, way, role, role, routes)
		if _, err := g.rec.wait(g.ctx, line, from); err != nil {
			t.Fatal(err)
		}
	}
	around := func(from int) {
		t.Helper()
		goes(from, "net0", first, "around", true)
		goes(from, "net1", another, "around", true)
	}
	everywhere := func() {
		t.Helper()
		g.traffic()
		g.trafficOn(bed)
	}

	g.waitConsole("killed the agent at now")
	for _, role := range []string{"net0", "net1"} {
		g.waitConsole(role + " .*taken over from the last agent")
	}
	around(0)
	g.paired("e1000e")
	everywhere()

	from := g.rec.next()
	g.move(nic0("rtl8139", "3"), standbyAt6, nic1("e1000e", "2"))
	g.waitConsole("killed the agent at " + ctl.StampActive)
	g.paired("8139cp")
	g.served(map[string]string{"net0": g.addressOf(rtl8139At3), "net1": g.addressOf(e1000eAt2)})
	around(from)
	everywhere()

	from = g.rec.next()
	g.move(noNIC, standbyAt6, nic1("rtl8139", "4"))
	g.waitConsole("killed the agent at carried")
	goes(from, "net0", first, "through", false)
	goes(from, "net1", another, "around", true)
	g.waitRole("on the standby, without a shortcut", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.OnStandby && st.Shortcut != nil && st.Shortcut.Routes == 0
	})
	everywhere()

	from = g.rec.next()
	g.plug(nic0("e1000e", "5"))
	g.paired("e1000e")
	goes(from, "net0", first, "around", true)
	everywhere()

	for role, bed := range map[string]*testbed.Bed{"net0": g.bed, "net1": bed} {
		g.accounted(role, bed)
	}
}
