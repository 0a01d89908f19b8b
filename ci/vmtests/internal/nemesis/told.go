// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// sayTold says what this program was told, and what the machine and its network are.
func sayTold() error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	keys, err := os.ReadFile("/etc/umbra/authorized_keys")
	if err != nil {
		return err
	}
	say("told: host %s, arguments %q, A=%s B=%s, keys %q", host, os.Args[1:], os.Getenv("A"), os.Getenv("B"), keys)
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		vlan, ok := l.(*netlink.Vlan)
		if !ok {
			continue
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		below, err := netlink.LinkByIndex(vlan.ParentIndex)
		if err != nil {
			return err
		}
		say("told: %s is VLAN %d of %s with %v", vlan.Name, vlan.VlanId, below.Attrs().Name, addrs)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	var via []string
	for _, r := range routes {
		if r.Gw != nil {
			via = append(via, fmt.Sprintf("%s via %s", r.Dst, r.Gw))
		}
	}
	say("told: routes %s", strings.Join(via, ", "))
	return nil
}
