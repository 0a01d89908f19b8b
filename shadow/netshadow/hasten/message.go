// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hasten

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipv4Len = 20
	ipv6Len = 40
	icmpLen = 8 // of either version, without what is quoted
	// quotedLen is what is quoted of the TCP header: ports and sequence number, which
	// is what RFC 792 asks for, and what Linux looks at.
	quotedLen = 8
	tcpLen    = 20

	protoTCP    = 6
	protoICMP   = 1
	protoICMPv6 = 58
	hops        = 64

	hostUnreachable = 0x0301 // RFC 792: destination unreachable, host
	noRoute         = 0x0100 // RFC 4443: destination unreachable, no route
)

// Message returns the IP packet that tells the peer of a connection that the segment
// with the byte that is expected next was not delivered. These two reasons are the ones
// that RFC 6069 acts on with both versions of IP, and of those of IPv4 "host" is the one
// that says what was: the net was there.
func Message(c Connection) []byte {
	local, peer := c.Local.Addr(), c.Peer.Addr()
	if local.Is4() {
		b := ipv4(protoICMP, icmpLen+ipv4Len+quotedLen, local, peer)
		icmp := len(b)
		b = binary.BigEndian.AppendUint16(b, hostUnreachable)
		b = append(b, make([]byte, icmpLen-2)...)
		b = append(b, ipv4(protoTCP, tcpLen, peer, local)...)
		b = quoted(b, c)
		binary.BigEndian.PutUint16(b[icmp+2:], checksum(b[icmp:]))
		return b
	}
	b := ipv6(protoICMPv6, icmpLen+ipv6Len+quotedLen, local, peer)
	b = binary.BigEndian.AppendUint16(b, noRoute)
	b = append(b, make([]byte, icmpLen-2)...)
	b = append(b, ipv6(protoTCP, tcpLen, peer, local)...)
	b = quoted(b, c)
	// The pseudo header of RFC 8200 8.1 has the same addresses, length and protocol.
	pseudo := append([]byte{0, 0, b[4], b[5], 0, protoICMPv6}, b[8:]...)
	binary.BigEndian.PutUint16(b[ipv6Len+2:], checksum(pseudo))
	return b
}

// quoted appends the begin of the TCP header of a segment to this host.
func quoted(b []byte, c Connection) []byte {
	b = binary.BigEndian.AppendUint16(b, c.Peer.Port())
	b = binary.BigEndian.AppendUint16(b, c.Local.Port())
	return binary.BigEndian.AppendUint32(b, c.Next)
}

// ipv4 returns the header of a packet with a payload of n bytes.
func ipv4(proto byte, n int, src, dst netip.Addr) []byte {
	const dontFragment = 0x40
	b := []byte{0x45, 0, 0, 0, 0, 0, dontFragment, 0, hops, proto, 0, 0}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Len+n))
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return b
}

// ipv6 is ipv4 for the other version.
func ipv6(proto byte, n int, src, dst netip.Addr) []byte {
	b := []byte{0x60, 0, 0, 0, 0, byte(n), proto, hops}
	return append(append(b, src.AsSlice()...), dst.AsSlice()...)
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
