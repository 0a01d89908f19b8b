// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// standbyAt6 is a NIC that QEMU moves, with the MAC of the guest's first NIC.
var standbyAt6 = rig.NIC{Model: "virtio-net-pci", Slot: "6", Standby: true}

// TestStandby moves a guest that has a virtio NIC beside its device, and no word about
// that in its configuration. What it sends goes over that one while there is no
// device, and over the device again when there is; it does without where a host has none,
// and takes one that a host has anew.
func TestStandby(t *testing.T) {
	var wire string
	g := startAll(t, fullImage, []rig.NIC{e1000At2, standbyAt6}, func(o *setup) {
		wire = filepath.Join(o.Dir, "wire.pcapng")
		o.capture = wire
	})
	g.traffic()
	g.paired("e1000")
	before := g.settings()

	g.moveTimed("to another device beside the standby", rtl8139At2, standbyAt6)
	g.overAndBack(1, 2)
	g.paired("8139cp")
	beside := window{from: time.Now()}
	g.traffic()
	beside.to = time.Now()

	g.moveTimed("to the standby alone", noNIC, standbyAt6)
	g.over(3)
	st := g.waitRole("on the standby, and says so", func(st ctl.RoleStatus) bool {
		return st.OnStandby && strings.Contains(st.Message, "no net device")
	})
	if st.Mode != ctl.ModePassive || st.Device != "" || st.Held != 0 {
		t.Errorf("the role is %+v", st)
	}
	alone := window{from: time.Now()}
	g.traffic()
	alone.to = time.Now()

	g.plug(e1000At5)
	g.back(4)
	g.paired("e1000")
	g.traffic()

	g.moveTimed("to a device without a standby", rtl8139At2)
	g.lossless(g.recovered(5))
	g.waitRole("without a standby", func(st ctl.RoleStatus) bool { return st.Standby == "" })
	g.traffic()

	g.moveTimed("to a device with a standby that is new", e1000At2, standbyAt6)
	g.lossless(g.recovered(6))
	g.paired("e1000")
	g.traffic()
	if after := g.settings(); !maps.Equal(before, after) {
		t.Errorf("the log has what nobody has set: %v, and had %v", after, before)
	}
	g.unharmed()

	if err := g.bed.Close(); err != nil {
		t.Fatal(err)
	}
	alone.count(t, wire)
	if alone.standby == 0 || alone.others != 0 {
		t.Errorf("without a device, %d packets of the guest went over the standby and %d elsewhere", alone.standby, alone.others)
	}
	beside.count(t, wire)
	if beside.standby != 0 || beside.others == 0 {
		t.Errorf("beside a device, %d packets of the guest went over the standby and %d over the device", beside.standby, beside.others)
	}
	t.Logf("packets of the guest over the standby and elsewhere: %d and %d without a device, %d and %d with one",
		alone.standby, alone.others, beside.standby, beside.others)
}

// TestStandbySettings has the settings of a user on a device, on the standby while that
// carries alone, as far as it can have them, and on the next device. That a second port
// joins or leaves the proxy is nobody's setting.
func TestStandbySettings(t *testing.T) {
	from, back := rig.NIC{Model: "e1000e", Slot: "2"}, rig.NIC{Model: "e1000e", Slot: "5"}
	const proxy = "mtu 1400, promisc true, gso 16000, gro false, "
	g := startAll(t, shaperImage, []rig.NIC{from, standbyAt6}, cmdline("nemesis=settings"))
	g.waitConsole("settings of e1000e: " + proxy)
	g.paired("e1000e")
	g.traffic()
	g.logged(map[string]string{"net.mtu": "1400", "net.ring.rx": "512"}, nil)
	before := g.settings()
	g.move(noNIC, standbyAt6)
	g.waitConsole("settings of virtio_net: " + proxy)
	g.over(1)
	g.plug(back)
	g.back(2)
	g.traffic()
	after := g.settings()
	for key, value := range before {
		if after[key] != value {
			t.Errorf("the log has %s=%q, it had %q", key, after[key], value)
		}
		delete(after, key)
	}
	// What sysfs changed is read when the device is left.
	for _, late := range []string{"net.rps.flows.rx-0", "net.gso.max-size"} {
		delete(after, late)
	}
	if len(after) != 0 {
		t.Errorf("the log has what nobody has set: %v", after)
	}
	g.oneConnection()
}

// settings are the operations in the role's log.
func (g *guest) settings() map[string]string {
	g.t.Helper()
	var entries []ctl.LogEntry
	if err := g.Call(g.ctx, ctl.CmdLog, ctl.RoleArgs{Role: rig.Role}, &entries); err != nil {
		g.t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		out[e.Key] = e.Value
	}
	return out
}

