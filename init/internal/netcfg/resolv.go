// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// maxNameservers is how many name servers resolvers look at (MAXNS of
// resolv.h).
const maxNameservers = 3

// ResolvConf returns the text of /etc/resolv.conf for the states of all roles,
// in the order of their names: each name server once, the first three of them.
// Of a role, those of its method come first, then those of DHCPv6, then those that
// routers advertise.
func ResolvConf(states map[string]State) string {
	var roles []string
	for role := range states {
		roles = append(roles, role)
	}
	slices.Sort(roles)
	var servers []netip.Addr
	var domains []string
	for _, role := range roles {
		st := states[role]
		addrs, names := slices.Clone(st.DNS), []string{st.Domain}
		if l := st.V6.Lease; l != nil {
			addrs = append(addrs, l.DNS...)
			names = append(names, l.Domains...)
		}
		for _, s := range st.V6.Servers {
			addrs = append(addrs, s.Addr)
		}
		for _, a := range addrs {
			if !slices.Contains(servers, a) {
				servers = append(servers, a)
			}
		}
		for _, name := range names {
			if name != "" && !slices.Contains(domains, name) {
				domains = append(domains, name)
			}
		}
	}
	var b strings.Builder
	if len(domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(domains, " "))
	}
	for _, a := range servers[:min(len(servers), maxNameservers)] {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}
