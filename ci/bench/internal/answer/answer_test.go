// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package answer

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	receiver = netip.MustParseAddr("10.99.0.2")
	sender   = netip.MustParseAddr("10.99.0.10")
)

// build makes a frame from the receiver to the sender's port 4000.
func build(ack uint32, flags header.TCPFlags, payload int) []byte {
	b := make([]byte, 14+20+20+payload)
	b[12] = 0x08
	ip := header.IPv4(b[14:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b) - 14), TTL: 64, Protocol: 6,
		SrcAddr: tcpip.AddrFrom4(receiver.As4()), DstAddr: tcpip.AddrFrom4(sender.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	tcp := header.TCP(b[34:])
	tcp.Encode(&header.TCPFields{SrcPort: 9, DstPort: 4000, SeqNum: 77, AckNum: ack, DataOffset: 20, Flags: flags, WindowSize: 4096})
	tcp.SetChecksum(^tcp.CalculateChecksum(pseudo(ip, len(b)-34)))
	return b
}

func pseudo(ip header.IPv4, length int) uint16 {
	return header.PseudoHeaderChecksum(6, ip.SourceAddress(), ip.DestinationAddress(), uint16(length))
}

// wire keeps what is sent.
type wire struct{ sent [][]byte }

func (w *wire) ReadFrame(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
func (w *wire) WriteFrame(f []byte) error                     { w.sent = append(w.sent, slices.Clone(f)); return nil }

func TestLinkAnswersOncePerStep(t *testing.T) {
	const first = ^uint32(0) - 100 // the sequence numbers wrap
	for _, tc := range []struct {
		name string
		acks []uint32 // bytes of the stream, as the receiver acknowledges them
		want []uint32 // as the sender sees it
	}{
		{"small steps become one", []uint32{20000, 40000, 60000, Step}, []uint32{Step}},
		{"a big step becomes several", []uint32{3 * Step}, []uint32{Step, 2 * Step, 3 * Step}},
		{"the grid is the stream's, not the answers'", []uint32{Step + 10, 2*Step - 1, 2 * Step}, []uint32{Step, 2 * Step}},
		{"an answer given twice is given once", []uint32{Step, Step}, []uint32{Step}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := new(wire)
			l := New(w)
			if err := l.WriteFrame(build(first, header.TCPFlagSyn|header.TCPFlagAck, 0)); err != nil {
				t.Fatal(err)
			}
			for _, a := range tc.acks {
				if err := l.WriteFrame(build(first+a, header.TCPFlagAck, 0)); err != nil {
					t.Fatal(err)
				}
			}
			var got []uint32
			l.mu.Lock()
			for _, f := range w.sent[1:] {
				ip := header.IPv4(f[14:])
				tcp := header.TCP(ip.Payload())
				if sum := checksum.Checksum(tcp, pseudo(ip, len(tcp))); sum != 0xffff {
					t.Errorf("checksum of the answer to %d is wrong: %#x", tcp.AckNumber()-first, sum)
				}
				got = append(got, tcp.AckNumber()-first)
			}
			l.mu.Unlock()
			// An answer between two steps may have been flushed by now.
			got = slices.DeleteFunc(got, func(a uint32) bool { return a%Step != 0 })
			if !slices.Equal(got, tc.want) {
				t.Errorf("acknowledged %v, want %v", got, tc.want)
			}
		})
	}
}

func TestLinkFlushesWhatNothingFollows(t *testing.T) {
	w := new(wire)
	l := New(w)
	for _, f := range [][]byte{build(1, header.TCPFlagSyn|header.TCPFlagAck, 0), build(1001, header.TCPFlagAck, 0)} {
		if err := l.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	l.flush(l.flows[4000])
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(w.sent) != 2 {
		t.Fatalf("%d frames sent, want the handshake's and the one kept back", len(w.sent))
	}
	if got := header.TCP(header.IPv4(w.sent[1][14:]).Payload()).AckNumber(); got != 1001 {
		t.Errorf("acknowledged %d, want 1001", got)
	}
}

func TestLinkPassesTheRest(t *testing.T) {
	for _, tc := range []struct {
		name  string
		frame []byte
	}{
		{"a segment with data", build(5, header.TCPFlagAck, 10)},
		{"an acknowledgement of a stream it did not see begin", build(5, header.TCPFlagAck, 0)},
		{"the end of a stream", build(5, header.TCPFlagAck|header.TCPFlagFin, 0)},
		{"no IPv4", make([]byte, 60)},
		{"a frame too short for any header", []byte{1, 2, 3}},
		{"a packet that claims to be longer than its frame", build(5, header.TCPFlagAck, 0)[:50]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := new(wire)
			if err := New(w).WriteFrame(tc.frame); err != nil {
				t.Fatal(err)
			}
			if len(w.sent) != 1 || !slices.Equal(w.sent[0], tc.frame) {
				t.Errorf("sent %x, want %x as it is", w.sent, tc.frame)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(build(5, header.TCPFlagAck, 0))
	f.Add(build(5, header.TCPFlagSyn, 3)[:40])
	f.Fuzz(func(t *testing.T, frame []byte) {
		seg, ok := parse(frame)
		if ok && seg.at+20+seg.payload > len(frame) {
			t.Errorf("segment %+v is longer than its frame of %d bytes", seg, len(frame))
		}
	})
}
