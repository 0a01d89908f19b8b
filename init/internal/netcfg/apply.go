// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Kernel changes interfaces. Everything it adds may be there already.
type Kernel interface {
	Up(index int) error
	Addresses(index int) ([]netip.Prefix, error)
	AddAddress(index int, p netip.Prefix) error
	RemoveAddress(index int, p netip.Prefix) error
	AddRoute(index int, r Route, onlink bool, metric int) error
	RemoveRoute(index int, r Route, metric int) error

	// AddVLAN makes the interface of a VLAN on the interface of that index.
	AddVLAN(index int, id int, name string) error

	View6(index int) (View6, error)
	// AddLeased adds an address that the kernel takes away by itself after the
	// time that it is valid for; one that is there gets new times.
	AddLeased(index int, a netip.Addr, preferred, valid time.Duration) error
}

// desired is what an interface should have.
type desired struct {
	addresses []netip.Prefix
	routes    []Route
}

// apply makes an interface what it should be. Of what it has, only what was
// put there before (had) and is no longer wanted is taken away, and that last;
// an address that is there is left untouched.
func apply(k Kernel, index int, had, want desired, metric int) error {
	present, err := k.Addresses(index)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range want.addresses {
		if slices.Contains(present, a) {
			continue
		}
		if err := k.AddAddress(index, a); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	for _, r := range want.routes {
		if err := k.AddRoute(index, r, !reachable(r.Gateway, want), metric); err != nil {
			return fmt.Errorf("add route to %s: %w", r.To, err)
		}
	}
	for _, r := range had.routes {
		if !slices.Contains(want.routes, r) {
			// Gone already where its address or its link went first.
			_ = k.RemoveRoute(index, r, metric)
		}
	}
	for _, a := range had.addresses {
		if !slices.Contains(want.addresses, a) && slices.Contains(present, a) {
			if err := k.RemoveAddress(index, a); err != nil {
				return fmt.Errorf("remove address %s: %w", a, err)
			}
		}
	}
	return nil
}

// reachable reports whether a gateway is in the network of an address or of a
// route on the link. If it is not, as some clouds have it, the kernel must be
// told that it is on the link all the same.
func reachable(gw netip.Addr, want desired) bool {
	if !gw.IsValid() || gw.IsUnspecified() || gw.IsLinkLocalUnicast() {
		return true
	}
	for _, a := range want.addresses {
		if a.Contains(gw) {
			return true
		}
	}
	for _, r := range want.routes {
		if (!r.Gateway.IsValid() || r.Gateway.IsUnspecified()) && r.To.Contains(gw) {
			return true
		}
	}
	return false
}

// rtnetlink is the Kernel of this machine.
type rtnetlink struct{}

func (rtnetlink) link(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func (k rtnetlink) Up(index int) error { return netlink.LinkSetUp(k.link(index)) }

func (k rtnetlink) Addresses(index int) ([]netip.Prefix, error) {
	list, err := netlink.AddrList(k.link(index), netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var ps []netip.Prefix
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok {
			ps = append(ps, p)
		}
	}
	return ps, nil
}

func (k rtnetlink) AddAddress(index int, p netip.Prefix) error {
	return netlink.AddrReplace(k.link(index), &netlink.Addr{IPNet: ipNet(p)})
}

func (k rtnetlink) RemoveAddress(index int, p netip.Prefix) error {
	return netlink.AddrDel(k.link(index), &netlink.Addr{IPNet: ipNet(p)})
}

func (k rtnetlink) AddRoute(index int, r Route, onlink bool, metric int) error {
	return netlink.RouteReplace(routeOf(index, r, onlink, metric))
}

func (k rtnetlink) RemoveRoute(index int, r Route, metric int) error {
	return netlink.RouteDel(routeOf(index, r, false, metric))
}

func (rtnetlink) AddVLAN(index, id int, name string) error {
	err := netlink.LinkAdd(&netlink.Vlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: index}, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
	})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func routeOf(index int, r Route, onlink bool, metric int) *netlink.Route {
	route := &netlink.Route{LinkIndex: index, Dst: ipNet(r.To), Priority: metric}
	if !r.Gateway.IsValid() || r.Gateway.IsUnspecified() {
		route.Scope = netlink.SCOPE_LINK
		return route
	}
	route.Gw = r.Gateway.AsSlice()
	if onlink {
		route.Flags = unix.RTNH_F_ONLINK
	}
	return route
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}
