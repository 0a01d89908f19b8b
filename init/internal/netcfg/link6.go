// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// View6 is what the kernel knows of IPv6 on an interface.
type View6 struct {
	Addresses []Address6
	// Managed says that a router has advertised that addresses are to be had by
	// DHCPv6 (RFC 4861, 4.2, M flag).
	Managed bool
}

// Address6 is an IPv6 address of an interface.
type Address6 struct {
	Prefix netip.Prefix
	Check  Check
}

// Check is how far the search for another host with the same address has come
// (duplicate address detection, RFC 4862, 5.4).
type Check string

// The states of the search.
const (
	Unique    Check = "unique"
	Tentative Check = "tentative"
	Duplicate Check = "duplicate"
)

// check returns the state of one address; none if the interface does not have it.
func (v View6) check(a netip.Addr) (c Check, there bool) {
	for _, have := range v.Addresses {
		if have.Prefix.Addr() == a {
			return have.Check, true
		}
	}
	return "", false
}

// linkLocal returns the address that can be used to ask the hosts on the link.
func (v View6) linkLocal() (netip.Addr, bool) {
	for _, a := range v.Addresses {
		if a.Prefix.Addr().IsLinkLocalUnicast() && a.Check == Unique {
			return a.Prefix.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// global returns an address that hosts beyond the link can be talked to from.
func (v View6) global() (netip.Addr, bool) {
	for _, a := range v.Addresses {
		if a.Prefix.Addr().IsGlobalUnicast() && a.Check == Unique {
			return a.Prefix.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func (k rtnetlink) View6(index int) (View6, error) {
	list, err := netlink.AddrList(k.link(index), netlink.FAMILY_V6)
	if err != nil {
		return View6{}, fmt.Errorf("list IPv6 addresses: %w", err)
	}
	var v View6
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok {
			v.Addresses = append(v.Addresses, Address6{p, checkOf(a.Flags)})
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_INET6))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return View6{}, fmt.Errorf("list IPv6 interfaces: %w", err)
	}
	for _, m := range msgs {
		if at, flags, ok := inet6Flags(m); ok && at == index {
			v.Managed = flags&raManaged != 0
		}
	}
	return v, nil
}

func (k rtnetlink) AddLeased(index int, a netip.Addr, preferred, valid time.Duration) error {
	return netlink.AddrReplace(k.link(index), &netlink.Addr{
		IPNet: ipNet(single(a)), PreferedLft: seconds(preferred), ValidLft: seconds(valid),
	})
}

// single returns the prefix of a leased address: which other addresses are on the
// link is the routers' to say (RFC 5942, 4).
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func checkOf(flags int) Check {
	switch {
	case flags&unix.IFA_F_DADFAILED != 0:
		return Duplicate
	case flags&unix.IFA_F_TENTATIVE != 0 && flags&unix.IFA_F_OPTIMISTIC == 0:
		return Tentative
	}
	return Unique
}

// Constants of the kernel that no package has: linux/if_link.h,
// IFLA_INET6_FLAGS; include/net/if_inet6.h, IF_RA_MANAGED; linux/rtnetlink.h,
// nduseroptmsg.
const (
	iflaInet6Flags   = 1
	raManaged        = 0x40
	userOptHeaderLen = 16
)

// inet6Flags reads the interface's IPv6 flags from a message about a link, whose
// family is AF_INET6.
func inet6Flags(m []byte) (index int, flags uint32, ok bool) {
	if len(m) < unix.SizeofIfInfomsg || m[0] != unix.AF_INET6 {
		return 0, 0, false
	}
	index = int(nl.DeserializeIfInfomsg(m).Index)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0, 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED != unix.IFLA_PROTINFO {
			continue
		}
		nested, err := nl.ParseRouteAttr(a.Value)
		if err != nil {
			return 0, 0, false
		}
		for _, n := range nested {
			if n.Attr.Type == iflaInet6Flags && len(n.Value) >= 4 {
				return index, binary.NativeEndian.Uint32(n.Value), true
			}
		}
	}
	return 0, 0, false
}

// news6 says that something of IPv6 has changed on an interface: 0 is all of them.
type news6 struct {
	index   int
	servers []advertised // name servers that a router has just advertised
}

// advertised is a name server and how long it may be used (RFC 8106, 5.1); 0 means
// no longer.
type advertised struct {
	addr     netip.Addr
	lifetime time.Duration
}

// watchIPv6 tells about every change of an interface's IPv6 until ctx is done.
func watchIPv6(ctx context.Context, log *slog.Logger, tell func(news6)) {
	for ctx.Err() == nil {
		if err := followIPv6(ctx, tell); err != nil && ctx.Err() == nil {
			// Typically ENOBUFS: messages were lost, all is looked at anew.
			log.Debug("IPv6 is watched again", "err", err)
			sleep(ctx, 50*time.Millisecond)
		}
	}
}

func followIPv6(ctx context.Context, tell func(news6)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_IFINFO, unix.RTNLGRP_ND_USEROPT)
	if err != nil {
		return fmt.Errorf("subscribe to IPv6: %w", err)
	}
	defer context.AfterFunc(ctx, s.Close)()
	tell(news6{})
	for {
		msgs, from, err := s.Receive()
		if err != nil {
			if ctx.Err() == nil {
				s.Close()
			}
			return fmt.Errorf("subscription to IPv6: %w", err)
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			if n, ok := newsOf(m); ok {
				tell(n)
			}
		}
	}
}

// newsOf reads one message of the kernel.
func newsOf(m syscall.NetlinkMessage) (news6, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return news6{}, false
		}
		return news6{index: int(nl.DeserializeIfAddrmsg(m.Data).Index)}, true
	case unix.RTM_NEWLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return news6{}, false
		}
		return news6{index: int(nl.DeserializeIfInfomsg(m.Data).Index)}, true
	case unix.RTM_NEWNDUSEROPT:
		return userOptions(m.Data)
	}
	return news6{}, false
}

// userOptions reads the options of a router advertisement that the kernel leaves to
// programs (struct nduseroptmsg).
func userOptions(b []byte) (news6, bool) {
	const (
		routerAdvertisement = 134 // ICMPv6 type
		rdnss               = 25  // RFC 8106, 5.1
	)
	if len(b) < userOptHeaderLen || b[0] != unix.AF_INET6 || b[8] != routerAdvertisement {
		return news6{}, false
	}
	n := news6{index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
	opts := b[userOptHeaderLen:]
	opts = opts[:min(len(opts), int(binary.NativeEndian.Uint16(b[2:])))]
	for len(opts) >= 8 {
		size := int(opts[1]) * 8
		if size == 0 || size > len(opts) {
			break
		}
		if opts[0] == rdnss {
			lifetime := time.Duration(binary.BigEndian.Uint32(opts[4:])) * time.Second
			for at := 8; at+16 <= size; at += 16 {
				if a := netip.AddrFrom16([16]byte(opts[at : at+16])); usableServer(a) && !a.Is4In6() {
					n.servers = append(n.servers, advertised{a, lifetime})
				}
			}
		}
		opts = opts[size:]
	}
	return n, len(n.servers) > 0
}
