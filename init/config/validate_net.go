// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"fmt"
	"net/netip"
	"strconv"
)

// maxInterface is the longest name of an interface, in bytes (IFNAMSIZ and its NUL).
const maxInterface = 15

func (k *checker) vlans(field string, r *Role) {
	seen := make(map[int]int)
	for i := range r.VLANs {
		v := &r.VLANs[i]
		at := fmt.Sprintf("%s[%d]", field, i)
		first, dup := seen[v.ID]
		switch {
		case v.ID < 1 || v.ID > 4094:
			k.fail(at+".id", strconv.Itoa(v.ID), "want 1 to 4094")
		case dup:
			k.fail(at+".id", strconv.Itoa(v.ID), "already the id of %s[%d]", field, first)
		case len(v.Interface(r.Name)) > maxInterface:
			k.fail(at+".id", strconv.Itoa(v.ID), "the interface would be called %s, and has room for %d bytes", v.Interface(r.Name), maxInterface)
		}
		if !dup {
			seen[v.ID] = i
		}
		k.network(at+".network", &v.Network)
	}
}

// vlanNames finds a VLAN whose interface would have the name of a role's.
func (k *checker) vlanNames(roles []Role, byName map[string]int) {
	for i, r := range roles {
		for j, v := range r.VLANs {
			if other, dup := byName[v.Interface(r.Name)]; dup {
				k.fail(fmt.Sprintf("roles[%d].vlan[%d].id", i, j), strconv.Itoa(v.ID), "its interface would have the name of roles[%d]", other)
			}
		}
	}
}

// routes checks the routes of a network with addresses in nets; what DHCP will give
// is not known.
func (k *checker) routes(field string, n *Network, nets []netip.Prefix) {
	if n.Method == MethodNone && len(n.Routes) > 0 {
		k.fail(field, "", "method none takes no routes")
		return
	}
	for i, r := range n.Routes {
		at := fmt.Sprintf("%s[%d]", field, i)
		to, err := netip.ParsePrefix(r.To)
		if err != nil || to != to.Masked() {
			k.fail(at+".to", r.To, "want a network, such as 10.1.0.0/16")
			continue
		}
		via, err := netip.ParseAddr(r.Via)
		switch {
		case err != nil || via.Is4() != to.Addr().Is4():
			k.fail(at+".via", r.Via, "want an address of the same family as to")
		case n.Method == MethodStatic && !reachable(via, nets):
			k.fail(at+".via", r.Via, "is in none of the networks of addresses")
		}
	}
}
