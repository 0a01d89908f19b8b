// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package announce tells the network where the guest's addresses are now: it sends
// a gratuitous ARP or an unsolicited neighbour advertisement for every address of
// an interface and of those stacked on it, and a reverse ARP request for every MAC
// whose addresses it cannot know, so that switches and neighbours learn the new way
// at once.
//
// The package must never know why the way is new.
package announce

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
)

// ErrHardwareAddr reports an interface without an Ethernet address.
var ErrHardwareAddr = errors.New("not an Ethernet address")

const (
	etherLen     = 14
	etherMin     = 60 // without the frame check sequence
	typeARP      = 0x0806
	typeRARP     = 0x8035
	typeIPv6     = 0x86dd
	arpLen       = 28
	ipv6Len      = 40
	discoveryLen = 32 // the header and one link-layer address option
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ARP returns the Ethernet frame of an ARP announcement for an IPv4 address: a
// broadcast request whose sender and target address are both addr (RFC 5227 2.3 and
// 3: requests, for some stacks ignore unsolicited replies).
func ARP(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	if !addr.Is4() {
		return nil, errors.New("announce: ARP for an address that is not IPv4")
	}
	const request = 1
	ip := addr.As4()
	return arp(typeARP, request, mac, ip, make(net.HardwareAddr, 6), ip)
}

// Question returns an ARP request of from, which is at p, for the hardware address
// of to. Whoever has it answers to p's MAC alone (RFC 826).
func Question(p stack.Place, from, to netip.Addr) ([]byte, error) {
	if !from.Is4() || !to.Is4() {
		return nil, errors.New("announce: ARP for an address that is not IPv4")
	}
	const request = 1
	b, err := arp(typeARP, request, p.MAC, from.As4(), make(net.HardwareAddr, 6), to.As4())
	return tagged(b, p.Tags), err
}

// RARP returns a reverse ARP request, with which an interface that has no address
// shows its MAC to switches. It is what QEMU sends for a guest after migration
// (announce_self_create(), net/announce.c).
func RARP(mac net.HardwareAddr) ([]byte, error) {
	const reverseRequest = 3
	return arp(typeRARP, reverseRequest, mac, [4]byte{}, mac, [4]byte{})
}

// Show returns the reverse ARP request that shows where a MAC is.
func Show(p stack.Place) ([]byte, error) {
	b, err := RARP(p.MAC)
	return tagged(b, p.Tags), err
}

// tagged puts VLAN tags into a frame, the outer first; nothing has none.
func tagged(b []byte, tags []stack.Tag) []byte {
	if b == nil {
		return nil
	}
	var raw []byte
	for _, t := range tags {
		raw = binary.BigEndian.AppendUint16(raw, t.Protocol)
		raw = binary.BigEndian.AppendUint16(raw, t.ID)
	}
	const addresses = 12 // bytes, behind which the tags are
	return slices.Insert(b, addresses, raw...)
}

// arp builds the packet of RFC 826, padded to the least length of a frame.
func arp(etherType, op uint16, mac net.HardwareAddr, sender [4]byte, targetMAC net.HardwareAddr, target [4]byte) ([]byte, error) {
	const ethernet, ipv4 = 1, 0x0800
	b, err := ether(broadcast, mac, etherType, etherMin)
	if err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint16(b, ethernet)
	b = binary.BigEndian.AppendUint16(b, ipv4)
	b = append(b, 6, 4) // address lengths
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, mac...)
	b = append(b, sender[:]...)
	b = append(b, targetMAC...)
	b = append(b, target[:]...)
	return b[:etherMin], nil
}

// Advertisement returns the Ethernet frame of an unsolicited neighbour
// advertisement for an IPv6 address, to all nodes, with the override flag and the
// target link-layer address option (RFC 4861 4.4 and 7.2.6). router is to say
// whether the interface forwards IPv6: a neighbour takes a router that says no off
// its list (7.2.5).
func Advertisement(mac net.HardwareAddr, addr netip.Addr, router bool) ([]byte, error) {
	const advertisement, override, isRouter, targetLinkLayer = 136, 0x20, 0x80, 2
	flags := byte(override)
	if router {
		flags |= isRouter
	}
	return discovery(mac, addr, netip.MustParseAddr("ff02::1"), advertisement, flags, addr, targetLinkLayer)
}

// Solicitation returns a neighbour solicitation of from, which is at mac, for the
// hardware address of to. Whoever has it answers to mac alone (RFC 4861 4.3 and
// 7.2.4).
func Solicitation(mac net.HardwareAddr, from, to netip.Addr) ([]byte, error) {
	const solicitation, sourceLinkLayer = 135, 1
	// The solicited-node group has the last three bytes of the address (RFC 4291
	// 2.7.1).
	group, last := netip.MustParseAddr("ff02::1:ff00:0").As16(), to.As16()
	copy(group[13:], last[13:])
	return discovery(mac, from, netip.AddrFrom16(group), solicitation, 0, to, sourceLinkLayer)
}

// discovery builds a message of RFC 4861 from an address, which is at mac, to a group,
// about a target. Its only option has mac.
func discovery(mac net.HardwareAddr, from, group netip.Addr, kind, flags byte, target netip.Addr, option byte) ([]byte, error) {
	for _, a := range []netip.Addr{from, target} {
		if !a.Is6() || a.Is4In6() {
			return nil, errors.New("announce: neighbour discovery of an address that is not IPv6")
		}
	}
	src, dst, about := from.As16(), group.As16(), target.As16()
	// 33:33 and the last four bytes of the group (RFC 2464 7).
	b, err := ether(append(net.HardwareAddr{0x33, 0x33}, dst[12:]...), mac, typeIPv6, etherLen+ipv6Len+discoveryLen)
	if err != nil {
		return nil, err
	}
	const icmpv6, hopLimit = 58, 255
	b = append(b, 0x60, 0, 0, 0) // version 6
	b = binary.BigEndian.AppendUint16(b, discoveryLen)
	b = append(b, icmpv6, hopLimit)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)

	b = append(b, kind, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, about[:]...)
	const units = 1 // of 8 bytes
	b = append(b, option, units)
	b = append(b, mac...)

	binary.BigEndian.PutUint16(b[etherLen+ipv6Len+2:], checksum(b[etherLen:]))
	return b, nil
}

// ether returns an Ethernet header with room for a frame of that size.
func ether(dst, src net.HardwareAddr, etherType uint16, size int) ([]byte, error) {
	if len(src) != 6 {
		return nil, ErrHardwareAddr
	}
	b := make([]byte, 0, size)
	b = append(b, dst...)
	b = append(b, src...)
	return binary.BigEndian.AppendUint16(b, etherType), nil
}

// checksum is ICMPv6's over an IPv6 packet without extension headers whose checksum
// field is zero (RFC 8200 8.1).
func checksum(ip []byte) uint16 {
	s := uint32(len(ip)-ipv6Len) + uint32(ip[6])
	for i := 8; i+1 < len(ip); i += 2 {
		s += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
