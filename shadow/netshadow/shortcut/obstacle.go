// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shortcut

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// obstacle says why nothing may be routed around the proxy, "" if it may: see the package
// comment. conf has the kernel's settings of each interface, and of "all"
// (Documentation/networking/ip-sysctl.rst, net.ipv4.conf).
func obstacle(conf fs.FS, proxy string) string {
	is := func(iface, key string) string {
		b, _ := fs.ReadFile(conf, path.Join(iface, key)) // of an interface that goes, nothing
		return strings.TrimSpace(string(b))
	}
	// The larger value counts: 0, no test; 1, strict; 2, loose.
	if max(is("all", "rp_filter"), is(proxy, "rp_filter")) == "1" {
		return fmt.Sprintf("rp_filter of all or of %s is 1, strict, which would drop what is received; it may be 2, loose", proxy)
	}
	if is("all", "arp_filter") == "1" || is(proxy, "arp_filter") == "1" {
		return fmt.Sprintf("arp_filter of all or of %s is 1, which would answer no ARP request", proxy)
	}
	forwarding, _ := fs.Glob(conf, "*/forwarding")
	for _, file := range forwarding {
		if iface := path.Dir(file); iface != "default" && is(iface, "forwarding") == "1" {
			return fmt.Sprintf("forwarding of %s is on, and rules that name %s would not see what is forwarded", iface, proxy)
		}
	}
	return ""
}
