// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/witness"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestSettings changes what users change, by every way that they have, and moves
// the guest to a NIC that cannot do all of it, and on to one that can.
func TestSettings(t *testing.T) {
	from, back := rig.NIC{Model: "e1000e", Slot: "2"}, rig.NIC{Model: "e1000e", Slot: "5"}
	const (
		kept   = "mtu 1400, promisc true, gso 16000, gro false, 01:00:5e:01:02:03 true, 01:80:c2:00:00:0e true, "
		shaped = "prio 1:0 on root, pfifo 2a:0 on 1:3, all to 1:3, flows 64"
		able   = "settings of e1000e: " + kept + "rx ring 512, rx-usecs 50, messages 0x5, stamps 1 and 1, " + shaped
		unable = "settings of 8139cp: " + kept + "rx ring 64, messages 0x5, " + shaped
	)
	g := start(t, shaperImage, from, cmdline("nemesis=settings"))
	g.waitConsole(able)
	want := map[string]string{
		"net.mtu": "1400", "net.flag.promisc": "on", "net.gso.max-size": "16000",
		"net.feature.rx-gro": "off", "net.ring.rx": "512", "net.coalesce.rx-usecs": "50", "net.messages": "drv,link",
		"net.timestamp.tx": "on", "net.timestamp.rx": "all", "net.rps.flows.rx-0": "64",
		"net.qdisc.root":           "prio,handle=1:,options=0300000001020202010200000101010101010101",
		"net.qdisc.1:3":            "pfifo,handle=2a:,options=e8030000",
		"net.filter.1:/0/7/0003/1": "matchall,options=0800010003000100",
	}
	// What sysfs changed is read when the device is left.
	early := maps.Clone(want)
	delete(early, "net.rps.flows.rx-0")
	delete(early, "net.gso.max-size")
	g.logged(early, nil)
	// The user's own changes reset the e1000 and cost what was sent meanwhile:
	// only what is numbered from here on is the moves' business.
	g.traffic()
	mark := uint64(g.bed.Witness.Snapshot().UDPOut.Sent)
	for i, move := range []struct {
		to       rig.NIC
		deferred []string
		says     string
	}{
		{rtl8139At2, []string{"net.ring.rx", "net.coalesce.rx-usecs", "net.timestamp.tx", "net.timestamp.rx"}, unable},
		{back, nil, able},
	} {
		here := g.rec.next()
		g.move(move.to)
		tl := g.recovered(i + 1)
		g.lossless(tl)
		if _, err := g.rec.wait(g.ctx, move.says, here); err != nil {
			t.Fatal(err)
		}
		g.logged(want, move.deferred)
		for _, key := range move.deferred {
			if !deferredWithReason(tl, key) {
				t.Errorf("the timeline does not say why %s was not replayed: %+v", key, tl.Deferred)
			}
		}
		if len(tl.Deferred) != len(move.deferred) {
			t.Errorf("deferred on %v: %+v, want %v", move.to, tl.Deferred, move.deferred)
		}
	}
	v := g.verdict()
	if !slices.ContainsFunc(v.UDPOut.MissingRanges, func(r witness.Range) bool { return r.Last >= mark }) {
		v.UDPOut.Missing = 0
	}
	if err := v.Err(); err != nil {
		t.Error(err)
	}
	g.oneConnection()
}

// TestMAC gives the proxy another MAC. Its device is opened anew for that, and
// the next one has it from the start.
func TestMAC(t *testing.T) {
	const mac = "52:54:00:75:6d:aa"
	g := start(t, fullImage, e1000At2, cmdline("nemesis=mac"))
	g.waitConsole("addresses: net0 " + mac + ", e1000 " + mac)
	g.lossless(g.recovered(1))
	g.logged(map[string]string{"net.mac": mac}, nil)
	g.traffic()
	g.move(rtl8139At2)
	g.lossless(g.recovered(2))
	g.waitConsole("addresses: net0 " + mac + ", 8139cp " + mac)
	g.unharmed()
}

func deferredWithReason(tl ctl.Timeline, key string) bool {
	for _, d := range tl.Deferred {
		if strings.HasPrefix(d.Op, key+"=") && d.Reason != "" {
			return true
		}
	}
	return false
}

// logged waits until the role's log has all operations of want, of which those
// in deferred, and no others, are marked so.
func (g *guest) logged(want map[string]string, deferred []string) {
	g.t.Helper()
	g.until("the log is as it should be", func() error { return g.checkLog(want, deferred) })
}

func (g *guest) checkLog(want map[string]string, deferred []string) error {
	var entries []ctl.LogEntry
	if err := g.Call(g.ctx, ctl.CmdLog, ctl.RoleArgs{Role: rig.Role}, &entries); err != nil {
		return err
	}
	found := 0
	for _, e := range entries {
		if (e.Deferred != "") != slices.Contains(deferred, e.Key) {
			return fmt.Errorf("%s=%s is deferred: %q, want %v", e.Key, e.Value, e.Deferred, deferred)
		}
		if v, ok := want[e.Key]; ok {
			if v != e.Value {
				return fmt.Errorf("%s is %q in the log, want %q", e.Key, e.Value, v)
			}
			found++
		}
	}
	if found != len(want) {
		return fmt.Errorf("the log has %+v, want %v", entries, want)
	}
	return nil
}
