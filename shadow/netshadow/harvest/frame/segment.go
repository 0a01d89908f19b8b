// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package frame

import (
	"encoding/binary"
	"fmt"
)

// Bits of [SKB.GSOType] (linux/skbuff.h, enum of SKB_GSO_*). They have kept their
// places since Linux 4.18.
const (
	gsoTCPv4   = 1 << 0
	gsoDodgy   = 1 << 1
	gsoECN     = 1 << 2
	gsoFixedID = 1 << 3
	gsoTCPv6   = 1 << 4
	gsoUDPL4   = 1 << 17
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8

	protoTCP = 6
	protoUDP = 17

	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	tcpHeaderLen  = 20
	udpHeaderLen  = 8
)

// segment cuts a frame into those that its device would have sent: what
// tcp_gso_segment() in net/ipv4/tcp_offload.c, __udp_gso_segment() in
// net/ipv4/udp_offload.c and inet_gso_segment() in net/ipv4/af_inet.c do.
func segment(s SKB, data []byte) ([][]byte, error) {
	p, err := parseIP(data)
	if err != nil {
		return nil, err
	}
	kind := s.GSOType &^ (gsoDodgy | gsoECN | gsoFixedID)
	tcp := kind == gsoTCPv4 && p.version == 4 || kind == gsoTCPv6 && p.version == 6
	switch {
	case tcp && p.proto == protoTCP:
		return p.segmentTCP(data, int(s.GSOSize), s.GSOType&gsoFixedID != 0)
	case kind == gsoUDPL4 && p.proto == protoUDP:
		return p.segmentUDP(data, int(s.GSOSize))
	}
	return nil, fmt.Errorf("frame: gso type %#x over IPv%d protocol %d: %w", s.GSOType, p.version, p.proto, ErrOffload)
}

// Flags in byte 13 of a TCP header (RFC 9293 3.1, RFC 3168 6.1).
const (
	tcpFIN = 1 << 0
	tcpPSH = 1 << 3
	tcpCWR = 1 << 7
)

func (p packet) segmentTCP(data []byte, size int, fixedID bool) ([][]byte, error) {
	if len(data) < p.l4+tcpHeaderLen {
		return nil, fmt.Errorf("frame: TCP header at %d of %d bytes: %w", p.l4, len(data), ErrTruncated)
	}
	head := p.l4 + int(data[p.l4+12]>>4)*4
	if head < p.l4+tcpHeaderLen || head > len(data) {
		return nil, fmt.Errorf("frame: TCP header ends at %d of %d bytes: %w", head, len(data), ErrTruncated)
	}
	seq := binary.BigEndian.Uint32(data[p.l4+4:])
	flags := data[p.l4+13]
	const checksum = 16
	segments := p.cut(data, head, size, fixedID)
	for n, b := range segments {
		binary.BigEndian.PutUint32(b[p.l4+4:], seq+uint32(n*size))
		f := flags
		if n > 0 {
			f &^= tcpCWR
		}
		if n < len(segments)-1 {
			f &^= tcpFIN | tcpPSH
		}
		b[p.l4+13] = f
		binary.BigEndian.PutUint16(b[p.l4+checksum:], p.pseudoSum(b))
		if err := putChecksum(b, p.l4, checksum); err != nil {
			return nil, err
		}
	}
	return segments, nil
}

func (p packet) segmentUDP(data []byte, size int) ([][]byte, error) {
	head := p.l4 + udpHeaderLen
	if head > len(data) {
		return nil, fmt.Errorf("frame: UDP header at %d of %d bytes: %w", p.l4, len(data), ErrTruncated)
	}
	const length, checksum = 4, 6
	segments := p.cut(data, head, size, false)
	for _, b := range segments {
		binary.BigEndian.PutUint16(b[p.l4+length:], uint16(len(b)-p.l4))
		binary.BigEndian.PutUint16(b[p.l4+checksum:], p.pseudoSum(b))
		if err := putChecksum(b, p.l4, checksum); err != nil {
			return nil, err
		}
	}
	return segments, nil
}

