// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shortcut

import (
	"cmp"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxHosts bounds the neighbours that have routes: as many as the kernel keeps without
// ever forgetting one (net/ipv4/arp.c, arp_tbl.gc_thresh1).
const maxHosts = 128

// hostMetric is that of a route to one neighbour. Such a route comes before that of the
// network whatever its metric is, being more specific; one that a user makes to the same
// host has most probably a lower one, and comes before ours.
const hostMetric = 0x756d

// kept are the addresses that stay with the proxy whatever leads there: those of groups,
// which are joined on, and sent by, the interface of the route that leads to them
// (net/ipv4/igmp.c, ip_mc_find_dev), and the broadcast, whose copy for this host comes from
// the interface that it is sent by.
var kept = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32")}

// view is what the kernel has.
type view struct {
	proxy      int             // ifindex
	addresses  []netlink.Addr  // of the proxy, in the kernel's order
	neighbours []netlink.Neigh // of the proxy
	routes     []netlink.Route // of the main table, but for ours
	// had are the neighbours that had a route last; of those that the kernel has lost
	// since, over are the ones that do not keep it any longer, see grace.
	had  map[netip.Addr]host
	over map[netip.Addr]bool
}

// A host is a neighbour with the hardware address that frames for it are sent to.
type host struct {
	ip  netip.Addr
	mac string // 6 bytes
	// permanent says that a user has set the proxy's entry, which is not to be asked for.
	permanent bool
	// lost says that the kernel has no address of it now.
	lost bool
}

// A route is one of ours.
type route struct {
	to      netip.Prefix
	gateway netip.Addr // invalid: to is a neighbour, or one of kept
	source  netip.Addr
	metric  int
	proxy   bool // over the proxy, as for kept, not by the port
}

// A plan is what there should be, in the order in which it is to be made.
type plan struct {
	hosts  []host
	routes []route
}

// States of an entry (linux/neighbour.h) that somebody sends to now, and others that frames
// are sent with.
const (
	inUse  = unix.NUD_PERMANENT | unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_PROBE
	usable = inUse | unix.NUD_STALE
)

// plan decides what goes by the port: what is sent to gateways whose hardware address is
// known, by routes that are the kernel's first choice, and what is sent to such neighbours
// themselves.
func (v view) plan() plan {
	known := v.known()
	var routes []route
	wanted := make(map[netip.Addr]bool)
	for _, r := range v.routes {
		m, ok := v.mirror(r)
		if _, resolved := known[m.gateway]; !ok || !resolved {
			continue
		}
		routes = append(routes, m)
		wanted[m.gateway] = true
	}
	routes = append(routes, v.keep(routes)...)
	ips := make([]netip.Addr, 0, len(known))
	for ip := range known {
		ips = append(ips, ip)
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	for _, ip := range ips {
		if len(wanted) >= maxHosts && !wanted[ip] {
			continue
		}
		if source, ok := v.onLink(ip); ok {
			routes = append(routes, route{to: netip.PrefixFrom(ip, ip.BitLen()), source: source, metric: hostMetric})
			wanted[ip] = true
		}
	}
	p := plan{routes: routes}
	for _, ip := range ips {
		if wanted[ip] {
			p.hosts = append(p.hosts, known[ip])
		}
	}
	return p
}

// known returns the neighbours that a route may lead to. An entry that nobody uses may be
// of somebody who has once asked for us.
func (v view) known() map[netip.Addr]host {
	hosts := make(map[netip.Addr]host)
	for _, n := range v.neighbours {
		ip, ok := netip.AddrFromSlice(n.IP.To4())
		if !ok || ip.IsMulticast() || len(n.HardwareAddr) != 6 {
			continue
		}
		_, had := v.had[ip]
		if n.State&inUse != 0 || n.State&usable != 0 && had {
			hosts[ip] = host{ip: ip, mac: string(n.HardwareAddr), permanent: n.State&unix.NUD_PERMANENT != 0}
		}
	}
	for ip, h := range v.had {
		if _, there := hosts[ip]; !there && !v.over[ip] {
			hosts[ip] = host{ip: ip, mac: h.mac, lost: true}
		}
	}
	return hosts
}

// mirror returns the route that goes where r goes, and comes right before it; false if
// there can be none. Where another route than r is the kernel's first choice, as that of
// another role may be, it is to stay that.
func (v view) mirror(r netlink.Route) (route, bool) {
	gateway, ok := netip.AddrFromSlice(r.Gw.To4())
	// Nothing comes before a metric of 0.
	if !ok || r.LinkIndex != v.proxy || !plain(r) || r.Priority == 0 {
		return route{}, false
	}
	to := prefix(r)
	first := !slices.ContainsFunc(v.routes, func(other netlink.Route) bool {
		return prefix(other) == to && other.Priority < r.Priority
	})
	if !first {
		return route{}, false
	}
	source, ok := v.source(r, gateway)
	return route{to: to, gateway: gateway, source: source, metric: r.Priority - 1}, ok
}

// keep returns the routes that keep what is kept with the proxy, where one of ours would
// lead there. A user's route to there does so without them, or is meant otherwise.
func (v view) keep(ours []route) (routes []route) {
	for _, k := range kept {
		users := slices.ContainsFunc(v.routes, func(r netlink.Route) bool { return prefix(r) == k })
		i := slices.IndexFunc(ours, func(r route) bool { return r.to.Bits() <= k.Bits() && r.to.Contains(k.Addr()) })
		if i >= 0 && !users {
			routes = append(routes, route{to: k, source: ours[i].source, metric: ours[i].metric, proxy: true})
		}
	}
	return routes
}

// onLink reports whether ip is one that the kernel sends to over the proxy, without a
// gateway and by the route of a network, and from which address.
func (v view) onLink(ip netip.Addr) (source netip.Addr, ok bool) {
	var best *netlink.Route
	for i, r := range v.routes {
		if !prefix(r).Contains(ip) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(prefix(r).Bits(), prefix(*best).Bits()), cmp.Compare(best.Priority, r.Priority)) > 0 {
			best = &v.routes[i]
		}
	}
	if best == nil || best.LinkIndex != v.proxy || len(best.Gw) > 0 || !plain(*best) || prefix(*best).IsSingleIP() {
		return source, false
	}
	return v.source(*best, ip)
}

// plain reports whether r says where to send and nothing else.
func plain(r netlink.Route) bool {
	bare := netlink.Route{
		LinkIndex: r.LinkIndex, Scope: r.Scope, Dst: r.Dst, Src: r.Src, Gw: r.Gw, Protocol: r.Protocol, Priority: r.Priority,
		Family: r.Family, Table: r.Table, Type: unix.RTN_UNICAST, Flags: r.Flags & unix.RTNH_F_ONLINK,
	}
	return reflect.DeepEqual(r, bare)
}

// source is the address that the kernel sends from by r, whose next hop is next
// (net/ipv4/devinet.c, inet_select_addr). A route by another interface has to say so:
// that one has no address.
func (v view) source(r netlink.Route, next netip.Addr) (first netip.Addr, ok bool) {
	if src, ok := netip.AddrFromSlice(r.Src.To4()); ok {
		return src, true
	}
	for _, a := range v.addresses {
		ip, isIP := netip.AddrFromSlice(a.IP.To4())
		if !isIP || a.Scope != unix.RT_SCOPE_UNIVERSE || a.Flags&unix.IFA_F_SECONDARY != 0 {
			continue
		}
		if a.Contains(next.AsSlice()) {
			return ip, true
		}
		if !first.IsValid() {
			first = ip
		}
	}
	return first, first.IsValid()
}

// prefix is where r leads.
func prefix(r netlink.Route) netip.Prefix {
	if r.Dst == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	ip, _ := netip.AddrFromSlice(r.Dst.IP.To4())
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(ip, bits)
}

// kernel returns r in the kernel's terms.
func (r route) kernel(proxy, port int) netlink.Route {
	k := netlink.Route{
		LinkIndex: port, Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: protocol,
		Dst:      &net.IPNet{IP: r.to.Addr().AsSlice(), Mask: net.CIDRMask(r.to.Bits(), 32)},
		Src:      r.source.AsSlice(),
		Priority: r.metric,
	}
	if r.proxy {
		k.LinkIndex = proxy
	}
	if r.gateway.IsValid() {
		// No network of the port's has the gateway in it.
		k.Gw, k.Flags = r.gateway.AsSlice(), unix.RTNH_F_ONLINK
	} else {
		k.Scope = netlink.SCOPE_LINK
	}
	return k
}

// ofKernel is the inverse of kernel; it is false for a route that goes by another port.
func ofKernel(k netlink.Route, proxy, port int) (route, bool) {
	r := route{to: prefix(k), metric: k.Priority, proxy: k.LinkIndex == proxy}
	r.gateway, _ = netip.AddrFromSlice(k.Gw.To4())
	r.source, _ = netip.AddrFromSlice(k.Src.To4())
	return r, r.proxy || k.LinkIndex == port
}