// TestStandbyUnplugged has the device taken away by hosts: by one that tells of it, as for
// a device that blocks a migration, and by one that does not.
func TestStandbyUnplugged(t *testing.T) {
	g := startAll(t, fullImage, []rig.NIC{e1000At2, standbyAt6})
	g.traffic()
	g.paired("e1000")
	g.replug(true, virtioAt5, standbyAt6)
	g.overAndBack(1, 2)
	g.paired("virtio_net")
	g.traffic()

	g.unplug()
	g.over(3)
	g.traffic()
	g.plug(rtl8139At2)
	g.back(4)
	g.paired("8139cp")
	g.traffic()
	// A pull takes the driver away before anybody is told, and what is on its way with it.
	v := g.verdict()
	t.Logf("%d of %d datagrams missing, by the pull", v.UDPOut.Missing, v.UDPOut.Sent)
	v.UDPOut.Missing = 0
	if err := v.Err(); err != nil {
		t.Error(err)
	}
	g.oneConnection()
}

// TestStandbyCrash kills the agent on the way to the standby, on the way back, and while the
// standby carries.
func TestStandbyCrash(t *testing.T) {
	for _, tc := range []struct {
		at string
		to rig.NIC
	}{
		{ctl.StampHarvested, rtl8139At2},
		{ctl.StampStandby, rtl8139At2},
		{"carried", noNIC},
		{ctl.StampProbed, rtl8139At2},
	} {
		t.Run("at "+tc.at, func(t *testing.T) {
			g := startAll(t, fullImage, []rig.NIC{e1000At2, standbyAt6}, cmdline("nemesis=kill@"+tc.at), mute)
			g.traffic()
			g.paired("e1000")
			g.move(tc.to, standbyAt6)
			g.waitConsole("killed the agent at " + tc.at)
			if tc.to == noNIC {
				g.waitRole("on the standby", func(st ctl.RoleStatus) bool { return st.OnStandby && st.Mode == ctl.ModePassive })
				g.traffic()
				g.plug(rtl8139At5)
			}
			g.paired("8139cp")
			g.traffic()
			// The way there may have been given up for a way to the device.
			tls, err := g.timelines()
			if err != nil {
				t.Fatal(err)
			}
			g.outlived(len(tls) - 1)
		})
	}
}

// paired waits until the role is on a device with the standby beside it.
func (g *guest) paired(driver string) {
	g.t.Helper()
	g.waitRole("on "+driver+" with a standby", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.Driver == driver && st.Standby == g.addressOf(standbyAt6) && !st.OnStandby
	})
}

// over waits until the n-th recovery has ended on the standby.
func (g *guest) over(n int) {
	g.t.Helper()
	tl := g.waitPassive(n)
	g.lossless(tl)
	if _, ok := tl.Stamp(ctl.StampStandby); !ok || !strings.Contains(tl.To, "(standby)") {
		g.t.Errorf("recovery %d to %q has no stamp %q: %v", n, tl.To, ctl.StampStandby, tl.Stamps)
	}
	var shown strings.Builder
	if err := ctl.RenderTimeline(&shown, tl); err != nil {
		g.t.Error(err)
	}
	g.t.Log(shown.String())
}

// back waits until the n-th recovery has ended on a device, with nothing held or harvested.
func (g *guest) back(n int) {
	g.t.Helper()
	tl := g.waitPassive(n)
	g.lossless(tl)
	if !strings.Contains(tl.From, "(standby)") || strings.Contains(tl.To, "(standby)") || tl.Frames != (ctl.Frames{}) {
		g.t.Errorf("recovery %d from %q to %q: %+v", n, tl.From, tl.To, tl.Frames)
	}
}

func (g *guest) overAndBack(over, back int) {
	g.t.Helper()
	g.over(over)
	g.back(back)
}

// moveTimed is move, and shows how long the connection stood still when traffic goes on.
func (g *guest) moveTimed(what string, nics ...rig.NIC) {
	g.t.Helper()
	rep, err := g.Move(g.ctx, nics...)
	if err != nil {
		g.t.Fatalf("migration %s: %v", what, err)
	}
	g.traffic()
	g.t.Logf("%s: TCP stood still for %v, of which the guest for %v", what,
		g.bed.Witness.Stalls(rep.StoppedAt.Add(-time.Second), time.Now()).TCP().Duration().Round(time.Millisecond), rep.Downtime.Round(time.Millisecond))
}

// A window is a part of a run, and how many packets of the guest's witness, of TCP and
// UDP, came into the switch from the standby's link then, and from others.
type window struct {
	from, to        time.Time
	standby, others int
}

// count reads the capture of the testbed's switch.
func (w *window) count(t *testing.T, wire string) {
	t.Helper()
	f, err := os.Open(wire)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		frame, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !toWitness(frame) || ci.Timestamp.Before(w.from) || ci.Timestamp.After(w.to) {
			continue
		}
		port, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		// The rig names the ports of a host's second NIC so.
		if strings.HasPrefix(port.Name, "host-") && strings.HasSuffix(port.Name, "-1") && strings.Count(port.Name, "-") == 3 {
			w.standby++
		} else {
			w.others++
		}
	}
}

// toWitness reports whether a frame is of IPv4 without options, to the witness's port.
func toWitness(frame []byte) bool {
	return len(frame) >= 38 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[14] == 0x45 &&
		binary.BigEndian.Uint16(frame[36:]) == testbed.WitnessPort
}
