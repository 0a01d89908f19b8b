// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package capture

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	clientV4 = netip.MustParseAddrPort("10.0.0.2:4000")
	serverV4 = netip.MustParseAddrPort("10.0.0.1:7")
	clientV6 = netip.MustParseAddrPort("[fd99::2]:4000")
	serverV6 = netip.MustParseAddrPort("[fd99::1]:7")
)

// frame builds an Ethernet frame with a TCP segment by gVisor's encoders, so
// that parser and test do not share a misunderstanding.
func frame(src, dst netip.AddrPort, flags header.TCPFlags, payload int, vlan bool) []byte {
	tcp := make([]byte, header.TCPMinimumSize+payload)
	header.TCP(tcp).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), Flags: flags, DataOffset: header.TCPMinimumSize})
	var ip []byte
	ether := []byte{0x08, 0x00}
	if src.Addr().Is4() {
		ip = make([]byte, header.IPv4MinimumSize)
		header.IPv4(ip).Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip) + len(tcp)), Protocol: uint8(header.TCPProtocolNumber),
			SrcAddr: tcpip.AddrFromSlice(src.Addr().AsSlice()), DstAddr: tcpip.AddrFromSlice(dst.Addr().AsSlice())})
	} else {
		ether = []byte{0x86, 0xdd}
		ip = make([]byte, header.IPv6MinimumSize)
		header.IPv6(ip).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(tcp)), TransportProtocol: header.TCPProtocolNumber,
			SrcAddr: tcpip.AddrFromSlice(src.Addr().AsSlice()), DstAddr: tcpip.AddrFromSlice(dst.Addr().AsSlice())})
	}
	f := make([]byte, 12, 128)
	if vlan {
		f = append(f, 0x81, 0x00, 0, 42)
	}
	f = append(append(append(f, ether...), ip...), tcp...)
	for len(f) < 60 {
		f = append(f, 0) // padding is not payload
	}
	return f
}

func TestFlows(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name     string
		cli, srv netip.AddrPort
		vlan     bool
	}{
		{"IPv4", clientV4, serverV4, false},
		{"IPv6", clientV6, serverV6, false},
		{"IPv4 in a VLAN", clientV4, serverV4, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var flows Flows
			for i, f := range [][]byte{
				frame(tc.cli, tc.srv, header.TCPFlagSyn, 0, tc.vlan),
				frame(tc.srv, tc.cli, header.TCPFlagSyn|header.TCPFlagAck, 0, tc.vlan),
				frame(tc.cli, tc.srv, header.TCPFlagAck, 5, tc.vlan),
				frame(tc.srv, tc.cli, header.TCPFlagFin|header.TCPFlagAck, 0, tc.vlan),
				frame(tc.cli, tc.srv, header.TCPFlagRst, 0, tc.vlan),
			} {
				flows.Observe(now.Add(time.Duration(i)), "p", f)
			}
			all := flows.All()
			want := []Flow{
				{Src: tc.cli, Dst: tc.srv, Segments: 3, Bytes: 5, SYN: 1, RST: 1, First: now, Last: now.Add(4)},
				{Src: tc.srv, Dst: tc.cli, Segments: 2, SYN: 1, FIN: 1, First: now.Add(1), Last: now.Add(3)},
			}
			if len(all) != 2 || all[0] != want[0] || all[1] != want[1] {
				t.Errorf("flows = %+v\nwant %+v", all, want)
			}
			if syn, rst := flows.Port(7); syn != 2 || rst != 1 {
				t.Errorf("port 7: %d SYN, %d RST, want 2 and 1", syn, rst)
			}
			if syn, rst := flows.Port(8); syn+rst != 0 {
				t.Errorf("port 8: %d SYN, %d RST, want none", syn, rst)
			}
		})
	}
}

func TestAResetIsLateWhenBothEndsHaveFinished(t *testing.T) {
	client := frame(clientV4, serverV4, header.TCPFlagFin|header.TCPFlagAck, 0, false)
	server := frame(serverV4, clientV4, header.TCPFlagFin|header.TCPFlagAck, 0, false)
	reset := frame(clientV4, serverV4, header.TCPFlagRst, 0, false)
	for _, tc := range []struct {
		name   string
		before [][]byte
		want   uint64
	}{
		{"nobody has", nil, 1},
		{"who resets has", [][]byte{client}, 1},
		{"the other has", [][]byte{server}, 1},
		{"both have", [][]byte{server, client}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var flows Flows
			for _, f := range append(tc.before, reset) {
				flows.Observe(time.Now(), "p", f)
			}
			if _, rst := flows.Port(serverV4.Port()); rst != tc.want {
				t.Errorf("%d resets, want %d: %+v", rst, tc.want, flows.All())
			}
		})
	}
}

func TestFlowsAreBounded(t *testing.T) {
	var flows Flows
	for i := range maxFlows + 10 {
		src := netip.AddrPortFrom(clientV4.Addr(), uint16(i))
		flows.Observe(time.Now(), "p", frame(src, serverV4, header.TCPFlagSyn, 0, false))
	}
	if n := len(flows.All()); n != maxFlows || flows.Overflow() != 10 {
		t.Errorf("%d flows and %d segments not counted, want %d and 10", n, flows.Overflow(), maxFlows)
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame(clientV4, serverV4, header.TCPFlagSyn, 3, false))
	f.Add(frame(clientV6, serverV6, header.TCPFlagRst, 3, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		seg, ok := parseTCP(b)
		if ok && (seg.payload < 0 || seg.payload > len(b)) {
			t.Errorf("payload of %d in a frame of %d bytes", seg.payload, len(b))
		}
	})
}

func TestFileIsReadByAnotherImplementation(t *testing.T) {
	var out bytes.Buffer
	file, err := NewFile(&out, 64, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 123_456_789)
	long := bytes.Repeat([]byte{7}, 101)
	file.Observe(at, "guest", []byte("odd"))
	file.Observe(at.Add(1), "peer", long)
	file.Observe(at.Add(2), "guest", []byte("four"))

	r, err := pcapgo.NewNgReader(&out, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		port string
		data []byte
		full int
	}{{"guest", []byte("odd"), 3}, {"peer", long[:64], 101}, {"guest", []byte("four"), 4}} {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		intf, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		if intf.Name != want.port || !bytes.Equal(data, want.data) || ci.Length != want.full || !ci.Timestamp.Equal(at.Add(time.Duration(i))) {
			t.Errorf("packet %d: %q %x of %d at %s", i, intf.Name, data, ci.Length, ci.Timestamp)
		}
	}
}

func TestFileLimit(t *testing.T) {
	var out bytes.Buffer
	file, err := NewFile(&out, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		file.Observe(time.Now(), "p", make([]byte, 100))
	}
	if out.Len() > 1000 || file.Skipped() == 0 || file.Err() != nil {
		t.Errorf("%d bytes written, %d frames skipped, %v", out.Len(), file.Skipped(), file.Err())
	}
}

type brokenWriter struct{ after int }

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.after--; w.after < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

func TestFileReportsWriteErrors(t *testing.T) {
	if _, err := NewFile(&brokenWriter{0}, 0, 0); err == nil {
		t.Error("NewFile on a full disk succeeded")
	}
	file, err := NewFile(&brokenWriter{2}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	file.Observe(time.Now(), "p", []byte("lost"))
	file.Observe(time.Now(), "p", []byte("skipped"))
	if file.Err() == nil || file.Skipped() != 1 {
		t.Errorf("Err = %v, Skipped = %d", file.Err(), file.Skipped())
	}
}
