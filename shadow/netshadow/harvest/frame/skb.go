// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrTruncated reports a frame that ends before the headers it announces.
	ErrTruncated = errors.New("frame is truncated")
	// ErrOffload reports a segmentation offload that cannot be handed to
	// another driver: tunnels, SCTP, ESP and IP fragmentation.
	ErrOffload = errors.New("segmentation offload cannot be re-sent")
)

// Values of [SKB.IPSummed] (linux/skbuff.h).
const (
	ChecksumNone    = 0
	ChecksumPartial = 3
)

// Bits of [SKB.GSOType] (linux/skbuff.h, enum of SKB_GSO_*). They have kept
// their places since Linux 5.10.
const (
	skbGSOTCPv4   = 1 << 0
	skbGSODodgy   = 1 << 1
	skbGSOECN     = 1 << 2
	skbGSOFixedID = 1 << 3
	skbGSOTCPv6   = 1 << 4
	skbGSOUDPL4   = 1 << 17
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8

	protoTCP = 6
	protoUDP = 17

	ipv6HeaderLen = 40
	tcpHeaderLen  = 20
	udpHeaderLen  = 8
)

// SKB is what a socket buffer says about its frame beside the bytes.
type SKB struct {
	IPSummed   uint8
	CsumStart  uint16 // bytes from the start of the Ethernet header
	CsumOffset uint16 // bytes from CsumStart
	GSOSize    uint16 // payload bytes of each segment; 0: not segmented
	GSOType    uint32 // SKB_GSO_* bits
	VLAN       bool   // a tag waits in VLANProto and VLANTCI
	VLANProto  uint16 // tag protocol, e.g. 0x8100
	VLANTCI    uint16
	Priority   uint32
}

// Frames turns the bytes and the meta data of an unsent socket buffer into
// frames another driver can send. It takes back what drivers do to a frame in
// preparation for their hardware (they zero the IP length and checksum and take
// the length out of the TCP pseudo-header's sum; see e1000_tso() in
// drivers/net/ethernet/intel/e1000/e1000_main.c and ixgbe_tso() in
// drivers/net/ethernet/intel/ixgbe/ixgbe_main.c), and puts a VLAN tag that was
// left to the hardware into the frame.
//
// The result is one frame, except for UDP segmentation, which a virtio_net_hdr
// cannot express before Linux 6.2: that is cut into its datagrams here.
// Frames modifies data, and the result shares its memory. Errors match
// [ErrTruncated] or [ErrOffload].
func Frames(s SKB, data []byte) ([]Frame, error) {
	if len(data) < MinLen {
		return nil, fmt.Errorf("frame: %d bytes: %w", len(data), ErrTruncated)
	}
	fs, err := offloads(s, data)
	if err != nil {
		return nil, err
	}
	for i := range fs {
		fs[i].Priority = s.Priority
		if s.VLAN {
			fs[i].insertVLAN(s.VLANProto, s.VLANTCI)
		}
	}
	return fs, nil
}

func offloads(s SKB, data []byte) ([]Frame, error) {
	if s.GSOSize == 0 {
		f := Frame{Data: data}
		if s.IPSummed == ChecksumPartial {
			if end := int(s.CsumStart) + int(s.CsumOffset) + 2; end > len(data) {
				return nil, fmt.Errorf("frame: checksum field ends at %d of %d bytes: %w", end, len(data), ErrTruncated)
			}
			f.Offload = Offload{Flags: NeedsChecksum, CsumStart: s.CsumStart, CsumOffset: s.CsumOffset}
		}
		return []Frame{f}, nil
	}
	p, err := parseIP(data)
	if err != nil {
		return nil, err
	}
	const flags = skbGSODodgy | skbGSOECN | skbGSOFixedID
	switch kind := s.GSOType &^ flags; {
	case kind == skbGSOTCPv4 && p.version == 4, kind == skbGSOTCPv6 && p.version == 6:
		f, err := tcpSegments(s, p, data)
		return []Frame{f}, err
	case kind == skbGSOUDPL4:
		return udpDatagrams(int(s.GSOSize), p, data)
	}
	return nil, fmt.Errorf("frame: gso type %#x over IPv%d: %w", s.GSOType, p.version, ErrOffload)
}

func tcpSegments(s SKB, p packet, data []byte) (Frame, error) {
	if p.proto != protoTCP {
		return Frame{}, fmt.Errorf("frame: TCP segmentation of IP protocol %d: %w", p.proto, ErrOffload)
	}
	if len(data) < p.l4+tcpHeaderLen {
		return Frame{}, fmt.Errorf("frame: TCP header at %d of %d bytes: %w", p.l4, len(data), ErrTruncated)
	}
	end := p.l4 + int(data[p.l4+12]>>4)*4
	if end < p.l4+tcpHeaderLen || end > len(data) {
		return Frame{}, fmt.Errorf("frame: TCP header ends at %d of %d bytes: %w", end, len(data), ErrTruncated)
	}
	p.setLength(data)
	binary.BigEndian.PutUint16(data[p.l4+16:], p.pseudoSum(data, len(data)-p.l4))
	o := Offload{
		Flags:      NeedsChecksum,
		GSOType:    GSOTCPv4,
		HeaderLen:  uint16(end),
		GSOSize:    s.GSOSize,
		CsumStart:  uint16(p.l4),
		CsumOffset: 16,
	}
	if p.version == 6 {
		o.GSOType = GSOTCPv6
	}
	if s.GSOType&skbGSOECN != 0 {
		o.GSOType |= GSOECN
	}
	return Frame{Data: data, Offload: o}, nil
}

