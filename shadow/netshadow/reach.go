// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/announce"
	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
)

const (
	// reachTries is how often neighbours are asked, reachWait how long one that
	// is alive may take to answer.
	reachTries = 3
	reachWait  = 300 * time.Millisecond
	// reachAsked is how many neighbours are asked at once.
	reachAsked = 4
)

// reach makes sure that the device receives what is sent to the role's MAC, where
// that is not its own. A driver takes every address; but a device may filter by the
// one that it was made with all the same, as QEMU's ne2k does (hw/net/ne2000.c,
// ne2000_receive, which compares with the PROM). Then nothing but broadcasts gets
// in. So neighbours are asked something that they answer to that MAC alone; if
// nobody can be heard, the device is made promiscuous, and asked again. It changes
// nothing if nobody answers then either: there may be nobody.
func (s *netShadow) reach(ctx context.Context, iface string) {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return // the device has gone again
	}
	mac := l.Attrs().HardwareAddr
	if bytes.Equal(l.Attrs().PermHWAddr, mac) {
		return
	}
	heard, err := s.heard(ctx, l, mac)
	if heard || err != nil {
		s.reachFailed(ctx, err)
		return
	}
	if err := netlink.SetPromiscOn(l); err != nil {
		s.reachFailed(ctx, fmt.Errorf("make %s promiscuous: %w", iface, err))
		return
	}
	heard, err = s.heard(ctx, l, mac)
	if heard {
		s.log.Warn("the device receives for its own MAC only: it is promiscuous now", "iface", iface, "mac", mac)
		return
	}
	s.reachFailed(ctx, errors.Join(err, netlink.SetPromiscOff(l)))
}

func (s *netShadow) reachFailed(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, unix.ENODEV) {
		s.log.Warn("not known whether the device receives for the role's MAC", "err", err)
	}
}

// heard asks neighbours, and reports whether any was heard. It is true as well if
// there is nobody to ask.
func (s *netShadow) heard(ctx context.Context, l netlink.Link, mac net.HardwareAddr) (bool, error) {
	questions, protocol, err := s.questions(mac)
	if err != nil || len(questions) == 0 {
		return true, err
	}
	ifi, err := net.InterfaceByIndex(l.Attrs().Index)
	if err != nil {
		return false, err
	}
	conn, err := packet.Listen(ifi, packet.Raw, protocol, nil)
	if err != nil {
		return false, fmt.Errorf("listen for answers on %s: %w", ifi.Name, err)
	}
	defer conn.Close()
	for range reachTries {
		for _, q := range questions {
			if _, err := conn.WriteTo(q, &packet.Addr{HardwareAddr: q[:6]}); err != nil {
				return false, fmt.Errorf("ask on %s: %w", ifi.Name, err)
			}
		}
		ok, err := answered(ctx, conn, mac)
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// answered waits for a frame to mac.
func answered(ctx context.Context, conn *packet.Conn, mac net.HardwareAddr) (bool, error) {
	if err := conn.SetReadDeadline(time.Now().Add(reachWait)); err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 64)
	for {
		n, _, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, err
		case n >= 6 && bytes.Equal(buf[:6], mac):
			return true, nil
		}
	}
}

// questions returns what neighbours of the proxy are to be asked, and the protocol of
// their answers: ARP, or neighbour discovery if there is no neighbour of IPv4.
func (s *netShadow) questions(mac net.HardwareAddr) (out [][]byte, protocol int, err error) {
	bond, err := s.proxy.link()
	if err != nil {
		return nil, 0, err
	}
	if out, err = s.questions4(mac); err != nil || len(out) > 0 {
		return out, unix.ETH_P_ARP, err
	}
	out, err = s.questions6(bond, mac)
	return out, unix.ETH_P_IPV6, err
}

// questions6 returns neighbour solicitations from the proxy's link-local address.
func (s *netShadow) questions6(bond netlink.Link, mac net.HardwareAddr) ([][]byte, error) {
	addrs, err := dump.Addresses(bond, unix.AF_INET6)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", s.proxy.name, err)
	}
	var from netip.Addr
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
			from = ip
		}
	}
	if !from.IsValid() {
		return nil, nil
	}
	neighbours, err := dump.Neighbours(bond.Attrs().Index, unix.AF_INET6)
	if err != nil {
		return nil, fmt.Errorf("neighbours of %s: %w", s.proxy.name, err)
	}
	var out [][]byte
	for _, n := range neighbours {
		to, ok := netip.AddrFromSlice(n.IP)
		if n.State&valid == 0 || !ok || to.IsMulticast() {
			continue
		}
		q, err := announce.Solicitation(mac, from, to)
		if err != nil {
			return nil, err
		}
		if out = append(out, q); len(out) == reachAsked {
			break
		}
	}
	return out, nil
}

// questions4 returns ARP requests for IPv4 neighbours of the proxy, and of what is
// stacked on it and has the role's MAC too: the proxy itself may have no address.
func (s *netShadow) questions4(mac net.HardwareAddr) (out [][]byte, err error) {
	stacked, err := stack.On(ifindex(s.proxy.name))
	if err != nil {
		return nil, err
	}
	addrs, err := dump.Addresses(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", s.proxy.name, err)
	}
	neighbours, err := dump.Neighbours(0, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("neighbours of %s: %w", s.proxy.name, err)
	}
	for _, i := range stacked.Interfaces {
		if !bytes.Equal(i.MAC, mac) {
			continue
		}
		for _, n := range neighbours {
			from, to, ok := ask(i.Index, n, addrs)
			if !ok {
				continue
			}
			q, err := announce.Question(i.Place, from, to)
			if err != nil {
				return nil, err
			}
			if out = append(out, q); len(out) == reachAsked {
				return out, nil
			}
		}
	}
	return out, nil
}

// ask returns who on an interface can ask a neighbour, and the neighbour; false if it
// is none of that interface's, or nobody can.
func ask(index int, n netlink.Neigh, addrs []netlink.Addr) (from, to netip.Addr, ok bool) {
	to, ok = netip.AddrFromSlice(n.IP.To4())
	if n.LinkIndex != index || n.State&valid == 0 || !ok {
		return from, to, false
	}
	for _, a := range addrs {
		if from, ok = netip.AddrFromSlice(a.IP.To4()); ok && a.LinkIndex == index && a.Contains(n.IP) {
			return from, to, true
		}
	}
	return from, to, false
}
