// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package answer makes a TCP receiver answer the same way every time.
//
// How many segments a receiver acknowledges at once is up to its scheduling,
// and each acknowledgement costs the sender some work. A [Link] stands between
// such a receiver and its network and lets one acknowledgement through for
// each [Step] bytes of a stream, which is what a receiver sends that merges
// segments before it looks at them. It knows Ethernet, IPv4 and TCP; what is
// measured, and why, it must never know.
package answer

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// Step is how many bytes are acknowledged at once: the most that Linux merges
// (include/linux/netdevice.h, GRO_LEGACY_MAX_SIZE).
const Step = 64 << 10

// quiet is how long an acknowledgement between two steps is kept back: a
// sender whose window ends there must not wait for ever.
const quiet = 5 * time.Millisecond

// Inner is the network that the receiver is on, as package peer wants one.
type Inner interface {
	ReadFrame(ctx context.Context) ([]byte, error)
	WriteFrame(frame []byte) error
}

// A Link is an Inner whose outgoing acknowledgements are spaced evenly.
type Link struct {
	Inner

	mu    sync.Mutex
	flows map[uint16]*flow // by the sender's port
}

// flow is one stream that is being acknowledged.
type flow struct {
	last  uint32 // acknowledged so far, on the wire
	late  *time.Timer
	frame []byte // kept back, nil if nothing is
}

// New returns a Link on inner.
func New(inner Inner) *Link { return &Link{Inner: inner, flows: make(map[uint16]*flow)} }

// WriteFrame sends what frame is to become, which may be nothing yet.
func (l *Link) WriteFrame(frame []byte) error {
	t, ok := parse(frame)
	if !ok {
		return l.Inner.WriteFrame(frame)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f := l.flows[t.port]; {
	case t.flags == flagSYN|flagACK:
		l.flows[t.port] = &flow{last: t.ack} // the stream's first byte
	case f != nil && t.flags == flagACK && t.payload == 0:
		return l.space(f, t, frame)
	}
	return l.Inner.WriteFrame(frame)
}

// space sends an acknowledgement for each whole step up to t's, and keeps t's
// own for later if it is between two steps.
func (l *Link) space(f *flow, t segment, frame []byte) error {
	for int32(t.ack-f.last) >= Step {
		f.last += Step
		f.drop()
		if err := l.Inner.WriteFrame(withAck(frame, t, f.last)); err != nil {
			return err
		}
	}
	if t.ack == f.last {
		return nil
	}
	f.drop()
	f.frame = bytes.Clone(frame)
	f.late = time.AfterFunc(quiet, func() { l.flush(f) })
	return nil
}

// drop forgets what is kept back: something newer is to be sent.
func (f *flow) drop() {
	if f.late != nil {
		f.late.Stop()
	}
	f.frame = nil
}

// flush sends what was kept back for too long. The steps stay where they were.
func (l *Link) flush(f *flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.frame == nil {
		return
	}
	// The link ends before the receiver does; the receiver will know.
	_ = l.Inner.WriteFrame(f.frame)
	f.frame = nil
}

const (
	flagSYN = 1 << 1
	flagACK = 1 << 4
)

// segment is a TCP header, and where it is.
type segment struct {
	at      int    // offset in the frame
	port    uint16 // destination
	ack     uint32
	flags   byte
	payload int
}

// parse finds the TCP header of an IPv4 packet that is no fragment.
func parse(frame []byte) (segment, bool) {
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return segment{}, false
	}
	ip := frame[14:]
	head, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || ip[9] != 6 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 || head < 20 || total < head+20 || total > len(ip) {
		return segment{}, false
	}
	tcp := ip[head:total]
	offset := int(tcp[12]>>4) * 4
	if offset < 20 || offset > len(tcp) {
		return segment{}, false
	}
	return segment{
		at: 14 + head, port: binary.BigEndian.Uint16(tcp[2:]), ack: binary.BigEndian.Uint32(tcp[8:]),
		flags: tcp[13], payload: len(tcp) - offset,
	}, true
}

// withAck returns a copy of frame that acknowledges ack, its checksum updated
// as RFC 1624, equation 3, says.
func withAck(frame []byte, t segment, ack uint32) []byte {
	out := bytes.Clone(frame)
	tcp := out[t.at:]
	sum := uint32(^binary.BigEndian.Uint16(tcp[16:]))
	sum += uint32(^uint16(t.ack>>16)) + uint32(^uint16(t.ack)) + ack>>16 + ack&0xffff
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint32(tcp[8:], ack)
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return out
}