// udpDatagrams does what __udp_gso_segment() in net/ipv4/udp_offload.c and
// inet_gso_segment() in net/ipv4/af_inet.c do: every datagram gets the headers,
// its own lengths and, over IPv4, the next identification.
func udpDatagrams(size int, p packet, data []byte) ([]Frame, error) {
	if p.proto != protoUDP {
		return nil, fmt.Errorf("frame: UDP segmentation of IP protocol %d: %w", p.proto, ErrOffload)
	}
	head := p.l4 + udpHeaderLen
	if len(data) <= head {
		return nil, fmt.Errorf("frame: UDP header at %d of %d bytes: %w", p.l4, len(data), ErrTruncated)
	}
	payload := data[head:]
	frames := make([]Frame, 0, (len(payload)+size-1)/size)
	var id uint16
	if p.version == 4 {
		id = binary.BigEndian.Uint16(data[p.l3+4:])
	}
	for n := 0; len(payload) > 0; n++ {
		cut := min(size, len(payload))
		d := make([]byte, 0, head+cut+4)
		d = append(d, data[:head]...)
		d = append(d, payload[:cut]...)
		payload = payload[cut:]
		if p.version == 4 {
			binary.BigEndian.PutUint16(d[p.l3+4:], id+uint16(n))
		}
		p.setLength(d)
		binary.BigEndian.PutUint16(d[p.l4+4:], uint16(len(d)-p.l4))
		binary.BigEndian.PutUint16(d[p.l4+6:], p.pseudoSum(d, len(d)-p.l4))
		frames = append(frames, Frame{Data: d, Offload: Offload{
			Flags: NeedsChecksum, CsumStart: uint16(p.l4), CsumOffset: 6,
		}})
	}
	return frames, nil
}

// packet is where the headers of an IP frame are.
type packet struct {
	version int
	l3, l4  int // offsets in bytes from the start of the frame
	proto   uint8
}

// parseIP finds the IP and transport headers behind an Ethernet header with up
// to two VLAN tags in band. It does not trust the IP length: drivers zero it.
func parseIP(b []byte) (packet, error) {
	l3, tags := MinLen, 0
	for {
		if len(b) < l3 {
			return packet{}, fmt.Errorf("frame: VLAN tag at %d of %d bytes: %w", l3-4, len(b), ErrTruncated)
		}
		t := binary.BigEndian.Uint16(b[l3-2:])
		if t != etherTypeVLAN && t != etherTypeQinQ {
			break
		}
		if tags++; tags > 2 {
			return packet{}, fmt.Errorf("frame: more than two VLAN tags: %w", ErrOffload)
		}
		l3 += 4
	}
	switch t := binary.BigEndian.Uint16(b[l3-2:]); t {
	case etherTypeIPv4:
		return parseIPv4(b, l3)
	case etherTypeIPv6:
		return parseIPv6(b, l3)
	default:
		return packet{}, fmt.Errorf("frame: ether type %#04x: %w", t, ErrOffload)
	}
}

func parseIPv4(b []byte, l3 int) (packet, error) {
	const minHeader = 20
	if len(b) < l3+minHeader {
		return packet{}, fmt.Errorf("frame: IPv4 header at %d of %d bytes: %w", l3, len(b), ErrTruncated)
	}
	p := packet{version: 4, l3: l3, l4: l3 + int(b[l3]&15)*4, proto: b[l3+9]}
	if b[l3]>>4 != 4 || p.l4 < l3+minHeader || p.l4 > len(b) {
		return packet{}, fmt.Errorf("frame: IPv4 header begins with %#02x: %w", b[l3], ErrTruncated)
	}
	return p, nil
}

func parseIPv6(b []byte, l3 int) (packet, error) {
	if len(b) < l3+ipv6HeaderLen || b[l3]>>4 != 6 {
		return packet{}, fmt.Errorf("frame: IPv6 header at %d of %d bytes: %w", l3, len(b), ErrTruncated)
	}
	p := packet{version: 6, l3: l3, l4: l3 + ipv6HeaderLen, proto: b[l3+6]}
	// The extension headers a sender may put before the transport header, all of
	// the same form (RFC 8200, 4.3, 4.4 and 4.6). A fragment is never segmented.
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

// setLength writes the IP length of a packet that ends with b, and the IPv4
// header's checksum.
func (p packet) setLength(b []byte) {
	if p.version == 6 {
		binary.BigEndian.PutUint16(b[p.l3+4:], uint16(len(b)-p.l3-ipv6HeaderLen))
		return
	}
	ip := b[p.l3:p.l4]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-p.l3))
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
}

// pseudoSum is what CHECKSUM_PARTIAL expects in the checksum field: the folded
// sum, not complemented, of addresses, protocol and length in bytes of the
// transport header and payload (RFC 9293 3.1, RFC 8200 8.1).
func (p packet) pseudoSum(b []byte, length int) uint16 {
	addrs := b[p.l3+12 : p.l3+20]
	if p.version == 6 {
		addrs = b[p.l3+8 : p.l3+40]
	}
	return fold(sum(addrs) + uint32(p.proto) + uint32(length))
}

// insertVLAN puts a tag behind the MAC addresses (IEEE 802.1Q 9.3).
func (f *Frame) insertVLAN(proto, tci uint16) {
	const at, size = 12, 4
	d := make([]byte, 0, len(f.Data)+size)
	d = append(d, f.Data[:at]...)
	d = binary.BigEndian.AppendUint16(d, proto)
	d = binary.BigEndian.AppendUint16(d, tci)
	f.Data = append(d, f.Data[at:]...)
	if f.Offload.Flags&NeedsChecksum != 0 {
		f.Offload.CsumStart += size
	}
	if f.Offload.HeaderLen != 0 {
		f.Offload.HeaderLen += size
	}
}

// sum adds up b as big-endian 16-bit words (RFC 1071). It cannot overflow below
// 128 KiB.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
