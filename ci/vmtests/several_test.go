// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/ci/witness"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// severalKinds are what the roles of TestSeveral have, net0 and so on, each with a network
// and a witness of its own. Each has another driver. The i8255x is not among them: QEMU's holds its
// interrupt line for every frame that it receives before a driver has started it
// (hw/net/eepro100.c, nic_receive), and the drivers of dead devices on that line take the
// interrupt for theirs, again and again, until they are closed.
var severalKinds = []string{"e1000", "rtl8139", "virtio-net-pci", "vmxnet3", "pcnet", "tulip", copier, "e1000e"}

// copier is the one whose driver copies a frame and frees it at once: what it had not sent,
// or wrote to a device that was not there any more, nobody can harvest.
const copier = "ne2k_pci"

// severalSlots are those beside the control port in slot 7. There are more than NICs, so
// that a move leaves some empty.
var severalSlots = []string{"2", "3", "4", "5", "6", "8", "9", "10", "11", "12"}

// severalPace is that of their witnesses, which share one processor without KVM, and
// severalPeer that of those outside.
var (
	severalPace = []string{"-udp-interval", "100ms", "-tcp-interval", "100ms"}
	severalPeer = witness.PeerOptions{Interval: 100 * time.Millisecond}
)

// subnetOf is the peer's address on the network of the n-th role.
func subnetOf(n int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("10.99.%d.1/24", n))
}

// severalImage is the guest of TestSeveral.
var severalImage = sync.OnceValues(func() (*image.Bundle, error) {
	var extra strings.Builder
	for n := 1; n < len(severalKinds); n++ {
		subnet := subnetOf(n)
		fmt.Fprintf(&extra, "[[role]]\nname = \"net%d\"\nclass = \"net\"\n[role.network]\nmethod = \"static\"\naddresses = [\"10.99.%d.10/%d\"]\n",
			n, n, subnet.Bits())
		exec := append([]string{"/bin/witness", "-peer", netip.AddrPortFrom(subnet.Addr(), testbed.WitnessPort).String()}, severalPace...)
		fmt.Fprintf(&extra, "[[service]]\nname = \"witness%d\"\nexec = [\"%s\"]\nneeds = [\"net%d\"]\nrestart = \"never\"\n",
			n, strings.Join(exec, `", "`), n)
	}
	return rig.Build(context.Background(), rig.GuestOptions{
		Dir: filepath.Join(workDir, "several"), Witness: severalPace, Extra: extra.String(),
		Options: image.Options{Progress: progress},
	})
})

// TestSeveral moves a guest whose NICs change their kinds and their places all at once.
// Each role finds its NIC by the MAC that every host gives it, as hosts do with
// virtual functions. One that has none for a while holds what is sent, and the others
// do not wait for it.
func TestSeveral(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ports bool
	}{
		{"eight on the root bus", false},
		{"eight in root ports", true},
	} {
		t.Run(tc.name, func(t *testing.T) { testSeveral(t, tc.ports) })
	}
}

func testSeveral(t *testing.T, ports bool) {
	if testing.Short() {
		t.Skip("a VM test")
	}
	beds := []*testbed.Bed{nil} // the guest's own is made with it
	for n := 1; n < len(severalKinds); n++ {
		bed, err := testbed.Open(vmtest.Context(t), testbed.Options{Dir: vmtest.Dir(t), Subnet: subnetOf(n), Witness: severalPeer})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bed.Close() })
		beds = append(beds, bed)
	}
	// On each host a role has another kind of NIC in another slot than on the one
	// before; its MAC is what it keeps.
	host := func(move int) []rig.NIC {
		nics := make([]rig.NIC, len(severalKinds))
		for n := range nics {
			nics[n] = rig.NIC{
				Model: severalKinds[(n+move)%len(severalKinds)], Slot: severalSlots[(n+3*move)%len(severalSlots)],
				MAC: fmt.Sprintf("52:54:00:75:00:%02x", n), Bed: beds[n],
			}
		}
		return nics
	}
	hosts := [][]rig.NIC{host(0), host(1), host(2)}
	hosts[1][1] = noNIC
	g := startAll(t, severalImage, hosts[0], func(o *setup) {
		o.Slots, o.peer, o.patience = severalSlots, severalPeer, 2*patience
		if ports {
			o.Type, o.RootPorts = machine.Q35, true
		}
	})
	beds[0] = g.bed
	g.servedBy(hosts[0], beds)
	for _, host := range hosts[1:] {
		g.move(host...)
		g.servedBy(host, beds)
	}
	for n, bed := range beds {
		v := g.verdictOn(bed)
		if slices.ContainsFunc(hosts[:len(hosts)-1], func(nics []rig.NIC) bool { return nics[n].Model == copier }) {
			t.Logf("net%d: %d of %d datagrams missing, of what a driver had copied", n, v.UDPOut.Missing, v.UDPOut.Sent)
			v.UDPOut.Missing = 0
		}
		if err := v.Err(); err != nil {
			t.Errorf("net%d: %v", n, err)
		}
		g.oneConnectionOn(bed)
		var tls []ctl.Timeline
		if err := g.Call(g.ctx, ctl.CmdTimeline, ctl.RoleArgs{Role: fmt.Sprintf("net%d", n)}, &tls); err != nil {
			t.Fatal(err)
		}
		for _, tl := range tls {
			if tl.Frames.Dropped != 0 || tl.Error != "" {
				t.Errorf("%s: recovery %d dropped %d frames, error %q", tl.Role, tl.Recovery, tl.Frames.Dropped, tl.Error)
			}
		}
	}
}

// servedBy waits until every role that a host has a NIC for is in passive mode on that
// one, with traffic, and every other one in active mode.
func (g *guest) servedBy(host []rig.NIC, beds []*testbed.Bed) {
	g.t.Helper()
	devices := make(map[string]string)
	for n, nic := range host {
		address := ""
		if nic.Model != "" {
			address = g.addressOf(nic)
		}
		devices[fmt.Sprintf("net%d", n)] = address
	}
	g.served(devices)
	for n, nic := range host {
		if nic.Model != "" {
			g.trafficOn(beds[n])
		}
	}
}

// served waits until roles are in passive mode on the devices at those addresses, and
// those for which there is none in active mode.
func (g *guest) served(devices map[string]string) {
	g.t.Helper()
	g.until("the roles have the devices that they should have", func() error {
		st, err := g.status()
		if err != nil {
			return err
		}
		found := 0
		for _, r := range st.Roles {
			device, ok := devices[r.Name]
			if !ok {
				continue
			}
			found++
			mode := ctl.ModePassive
			if device == "" {
				mode = ctl.ModeActive
			}
			if r.Mode != mode || r.Device != device {
				return fmt.Errorf("%s is %s on %q (%s), not %s on %q", r.Name, r.Mode, r.Device, r.Message, mode, device)
			}
		}
		if found != len(devices) {
			return fmt.Errorf("%d of %d roles", found, len(devices))
		}
		return nil
	})
}
