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

// TestCrash kills the agent. Its successor finds what the first one was at and
// goes on, and the connection lives. Datagrams may be lost: those that the old driver
// frees, and those that come to the TAP, while nobody collects. All of them are
// counted.
func TestCrash(t *testing.T) {
	type crash struct {
		at    string
		first rig.NIC
		to    rig.NIC
	}
	for _, tc := range []crash{
		{ctl.StampActive, e1000At2, rtl8139At2},
		{ctl.StampHarvested, e1000At2, rtl8139At2},
		{ctl.StampUnloaded, e1000At2, rtl8139At2},
		{ctl.StampProbed, e1000At2, virtioAt5},
		{ctl.StampOpened, rtl8139At2, e1000At5},
		{ctl.StampReplayed, e1000At2, virtioAt5},
	} {
		t.Run("in a recovery that has reached "+tc.at, func(t *testing.T) {
			g := start(t, fullImage, tc.first, cmdline("nemesis=kill@"+tc.at), mute)
			g.traffic()
			g.move(tc.to)
			g.recovered(1)
			if !g.rec.says("killed the agent at " + tc.at) {
				t.Fatal("the agent was not killed")
			}
			g.traffic()
			g.outlived(1)
		})
	}
	t.Run("in passive mode", func(t *testing.T) {
		g := start(t, fullImage, e1000At2, cmdline("nemesis=kill@now"))
		g.waitConsole("killed the agent at now")
		g.waitConsole("taken over from the last agent")
		g.traffic()
		g.waitRole("passive", func(st ctl.RoleStatus) bool { return st.Mode == ctl.ModePassive })
		tls, err := g.timelines()
		if err != nil || len(tls) != 1 {
			t.Errorf("%d timelines, want that of the boot alone (%v)", len(tls), err)
		}
		g.move(rtl8139At2)
		g.lossless(g.recovered(1))
		g.unharmed()
	})
}

// outlived ends the run of a guest whose agent has crashed: there was one
// recovery, and nothing but datagrams may be missing.
func (g *guest) outlived(recoveries int) {
	g.t.Helper()
	if n := g.accounted(rig.Role, g.bed); n != recoveries {
		g.t.Errorf("%d recoveries, want %d", n, recoveries)
	}
}

// accounted ends the run of one role of such a guest, and returns how many recoveries it has had.
func (g *guest) accounted(role string, bed *testbed.Bed) (recoveries int) {
	g.t.Helper()
	var tls []ctl.Timeline
	if err := g.Call(g.ctx, ctl.CmdTimeline, ctl.RoleArgs{Role: role}, &tls); err != nil {
		g.t.Fatal(err)
	}
	dropped := 0
	for _, tl := range tls {
		dropped += tl.Frames.Dropped
	}
	v := g.verdictOn(bed)
	missing := v.UDPOut.Missing
	v.UDPOut.Missing = 0
	if err := v.Err(); err != nil {
		g.t.Errorf("%s: %v", role, err)
	}
	g.oneConnectionOn(bed)
	if missing > int64(dropped) {
		g.t.Errorf("%s: %d datagrams missing, but %d frames reported lost", role, missing, dropped)
	}
	g.t.Logf("%s: %d datagrams missing, %d frames reported lost", role, missing, dropped)
	return len(tls) - 1
}
