// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tellIPv6 tells what the proxy has of IPv6 whenever that changes: every address
// with what the kernel thinks of it, and every gateway.
func tellIPv6(ctx context.Context) error {
	l, err := netlink.LinkByName(role)
	if err != nil {
		return err
	}
	watch(ctx, func() (string, error) {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return "", err
		}
		routes, err := netlink.RouteList(l, netlink.FAMILY_V6)
		if err != nil {
			return "", err
		}
		var said []string
		for _, a := range addrs {
			what := "unique"
			switch {
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				what = "dadfailed"
			case a.Flags&unix.IFA_F_TENTATIVE != 0:
				what = "tentative"
			case a.Flags&unix.IFA_F_DEPRECATED != 0:
				what = "deprecated"
			}
			said = append(said, fmt.Sprintf("%s %s", a.IPNet, what))
		}
		for _, r := range routes {
			if r.Gw != nil {
				said = append(said, "gateway "+r.Gw.String())
			}
		}
		slices.Sort(said)
		return "ipv6 of " + role + ": " + strings.Join(said, ", "), nil
	})
	return nil
}
