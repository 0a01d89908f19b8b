// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// several is how many roles the guest of TestSeveral has, net0 and so on, each with a
// network and a witness of its own.
const several = 4

// subnetOf is the peer's address on the network of the n-th role.
func subnetOf(n int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("10.99.%d.1/24", n))
}

// severalImage is the guest of TestSeveral.
var severalImage = sync.OnceValues(func() (*image.Bundle, error) {
	var extra strings.Builder
	for n := 1; n < several; n++ {
		subnet := subnetOf(n)
		fmt.Fprintf(&extra, "[[role]]\nname = \"net%d\"\nclass = \"net\"\n[role.network]\nmethod = \"static\"\naddresses = [\"10.99.%d.10/%d\"]\n",
			n, n, subnet.Bits())
		exec := append([]string{"/bin/witness", "-peer", netip.AddrPortFrom(subnet.Addr(), testbed.WitnessPort).String()}, pace...)
		fmt.Fprintf(&extra, "[[service]]\nname = \"witness%d\"\nexec = [\"%s\"]\nneeds = [\"net%d\"]\nrestart = \"never\"\n",
			n, strings.Join(exec, `", "`), n)
	}
	return rig.Build(context.Background(), rig.GuestOptions{
		Dir: filepath.Join(workDir, "several"), Witness: pace, Extra: extra.String(),
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
		{"on the root bus", false},
		{"in root ports", true},
	} {
		t.Run(tc.name, func(t *testing.T) { testSeveral(t, tc.ports) })
	}
}

func testSeveral(t *testing.T, ports bool) {
	if testing.Short() {
		t.Skip("a VM test")
	}
	beds := []*testbed.Bed{nil} // the guest's own is made with it
	for n := 1; n < several; n++ {
		bed, err := testbed.Open(vmtest.Context(t), testbed.Options{Dir: vmtest.Dir(t), Subnet: subnetOf(n)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bed.Close() })
		beds = append(beds, bed)
	}
	// nics are those of a host, in the order of the roles.
	nics := func(at ...rig.NIC) []rig.NIC {
		for n := range at {
			at[n].Bed = beds[n]
			at[n].MAC = fmt.Sprintf("52:54:00:75:00:%02x", n)
		}
		return at
	}
	hosts := [][]rig.NIC{
		nics(rig.NIC{Model: "e1000", Slot: "2"}, rig.NIC{Model: "rtl8139", Slot: "3"}, rig.NIC{Model: "virtio-net-pci", Slot: "4"}, rig.NIC{Model: "vmxnet3", Slot: "5"}),
		nics(rig.NIC{Model: "virtio-net-pci", Slot: "4"}, rig.NIC{Model: "rtl8139", Slot: "6"}, rig.NIC{Model: "vmxnet3", Slot: "3"}, rig.NIC{Model: "e1000", Slot: "2"}),
		nics(rig.NIC{Model: "e1000", Slot: "2"}, noNIC, rig.NIC{Model: "rtl8139", Slot: "4"}, rig.NIC{Model: "vmxnet3", Slot: "5"}),
		nics(rig.NIC{Model: "rtl8139", Slot: "5"}, rig.NIC{Model: "virtio-net-pci", Slot: "6"}, rig.NIC{Model: "e1000", Slot: "3"}, rig.NIC{Model: "vmxnet3", Slot: "2"}),
	}
	g := startAll(t, severalImage, hosts[0], func(o *setup) {
		if ports {
			o.Type, o.RootPorts = machine.Q35, true
		}
	})
	beds[0] = g.bed
	g.served(hosts[0], beds)
	for _, host := range hosts[1:] {
		g.move(host...)
		g.served(host, beds)
	}
	for n, bed := range beds {
		g.unharmedOn(bed)
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

// served waits until every role that a host has a NIC for is in passive mode on that
// one, with traffic, and every other one in active mode.
func (g *guest) served(host []rig.NIC, beds []*testbed.Bed) {
	g.t.Helper()
	g.until("the roles are as the host's NICs", func() error {
		st, err := g.status()
		if err != nil {
			return err
		}
		for n, nic := range host {
			mode, device := ctl.ModePassive, g.addressOf(nic)
			if nic.Model == "" {
				mode, device = ctl.ModeActive, ""
			}
			found := false
			for _, r := range st.Roles {
				if r.Name != fmt.Sprintf("net%d", n) {
					continue
				}
				if found = r.Mode == mode && r.Device == device; !found {
					return fmt.Errorf("%s is %s on %q (%s), not %s on %q", r.Name, r.Mode, r.Device, r.Message, mode, device)
				}
			}
			if !found {
				return fmt.Errorf("no role net%d", n)
			}
		}
		return nil
	})
	for n, nic := range host {
		if nic.Model != "" {
			g.trafficOn(beds[n])
		}
	}
}
