// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxTrace bounds the memory of a [Trace], in events.
const maxTrace = 1 << 20

// An Event is a TCP segment, or the message of ICMP or ICMPv6 that one did not reach
// its destination.
type Event struct {
	At       time.Time
	Port     string         // of the switch, where it came from
	Src, Dst netip.AddrPort // of the segment; of the one that is quoted if Unreachable
	Seq, Ack uint32         // Ack is 0 if Unreachable
	Payload  int            // bytes, 0 if Unreachable

	Unreachable bool
	Code        byte // of the message: why
}

// End is the sequence number behind the payload.
func (e Event) End() uint32 { return e.Seq + uint32(e.Payload) }

// After reports whether sequence number a lies behind b (RFC 9293, 3.4).
func After(a, b uint32) bool { return int32(a-b) > 0 }

// A Trace is a tap that keeps every TCP segment, without its payload, and every word
// of one that was not delivered. Its zero value is ready to use.
type Trace struct {
	mu       sync.Mutex
	events   []Event
	overflow uint64
}

// Observe keeps what a frame says.
func (t *Trace) Observe(at time.Time, port string, frame []byte) {
	e, ok := parseUnreachable(frame)
	if !ok {
		seg, isTCP := parseTCP(frame)
		if !isTCP {
			return
		}
		e = Event{Src: seg.src, Dst: seg.dst, Seq: seg.seq, Ack: seg.ack, Payload: seg.payload}
	}
	e.At, e.Port = at, port
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.events) >= maxTrace {
		t.overflow++
		return
	}
	t.events = append(t.events, e)
}

// Take returns the events since the last call, in the order of time, and how many more
// there were than are kept at a time.
func (t *Trace) Take() ([]Event, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	events, overflow := t.events, t.overflow
	t.events, t.overflow = nil, 0
	// Ports observe side by side.
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	return events, overflow
}

const (
	protoICMP    = 1
	protoICMPv6  = 58
	unreachable  = 3 // ICMP, RFC 792
	unreachable6 = 1 // ICMPv6, RFC 4443
)

// parseUnreachable finds the ICMP message that a TCP segment, of which ports and
// sequence number are quoted, was not delivered.
func parseUnreachable(frame []byte) (Event, bool) {
	p, ok := parseIP(frame)
	if !ok || len(p.payload) < 8 {
		return Event{}, false
	}
	var ether uint16
	switch kind := p.payload[0]; {
	case p.proto == protoICMP && kind == unreachable:
		ether = etherIPv4
	case p.proto == protoICMPv6 && kind == unreachable6:
		ether = etherIPv6
	default:
		return Event{}, false
	}
	quoted, _, ok := parseHeader(ether, p.payload[8:])
	if !ok || quoted.proto != protoTCP || len(quoted.payload) < 8 {
		return Event{}, false
	}
	return Event{
		Src:         netip.AddrPortFrom(quoted.src, binary.BigEndian.Uint16(quoted.payload[0:])),
		Dst:         netip.AddrPortFrom(quoted.dst, binary.BigEndian.Uint16(quoted.payload[2:])),
		Seq:         binary.BigEndian.Uint32(quoted.payload[4:]),
		Unreachable: true, Code: p.payload[1],
	}, true
}
