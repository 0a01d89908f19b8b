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
		for _, a := range st.DNS {
			if !slices.Contains(servers, a) {
				servers = append(servers, a)
			}
		}
		if st.Domain != "" && !slices.Contains(domains, st.Domain) {
			domains = append(domains, st.Domain)
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
