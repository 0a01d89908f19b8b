// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package netcfg gives the interfaces of network roles their addresses,
// routes and name servers, by DHCP, DHCPv6 or as configured, and keeps them.
// What follows from IPv6 router advertisements the kernel does by itself, all but
// the name servers.
//
// It works on whatever interface bears the role's name and asks no further. A
// proxy that lives as long as the guest is configured once and never touched
// again for what happens below it; an interface that goes and comes back as
// another one is configured again, as on any system. It must never know what a
// proxy, a shadow or a driver is.
package netcfg
