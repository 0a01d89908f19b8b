// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestCrash kills the agent. Its successor finds what the first one was at and
// goes on; the connection lives, and what was lost with the agent's memory is
// counted. Not counted are frames that the old driver frees while nobody
// collects them: with hardware elsewhere the old driver is torn down late, and
// an agent killed at that instant leaves them in a buffer that dies with it.
func TestCrash(t *testing.T) {
	type crash struct {
		at    string
		first rig.NIC
		to    rig.NIC
		// uncounted says that the kill may meet the tear-down.
		uncounted bool
	}
	for _, tc := range []crash{
		{ctl.StampActive, e1000At2, rtl8139At2, false},
		{ctl.StampHarvested, e1000At2, rtl8139At2, false},
		{ctl.StampUnloaded, e1000At2, rtl8139At2, false},
		{ctl.StampProbed, e1000At2, virtioAt5, true},
		{ctl.StampOpened, rtl8139At2, e1000At5, true},
		{ctl.StampReplayed, e1000At2, virtioAt5, true},
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
			g.accounted(1, tc.uncounted)
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

// accounted ends the run of a guest whose agent has crashed: the connection
// lives, and, unless that cannot be told, no more datagrams are missing than
// frames were said to be lost.
func (g *guest) accounted(recoveries int, uncounted bool) {
	g.t.Helper()
	tls, err := g.timelines()
	if err != nil {
		g.t.Fatal(err)
	}
	dropped := 0
	for _, tl := range tls {
		dropped += tl.Frames.Dropped
	}
	if len(tls) != recoveries+1 {
		g.t.Errorf("%d recoveries, want %d", len(tls)-1, recoveries)
	}
	v := g.verdict()
	missing := int(v.UDPOut.Missing)
	if missing > dropped && !uncounted {
		g.t.Errorf("%d datagrams are missing, but only %d frames were reported lost", missing, dropped)
	}
	v.UDPOut.Missing = 0
	if err := v.Err(); err != nil {
		g.t.Error(err)
	}
	g.oneConnection()
	g.t.Logf("%d datagrams missing, %d frames reported lost", missing, dropped)
}
