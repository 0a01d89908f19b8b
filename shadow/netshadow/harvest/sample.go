// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// origin is where a frame was when it was freed, in the order in which frames
// leave. It mirrors enum origin in bpf/harvest.c.
type origin uint8

const (
	fromDriver   origin = iota // in the driver: its ring
	fromRequeued               // taken off the queue, refused by the driver
	fromQueued                 // in the queueing discipline
	fromRefused                // not let into the queueing discipline
)

func (o origin) String() string {
	switch o {
	case fromDriver:
		return "driver"
	case fromRequeued:
		return "requeued"
	case fromQueued:
		return "queued"
	case fromRefused:
		return "refused"
	}
	return fmt.Sprintf("origin(%d)", uint8(o))
}

// sample is one freed frame.
type sample struct {
	role   uint8
	number uint64 // counts the role's freed frames, over all CPUs; if early, when it was freed
	origin origin
	behind bool // freed on the proxy or the port, so it left after all others
	early  bool // freed before the field was armed; number is CLOCK_MONOTONIC in ns
	sent   bool // with early: no loss, the driver frees so what it has sent
	// trouble is with early: no frame, but the device may be reset now.
	trouble bool
	queue   uint16 // transmit queue of the interface
	skb     frame.SKB
	data    []byte
}

// Bits of sample.flags in bpf/harvest.c, SAMPLE_*.
const (
	flagVLAN    = 1 << 0
	flagCRC     = 1 << 1
	flagBehind  = 1 << 2
	flagEarly   = 1 << 3
	flagSent    = 1 << 4
	flagTrouble = 1 << 5
)

// sampleLen is the size in bytes of struct sample in bpf/harvest.c.
const sampleLen = 40

// parseSample decodes a perf record: struct sample, then the bytes from
// skb->data on, then up to 7 bytes of padding. It copies what it keeps.
func parseSample(b []byte) (sample, error) {
	if len(b) < sampleLen {
		return sample{}, fmt.Errorf("sample of %d bytes: %w", len(b), frame.ErrTruncated)
	}
	le := binary.LittleEndian
	n, pull := le.Uint32(b[8:]), le.Uint32(b[12:])
	s := sample{
		number:  le.Uint64(b),
		queue:   le.Uint16(b[34:]),
		origin:  origin(b[38]),
		role:    b[39],
		behind:  b[36]&flagBehind != 0,
		early:   b[36]&flagEarly != 0,
		sent:    b[36]&flagSent != 0,
		trouble: b[36]&flagTrouble != 0,
		skb: frame.SKB{
			GSOType:    le.Uint32(b[16:]),
			Priority:   le.Uint32(b[20:]),
			GSOSize:    le.Uint16(b[24:]),
			CsumStart:  le.Uint16(b[26:]) - uint16(pull),
			CsumOffset: le.Uint16(b[28:]),
			VLANProto:  bits.ReverseBytes16(le.Uint16(b[30:])),
			VLANTCI:    le.Uint16(b[32:]),
			VLAN:       b[36]&flagVLAN != 0,
			CRC:        b[36]&flagCRC != 0,
			IPSummed:   b[37],
		},
	}
	b = b[sampleLen:]
	if uint64(n) > uint64(len(b)) || pull > n {
		return sample{}, fmt.Errorf("sample holds %d of %d bytes, %d of them before the frame: %w", len(b), n, pull, frame.ErrTruncated)
	}
	s.data = append([]byte(nil), b[pull:n]...)
	return s, nil
}
