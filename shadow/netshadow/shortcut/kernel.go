// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shortcut

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// table returns the routes of the main table, and apart from them those that are of the
// proxy's shortcut. Those of other proxies' shortcuts are in neither.
func table(proxy int) (others, ours []netlink.Route, err error) {
	all, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		err = fmt.Errorf("routes: %w", err)
	}
	mine := map[int]bool{proxy: true}
	for _, r := range all {
		if r.Protocol != protocol {
			others = append(others, r)
			continue
		}
		is, seen := mine[r.LinkIndex]
		if !seen {
			l, err := netlink.LinkByIndex(r.LinkIndex)
			is = err == nil && l.Attrs().MasterIndex == proxy
			mine[r.LinkIndex] = is
		}
		if is {
			ours = append(ours, r)
		}
	}
	return others, ours, err
}

// compare tells which of the routes that there are must go, and which are missing.
func compare(have []netlink.Route, want []route, proxy, port int) (stale []netlink.Route, missing []route) {
	there := make(map[route]bool)
	for _, k := range have {
		if r, ok := ofKernel(k, proxy, port); ok && slices.Contains(want, r) {
			there[r] = true
		} else {
			stale = append(stale, k)
		}
	}
	missing = slices.DeleteFunc(slices.Clone(want), func(r route) bool { return there[r] })
	return stale, missing
}

// remove takes routes away. One that has gone by itself is no error.
func remove(routes []netlink.Route) error {
	var errs []error
	for _, r := range routes {
		err := netlink.RouteDel(&r)
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove the route to %s by interface %d: %w", prefix(r), r.LinkIndex, err))
		}
	}
	return errors.Join(errs...)
}

// add makes routes, but for those that somebody has made meanwhile.
func add(routes []route, proxy, port int) error {
	var errs []error
	for _, r := range routes {
		k := r.kernel(proxy, port)
		if err := netlink.RouteAdd(&k); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("route to %s by interface %d: %w", r.to, k.LinkIndex, err))
		}
	}
	return errors.Join(errs...)
}

// entriesOf returns the hardware addresses that a port was given.
func entriesOf(port int) (map[netip.Addr]string, error) {
	list, err := netlink.NeighList(port, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("neighbours of interface %d: %w", port, err)
	}
	entries := make(map[netip.Addr]string)
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State == unix.NUD_PERMANENT {
			entries[ip] = string(n.HardwareAddr)
		}
	}
	return entries, nil
}

// introduce tells the port of hosts, and has the kernel look after the proxy's entries of
// those that it has not looked after.
func introduce(hosts []host, v view, port int) error {
	entries, err := entriesOf(port)
	if err != nil {
		return err
	}
	var errs []error
	set := func(n netlink.Neigh) {
		n.Family = unix.AF_INET
		if err := netlink.NeighSet(&n); err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s of interface %d: %w", n.IP, n.LinkIndex, err))
		}
	}
	for _, h := range hosts {
		if entries[h.ip] != h.mac {
			set(netlink.Neigh{LinkIndex: port, IP: h.ip.AsSlice(), HardwareAddr: net.HardwareAddr(h.mac), State: unix.NUD_PERMANENT})
		}
		if !h.permanent && !v.managed(h.ip) {
			set(netlink.Neigh{LinkIndex: v.proxy, IP: h.ip.AsSlice(), FlagsExt: netlink.NTF_EXT_MANAGED})
		}
	}
	return errors.Join(errs...)
}

// remind gives the proxy the addresses of those that the kernel has lost and that may be
// there all the same: hosts, and those that a predecessor gave to the ports of routes.
func remind(hosts map[netip.Addr]host, routes []netlink.Route, proxy int) error {
	last := make(map[netip.Addr]string)
	read := map[int]bool{proxy: true}
	for _, r := range routes {
		if read[r.LinkIndex] {
			continue
		}
		read[r.LinkIndex] = true
		entries, err := entriesOf(r.LinkIndex)
		if err != nil {
			return err
		}
		maps.Copy(last, entries)
	}
	for ip, h := range hosts {
		last[ip] = h.mac
	}
	list, err := netlink.NeighList(proxy, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("neighbours: %w", err)
	}
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&usable != 0 {
			delete(last, ip)
		}
	}
	var errs []error
	for ip, mac := range last {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: proxy, Family: unix.AF_INET, IP: ip.AsSlice(), HardwareAddr: net.HardwareAddr(mac), State: unix.NUD_STALE,
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s: %w", ip, err))
		}
	}
	return errors.Join(errs...)
}

// managed reports whether the kernel looks after the proxy's entry of ip.
func (v view) managed(ip netip.Addr) bool {
	return slices.ContainsFunc(v.neighbours, func(n netlink.Neigh) bool {
		return n.IP.Equal(ip.AsSlice()) && n.FlagsExt&netlink.NTF_EXT_MANAGED != 0
	})
}

// forget takes those that are not among hosts any more from the port, and has the kernel
// look after them no longer: it would go on asking for one that is gone.
func forget(hosts []host, v view, port int) error {
	entries, err := entriesOf(port)
	if err != nil {
		return err
	}
	var errs []error
	for ip := range entries {
		if slices.ContainsFunc(hosts, func(h host) bool { return h.ip == ip }) {
			continue
		}
		errs = append(errs, netlink.NeighDel(&netlink.Neigh{LinkIndex: port, Family: unix.AF_INET, IP: ip.AsSlice()}))
		for _, n := range v.neighbours {
			switch {
			case !n.IP.Equal(ip.AsSlice()) || n.FlagsExt&netlink.NTF_EXT_MANAGED == 0:
			case n.State&usable != 0:
				n.State, n.FlagsExt = unix.NUD_STALE, 0
				errs = append(errs, netlink.NeighSet(&n))
			default:
				errs = append(errs, netlink.NeighDel(&n))
			}
		}
	}
	for i, err := range errs {
		if errors.Is(err, unix.ENOENT) { // the kernel was faster
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}
