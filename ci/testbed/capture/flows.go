// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package capture

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxFlows bounds the memory of [Flows].
const maxFlows = 4096

// A Flow is one direction of a TCP connection as seen on the wire.
type Flow struct {
	Src, Dst netip.AddrPort

	Segments uint64
	Bytes    uint64 // of TCP payload, retransmissions included
	SYN      uint64 // SYN and SYN+ACK segments
	FIN      uint64
	RST      uint64 // while a direction was still open: the connection was reset
	Late     uint64 // RST after a FIN in both directions, see [Flows]
	First    time.Time
	Last     time.Time
}

type flowKey struct{ src, dst netip.AddrPort }

// Flows is a tap that counts, for each direction of each TCP connection over
// IPv4 and IPv6, what says that a connection was opened, ended or reset. Its
// zero value is ready to use.
//
// A RST after both ends have sent their FIN resets nothing: the end that closed
// last has forgotten the connection (RFC 9293, 3.5.2) and answers so to what
// comes late, as the second acknowledgement of a FIN that it had to repeat.
type Flows struct {
	mu       sync.Mutex
	flows    map[flowKey]*Flow
	overflow uint64
}

// Observe counts frame if it carries a TCP header; other frames are ignored.
func (t *Flows) Observe(at time.Time, _ string, frame []byte) {
	seg, ok := parseTCP(frame)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := flowKey{seg.src, seg.dst}
	f := t.flows[k]
	if f == nil {
		if len(t.flows) >= maxFlows {
			t.overflow++
			return
		}
		if t.flows == nil {
			t.flows = make(map[flowKey]*Flow)
		}
		f = &Flow{Src: seg.src, Dst: seg.dst, First: at}
		t.flows[k] = f
	}
	f.Segments++
	f.Bytes += uint64(seg.payload)
	f.Last = at
	if seg.flags&flagSYN != 0 {
		f.SYN++
	}
	if seg.flags&flagFIN != 0 {
		f.FIN++
	}
	if seg.flags&flagRST != 0 {
		back := t.flows[flowKey{seg.dst, seg.src}]
		if f.FIN > 0 && back != nil && back.FIN > 0 {
			f.Late++
		} else {
			f.RST++
		}
	}
}

// All returns the flows seen so far, ordered by their first segment.
func (t *Flows) All() []Flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Flow, 0, len(t.flows))
	for _, f := range t.flows {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b Flow) int {
		return cmp.Or(a.First.Compare(b.First), a.Src.Compare(b.Src))
	})
	return out
}

// Port sums up the flows with the given TCP port at either end: the segments
// with SYN, which is 2 for one connection that was opened once, and with RST that
// were not late.
func (t *Flows) Port(port uint16) (syn, rst uint64) {
	for _, f := range t.All() {
		if f.Src.Port() == port || f.Dst.Port() == port {
			syn += f.SYN
			rst += f.RST
		}
	}
	return syn, rst
}

// Overflow returns the number of segments that were not counted because the
// table of flows was full.
func (t *Flows) Overflow() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.overflow
}

const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	protoTCP  = 6
)

type segment struct {
	src, dst netip.AddrPort
	flags    byte
	seq, ack uint32
	payload  int
}

// parseTCP finds the TCP header of an Ethernet frame. Fragments other than the
// first and IPv6 packets with extension headers are not looked into: neither
// end of a test network sends TCP in them.
func parseTCP(frame []byte) (segment, bool) {
	p, ok := parseIP(frame)
	if !ok || p.proto != protoTCP || len(p.payload) < 20 {
		return segment{}, false
	}
	tcp := p.payload
	head := int(tcp[12]>>4) * 4
	if head < 20 || head > len(tcp) {
		return segment{}, false
	}
	return segment{
		src:     netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(tcp[0:])),
		dst:     netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(tcp[2:])),
		flags:   tcp[13],
		seq:     binary.BigEndian.Uint32(tcp[4:]),
		ack:     binary.BigEndian.Uint32(tcp[8:]),
		payload: len(tcp) - head,
	}, true
}

// packet is an IP packet that is not the later fragment of another.
type packet struct {
	src, dst netip.Addr
	proto    byte
	payload  []byte
}

// parseIP finds the IP packet in an Ethernet frame.
func parseIP(frame []byte) (packet, bool) {
	if len(frame) < 14 {
		return packet{}, false
	}
	ether, p := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for ether == etherVLAN && len(p) >= 4 {
		ether, p = binary.BigEndian.Uint16(p[2:]), p[4:]
	}
	out, length, ok := parseHeader(ether, p)
	if !ok || length > len(out.payload) {
		return packet{}, false
	}
	out.payload = out.payload[:length]
	return out, true
}

// parseHeader parses the IP header that p begins with. The payload is what follows of p,
// length what should: of a packet that is quoted there is less.
func parseHeader(ether uint16, p []byte) (out packet, length int, ok bool) {
	switch {
	case ether == etherIPv4 && len(p) >= 20 && p[0]>>4 == 4:
		ihl := int(p[0]&0xf) * 4
		total := int(binary.BigEndian.Uint16(p[2:]))
		offset := binary.BigEndian.Uint16(p[6:]) & 0x1fff
		if offset != 0 || ihl < 20 || total < ihl || ihl > len(p) {
			return packet{}, 0, false
		}
		src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		return packet{src, dst, p[9], p[ihl:]}, total - ihl, true
	case ether == etherIPv6 && len(p) >= 40 && p[0]>>4 == 6:
		src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		return packet{src, dst, p[6], p[40:]}, int(binary.BigEndian.Uint16(p[4:])), true
	}
	return packet{}, 0, false
}
