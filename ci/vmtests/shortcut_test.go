// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
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
