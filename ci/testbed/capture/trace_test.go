// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package capture

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// unreachableFrame is what the destination of a segment from src sends about it.
func unreachableFrame(src, dst netip.AddrPort, quoted int) []byte {
	f := frame(src, dst, header.TCPFlagAck, 100, false)
	whole := f[14:]
	header.TCP(whole[len(whole)-100-header.TCPMinimumSize:]).SetSequenceNumber(0x01020304)
	whole = whole[:quoted]
	if src.Addr().Is4() {
		icmp := make([]byte, header.ICMPv4MinimumSize, 100)
		header.ICMPv4(icmp).SetType(header.ICMPv4DstUnreachable)
		header.ICMPv4(icmp).SetCode(header.ICMPv4HostUnreachable)
		ip := make([]byte, header.IPv4MinimumSize)
		header.IPv4(ip).Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip) + len(icmp) + quoted), Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: tcpip.AddrFromSlice(dst.Addr().AsSlice()), DstAddr: tcpip.AddrFromSlice(src.Addr().AsSlice())})
		return append(append(append(append([]byte{}, f[:14]...), ip...), icmp...), whole...)
	}
	icmp := make([]byte, header.ICMPv6MinimumSize, 100)
	icmp = append(icmp, make([]byte, 8-len(icmp))...)
	header.ICMPv6(icmp).SetType(header.ICMPv6DstUnreachable)
	ip := make([]byte, header.IPv6MinimumSize)
	header.IPv6(ip).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(icmp) + quoted), TransportProtocol: header.ICMPv6ProtocolNumber,
		SrcAddr: tcpip.AddrFromSlice(dst.Addr().AsSlice()), DstAddr: tcpip.AddrFromSlice(src.Addr().AsSlice())})
	return append(append(append(append([]byte{}, f[:14]...), ip...), icmp...), whole...)
}

func TestTrace(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tc := range []struct {
		name  string
		frame []byte
		want  []Event
	}{
		{"a segment", frame(clientV4, serverV4, header.TCPFlagAck, 5, false),
			[]Event{{At: now, Port: "p", Src: clientV4, Dst: serverV4, Payload: 5}}},
		{"a message that quotes eight bytes of a segment", unreachableFrame(clientV4, serverV4, 28),
			[]Event{{At: now, Port: "p", Src: clientV4, Dst: serverV4, Seq: 0x01020304, Unreachable: true, Code: 1}}},
		{"the same of IPv6", unreachableFrame(clientV6, serverV6, 48),
			[]Event{{At: now, Port: "p", Src: clientV6, Dst: serverV6, Seq: 0x01020304, Unreachable: true}}},
		{"one that quotes less", unreachableFrame(clientV4, serverV4, 27), nil},
		{"neither", make([]byte, 60), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var trace Trace
			trace.Observe(now, "p", tc.frame)
			got, overflow := trace.Take()
			same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
			if diff := cmp.Diff(tc.want, got, same); diff != "" || overflow != 0 {
				t.Errorf("%d too many (-want +got)\n%s", overflow, diff)
			}
			if again, _ := trace.Take(); len(again) > 0 {
				t.Errorf("taken twice: %+v", again)
			}
		})
	}
}

func TestTraceIsInTheOrderOfTime(t *testing.T) {
	var trace Trace
	now := time.Unix(1000, 0)
	for _, d := range []time.Duration{2, 1, 3} {
		trace.Observe(now.Add(d), "p", frame(clientV4, serverV4, header.TCPFlagAck, int(d), false))
	}
	events, _ := trace.Take()
	for i, e := range events {
		if e.Payload != i+1 {
			t.Errorf("event %d is %+v", i, e)
		}
	}
}

func FuzzParseUnreachable(f *testing.F) {
	f.Add([]byte{})
	f.Add(unreachableFrame(clientV4, serverV4, 28))
	f.Add(unreachableFrame(clientV6, serverV6, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parseUnreachable(b); ok && (!e.Unreachable || !e.Src.IsValid() || !e.Dst.IsValid()) {
			t.Errorf("%+v", e)
		}
	})
}
