// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/router"
	"github.com/umbra-vm/umbra/image"
)

// Guests whose witness speaks IPv6, by the network of their role.
var (
	dhcp6Image = buildIPv6("dhcp6", `method = "none"
ipv6 = "dhcp"`)
	slaacImage = buildIPv6("slaac", `method = "dhcp"
ipv6 = "slaac"`)
)

func buildIPv6(name, network string) func() (*image.Bundle, error) {
	return build(name, rig.GuestOptions{
		Drivers: []string{"e1000", "8139cp", "virtio_net", "ne2k-pci"},
		Witness: []string{"-peer", testbed.WitnessAddr6},
		Extra:   "[role.network]\n" + network + "\n",
	})
}

// The addresses of a guest: leased, made of the router's prefix and link-local. All
// follow from the first device's MAC, rig.GuestMAC.
const (
	leasedAddr = "fd99::1:0"
	slaacAddr  = "fd99::5054:ff:fe75:6d00"
	linkLocal  = "fe80::5054:ff:fe75:6d00"
)

// TestIPv6 moves guests that speak IPv6. Every address stays, none is checked for a
// duplicate again, and every neighbour hears of it after a move. A lease is renewed by
// the same client from whatever device there is, although netcfgd was killed.
func TestIPv6(t *testing.T) {
	for _, tc := range []struct {
		name   string
		bundle func() (*image.Bundle, error)
		then   []rig.NIC
		leased bool
	}{
		{"no IPv4, and a lease by DHCPv6", dhcp6Image, []rig.NIC{rtl8139At2, virtioAt5, ne2kAt2}, true},
		{"IPv4 beside addresses by router advertisement", slaacImage, []rig.NIC{rtl8139At2}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addrs, has := []string{slaacAddr, linkLocal}, slaacAddr+"/64 unique, "+linkLocal+"/64 unique, gateway fe80::36$"
			words := "nemesis=ipv6"
			if tc.leased {
				addrs, has = append(addrs, leasedAddr), leasedAddr+"/128 unique, "+has
				words += " nemesis=end@netcfgd"
			}
			g := start(t, tc.bundle, e1000At2, cmdline(words), func(s *setup) {
				s.ipv6 = &testbed.IPv6{T1: 10 * time.Second}
			})
			g.waitConsole("ipv6 of net0: " + has)
			from := g.rec.next()
			if tc.leased {
				g.waitConsole(leasedAddr + " taken over")
			}
			g.traffic()
			before := g.bed.Router.Neighbours()
			for i, nic := range tc.then {
				heard := g.bed.Router.Neighbours()
				g.move(nic)
				g.lossless(g.recovered(i + 1))
				g.announced(addrs, heard)
				g.traffic()
				if tc.leased {
					g.renewed()
				}
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
			g.oneLease(tc.leased)
		})
	}
}

// oneLease checks that the DHCPv6 server knows one client, or none, that has asked for
// a lease once.
func (g *guest) oneLease(leased bool) {
	g.t.Helper()
	want := make(map[string]netip.Addr)
	if leased {
		// The DUID is one of type 3 with the MAC, the IAID its end.
		want["00030001525400756d00/00756d00"] = netip.MustParseAddr(leasedAddr)
	}
	if got := g.bed.DHCP6.Leases(); !maps.Equal(got, want) {
		g.t.Errorf("leases are %v, want %v", got, want)
	}
	if n := g.bed.DHCP6.Heard(dhcpv6.MessageTypeRequest); n != len(want) {
		g.t.Errorf("a lease was requested %d times, want %d", n, len(want))
	}
}

// announced waits until a neighbour has heard again where the guest's addresses are.
func (g *guest) announced(addrs []string, before map[netip.Addr]router.Neighbour) {
	g.t.Helper()
	for _, addr := range addrs {
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
