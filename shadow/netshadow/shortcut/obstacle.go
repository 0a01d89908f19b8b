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
// comment. ipv4 has the kernel's settings (Documentation/networking/ip-sysctl.rst,
// net.ipv4); the one of neighbours came in 6.0, soon behind NTF_EXT_MANAGED, which nothing
// else tells of.
func obstacle(ipv4 fs.FS, proxy string) string {
	is := func(iface, key string) string {
		b, _ := fs.ReadFile(ipv4, path.Join("conf", iface, key)) // of an interface that goes, nothing
		return strings.TrimSpace(string(b))
	}
	if _, err := fs.Stat(ipv4, path.Join("neigh", proxy, "interval_probe_time_ms")); err != nil {
		return "the kernel looks after no neighbours: Linux 6.0 does"
	}
	// The larger value counts: 0, no test; 1, strict; 2, loose.
	if max(is("all", "rp_filter"), is(proxy, "rp_filter")) == "1" {
		return fmt.Sprintf("rp_filter of all or of %s is 1, strict, which would drop what is received; it may be 2, loose", proxy)
	}
	if is("all", "arp_filter") == "1" || is(proxy, "arp_filter") == "1" {
		return fmt.Sprintf("arp_filter of all or of %s is 1, which would answer no ARP request", proxy)
	}
	forwarding, _ := fs.Glob(ipv4, "conf/*/forwarding")
	for _, file := range forwarding {
		if iface := path.Base(path.Dir(file)); iface != "default" && is(iface, "forwarding") == "1" {
			return fmt.Sprintf("forwarding of %s is on, and rules that name %s would not see what is forwarded", iface, proxy)
		}
	}
	return ""
}
