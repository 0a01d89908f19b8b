// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
	"github.com/umbra-vm/umbra/image"
)

// The MACs of those that the nemesis stacks on the proxy and that never speak.
var (
	quietMacvlan   = vswitch.MAC{0x52, 0x54, 0x00, 0x75, 0x6d, 0xb1}
	quietContainer = vswitch.MAC{0x52, 0x54, 0x00, 0x75, 0x6d, 0xb2}
)

// TestStacked moves a guest whose programs live on interfaces that are stacked on the
// proxy, each with a witness of its own. One has nothing to say; the switch must know
// all the same where it is.
func TestStacked(t *testing.T) {
	neighbour := func(addr string) testbed.Neighbour {
		return testbed.Neighbour{Addr: netip.MustParsePrefix(addr)}
	}
	onVLAN, ofRouter := neighbour("10.42.0.1/24"), neighbour("10.99.0.5/24")
	onVLAN.VLAN, ofRouter.Gateway = 42, testbed.FirstLease
	for _, tc := range []struct {
		name       string
		bundle     func() (*image.Bundle, error)
		deeds      []string // of the nemesis
		neighbours []testbed.Neighbour
		then       []rig.NIC
		quiet      vswitch.MAC
		isQuiet    string // what the console says then
	}{
		{
			name:       "a VLAN, macvlans, and a namespace that the guest routes for",
			bundle:     stackImage,
			deeds:      []string{"vlan@10.42.0.10/24,10.42.0.1:7000", "macvlan@10.99.0.50/24,10.99.0.3:7000", "macbridge@10.99.0.51/24,10.99.0.4:7000", "routed@10.77.0.2/24,10.99.0.5:7000", "macidle"},
			neighbours: []testbed.Neighbour{onVLAN, neighbour("10.99.0.3/24"), neighbour("10.99.0.4/24"), ofRouter},
			then:       []rig.NIC{rtl8139At2, virtioAt5, e1000At2},
			quiet:      quietMacvlan,
			isQuiet:    "quiet on a macvlan",
		},
		{
			name:       "a bridge with containers behind it",
			bundle:     bridgeImage,
			deeds:      []string{"bridge@10.99.0.10/24", "container@10.99.0.50/24,10.99.0.3:7000", "idle@10.99.0.51/24,10.99.0.1:9"},
			neighbours: []testbed.Neighbour{neighbour("10.99.0.3/24")},
			then:       []rig.NIC{virtioAt5, rtl8139At2},
			quiet:      quietContainer,
			isQuiet:    "quiet behind the bridge",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			words := ""
			for _, d := range tc.deeds {
				words += " nemesis=" + d
			}
			g := startAmong(t, tc.bundle, tc.neighbours, []rig.NIC{e1000At2}, cmdline(words))
			g.waitConsole(tc.isQuiet)
			g.traffic()
			for i, nic := range tc.then {
				g.move(nic)
				g.lossless(g.recovered(i + 1))
				g.traffic()
				g.until("the switch knows where the quiet one is", func() error {
					// A port is named after its host.
					if at, want := g.bed.Switch.Stations()[tc.quiet], g.Host.Machine.Name; !strings.HasPrefix(at, want+"-") {
						return fmt.Errorf("it has %s at %q, want it at %s", tc.quiet, at, want)
					}
					return nil
				})
			}
			g.unharmed()
		})
	}
}
