// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/router"
)

// ipv6Image is a guest that has no IPv4.
var ipv6Image = buildGuest("ipv6", rig.GuestOptions{
	Drivers: []string{"e1000", "8139cp", "virtio_net", "ne2k-pci"},
	Witness: []string{"-peer", testbed.WitnessAddr6},
	Extra:   "[role.network]\nmethod = \"none\"\nipv6 = \"dhcp\"\n",
})

// The addresses of the guest: leased, made of the router's prefix and link-local. All
// follow from the first device's MAC, rig.GuestMAC.
const (
	leasedAddr = "fd99::1:0"
	slaacAddr  = "fd99::5054:ff:fe75:6d00"
	linkLocal  = "fe80::5054:ff:fe75:6d00"
)

// TestIPv6 moves a guest that has IPv6 only, from a lease by DHCPv6 and from router
// advertisements. Every address stays, none is checked for a duplicate again, every
// neighbour hears of it after a move, and the lease is renewed by the same client
// from whatever device there is.
func TestIPv6(t *testing.T) {
	const all = "ipv6 of net0: " + leasedAddr + "/128 unique, " + slaacAddr + "/64 unique, " + linkLocal + "/64 unique, gateway fe80::36$"
	g := start(t, ipv6Image, e1000At2, cmdline("nemesis=ipv6"), func(s *setup) {
		s.ipv6 = &testbed.IPv6{T1: 10 * time.Second}
	})
	g.waitConsole(all)
	from := g.rec.next()
	g.traffic()
	before := g.bed.Router.Neighbours()
	for i, nic := range []rig.NIC{rtl8139At2, virtioAt5, ne2kAt2} {
		heard := g.bed.Router.Neighbours()
		g.move(nic)
		g.lossless(g.recovered(i + 1))
		g.announced(heard)
		g.traffic()
		g.renewed()
	}
	g.unharmed()

	if lines := g.rec.since(from, "ipv6 of net0: "); len(lines) > 0 {
		t.Errorf("addresses or gateways have changed: %q", lines)
	}
	for addr, n := range g.bed.Router.Neighbours() {
		if n.Checked != before[addr].Checked {
			t.Errorf("%s was checked for a duplicate %d times, and %d times before the moves", addr, n.Checked, before[addr].Checked)
		}
	}
	// The DUID is one of type 3 with the MAC, the IAID its end.
	const client = "00030001525400756d00/00756d00"
	if leases := g.bed.DHCP6.Leases(); len(leases) != 1 || leases[client] != netip.MustParseAddr(leasedAddr) {
		t.Errorf("leases are %v, want %s for %s alone", leases, leasedAddr, client)
	}
	if n := g.bed.DHCP6.Heard(dhcpv6.MessageTypeRequest); n != 1 {
		t.Errorf("a lease was requested %d times, want once", n)
	}
}

// announced waits until a neighbour has heard again where the guest's addresses are.
func (g *guest) announced(before map[netip.Addr]router.Neighbour) {
	g.t.Helper()
	for _, addr := range []string{leasedAddr, slaacAddr, linkLocal} {
		a := netip.MustParseAddr(addr)
		g.until(addr+" is announced", func() error {
			n := g.bed.Router.Neighbours()[a]
			if n.Announced <= before[a].Announced || n.MAC.String() != rig.GuestMAC {
				return fmt.Errorf("it is %+v, and was %+v", n, before[a])
			}
			return nil
		})
	}
}

// renewed waits until the lease was renewed once more.
func (g *guest) renewed() {
	g.t.Helper()
	before := g.bed.DHCP6.Heard(dhcpv6.MessageTypeRenew)
	g.until("the lease is renewed", func() error {
		if n := g.bed.DHCP6.Heard(dhcpv6.MessageTypeRenew); n <= before {
			return fmt.Errorf("%d renewals", n)
		}
		return nil
	})
}
