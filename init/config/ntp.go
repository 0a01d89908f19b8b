// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// NTP says whom the guest asks for the time (RFC 5905). Nobody is asked unless one of the
// keys is given. It has the same form in the builder's TOML as in the guest's JSON.
type NTP struct {
	// Servers are names or addresses, with ":PORT" if that is not 123.
	Servers []string `json:"servers,omitempty" toml:"servers"`
	// DHCP has those asked too that DHCP offers (option 42). It is off if empty.
	DHCP Switch `json:"dhcp,omitempty" toml:"dhcp"`
}

// MaxTimeServers bounds the servers that are asked at a time.
const MaxTimeServers = 8

// Enabled reports whether anybody is to be asked.
func (n NTP) Enabled() bool { return len(n.Servers) > 0 || n.DHCP == On }

func (k *checker) ntp(n NTP) {
	k.position("ntp.dhcp", n.DHCP)
	if len(n.Servers) > MaxTimeServers {
		k.fail("ntp.servers", "", "%d: want %d at most", len(n.Servers), MaxTimeServers)
	}
	for i, s := range n.Servers {
		field := fmt.Sprintf("ntp.servers[%d]", i)
		switch {
		case !isServer(s):
			k.fail(field, s, `want a name or an address, such as "ntp.example.org", "192.0.2.1:1123" or "[2001:db8::1]:1123"`)
		case slices.Contains(n.Servers[:i], s):
			k.fail(field, s, "is there already")
		}
	}
}

// isServer reports whether s is a host, by its name or address, and maybe a port.
func isServer(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Port() != 0
	}
	host, port, found := strings.Cut(s, ":")
	if found {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	// The last label of a name is no number (RFC 1123, 2.1): 192.0.2 is no address either.
	_, err := strconv.ParseUint(host[strings.LastIndexByte(host, '.')+1:], 10, 64)
	return err != nil && len(host) <= 253 && hostname.MatchString(host)
}
