// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"testing"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestUsersQdisc moves a guest whose user owns the root queueing discipline of
// the proxy: it stays the user's, frames are held behind the TAP, and none is
// lost.
func TestUsersQdisc(t *testing.T) {
	g := start(t, userImage, e1000At2, cmdline("nemesis=root"))
	g.waitConsole("root of net0 is pfifo")
	g.traffic()
	g.move(rtl8139At2)
	g.lossless(g.recovered(1))
	g.traffic()
	if g.rec.says("root of net0 is (plug|nothing|noqueue)") {
		t.Error("the user's queueing discipline was replaced")
	}
	g.unharmed()
}

// TestReload gives a live device a fresh driver.
func TestReload(t *testing.T) {
	g := start(t, fullImage, e1000At2)
	g.traffic()
	var tl ctl.Timeline
	if err := g.Call(g.ctx, ctl.CmdReload, ctl.RoleArgs{Role: "net0"}, &tl); err != nil {
		t.Fatal(err)
	}
	if tl.Cause != ctl.CauseReload || tl.From != tl.To {
		t.Errorf("timeline of a %s from %s to %s", tl.Cause, tl.From, tl.To)
	}
	g.legal(tl)
	g.lossless(tl)
	g.traffic()
	if err := g.Call(g.ctx, ctl.CmdReload, ctl.RoleArgs{Role: "net9"}, nil); err == nil {
		t.Error("a role that does not exist was reloaded")
	}
	g.unharmed()
}

// TestPowerButton presses it: the guest shuts down in order and QEMU ends with
// status 0.
func TestPowerButton(t *testing.T) {
	g := start(t, fullImage, e1000At2, asBuilt)
	g.traffic()
	g.execute("system_powerdown", nil)
	if err := g.Host.Wait(g.ctx); err != nil {
		t.Error(err)
	}
	g.waitConsole("ower") // says what it does
}