// cut returns a copy of the headers, data[:head], before each size bytes of what
// follows, with the IP headers' own fields set. Identifications count up, or stay
// the same if fixedID. There is one result even without payload.
func (p packet) cut(data []byte, head, size int, fixedID bool) [][]byte {
	payload := data[head:]
	segments := make([][]byte, 0, len(payload)/size+1)
	for n := 0; n == 0 || len(payload) > 0; n++ {
		take := min(size, len(payload))
		b := make([]byte, 0, head+take)
		b = append(b, data[:head]...)
		b = append(b, payload[:take]...)
		payload = payload[take:]
		if p.version == 6 {
			binary.BigEndian.PutUint16(b[p.l3+4:], uint16(len(b)-p.l3-ipv6HeaderLen))
		} else {
			id := binary.BigEndian.Uint16(b[p.l3+4:])
			if !fixedID {
				id += uint16(n)
			}
			ip := b[p.l3:p.l4]
			binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-p.l3))
			binary.BigEndian.PutUint16(ip[4:], id)
			binary.BigEndian.PutUint16(ip[10:], 0)
			binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
		}
		segments = append(segments, b)
	}
	return segments
}

// packet is where the headers of an IP packet are.
type packet struct {
	version int
	l3, l4  int // offsets in bytes from the start of the frame
	proto   uint8
}

// pseudoSum is the folded sum, not complemented, of addresses, protocol and length of
// a transport header and payload that end with b (RFC 9293 3.1, RFC 8200 8.1).
func (p packet) pseudoSum(b []byte) uint16 {
	addrs := b[p.l3+12 : p.l3+20]
	if p.version == 6 {
		addrs = b[p.l3+8 : p.l3+40]
	}
	return fold(sum(addrs) + uint32(p.proto) + uint32(len(b)-p.l4))
}

// parseIP finds the IP and transport headers behind an Ethernet header with up to two
// VLAN tags in band. It does not look at the IP length, which drivers zero.
func parseIP(b []byte) (packet, error) {
	l3 := MinLen
	for tags := 0; ; tags++ {
		if len(b) < l3 {
			return packet{}, fmt.Errorf("frame: VLAN tag at %d of %d bytes: %w", l3-4, len(b), ErrTruncated)
		}
		switch t := binary.BigEndian.Uint16(b[l3-2:]); {
		case t == etherTypeIPv4:
			return parseIPv4(b, l3)
		case t == etherTypeIPv6:
			return parseIPv6(b, l3)
		case (t == etherTypeVLAN || t == etherTypeQinQ) && tags < 2:
			l3 += 4
		default:
			return packet{}, fmt.Errorf("frame: ether type %#04x: %w", t, ErrOffload)
		}
	}
}

func parseIPv4(b []byte, l3 int) (packet, error) {
	if len(b) < l3+ipv4HeaderLen || b[l3]>>4 != 4 {
		return packet{}, fmt.Errorf("frame: IPv4 header at %d of %d bytes: %w", l3, len(b), ErrTruncated)
	}
	p := packet{version: 4, l3: l3, l4: l3 + int(b[l3]&15)*4, proto: b[l3+9]}
	if p.l4 < l3+ipv4HeaderLen || p.l4 > len(b) {
		return packet{}, fmt.Errorf("frame: IPv4 header ends at %d of %d bytes: %w", p.l4, len(b), ErrTruncated)
	}
	return p, nil
}

func parseIPv6(b []byte, l3 int) (packet, error) {
	if len(b) < l3+ipv6HeaderLen || b[l3]>>4 != 6 {
		return packet{}, fmt.Errorf("frame: IPv6 header at %d of %d bytes: %w", l3, len(b), ErrTruncated)
	}
	p := packet{version: 6, l3: l3, l4: l3 + ipv6HeaderLen, proto: b[l3+6]}
	// The extension headers a sender may put before the transport header, all of
	// the same form (RFC 8200 4.3, 4.4 and 4.6). A fragment is never segmented.
	const hopByHop, routing, destination = 0, 43, 60
	for p.proto == hopByHop || p.proto == routing || p.proto == destination {
		if len(b) < p.l4+8 {
			return packet{}, fmt.Errorf("frame: IPv6 extension header at %d of %d bytes: %w", p.l4, len(b), ErrTruncated)
		}
		p.proto, p.l4 = b[p.l4], p.l4+8+int(b[p.l4+1])*8
	}
	if p.l4 > len(b) {
		return packet{}, fmt.Errorf("frame: IPv6 transport header at %d of %d bytes: %w", p.l4, len(b), ErrTruncated)
	}
	return p, nil
}
