// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hasten

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The checksums were computed by other means.
func TestMessage(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Connection
		want string
	}{
		{
			name: "the peer of a connection of IPv4 is told that a host was unreachable",
			c:    Connection{netip.MustParseAddrPort("10.0.2.15:22"), netip.MustParseAddrPort("192.0.2.7:40000"), 0x01020304, 0},
			want: "4500 0038 0000 4000 40 01 6caf 0a00020f c0000207" +
				"03 01 5ca2 00000000" +
				"4500 0028 0000 4000 40 06 6cba c0000207 0a00020f" + "9c40 0016 01020304",
		},
		{
			name: "the peer of a connection of IPv6 is told that there was no route",
			c:    Connection{netip.MustParseAddrPort("[fd00::f]:22"), netip.MustParseAddrPort("[2001:db8::7]:40000"), 0xfffefdfc, 3},
			want: "60000000 0038 3a 40 fd00000000000000000000000000000f 20010db8000000000000000000000007" +
				"01 00 a846 00000000" +
				"60000000 0014 06 40 20010db8000000000000000000000007 fd00000000000000000000000000000f" + "9c40 0016 fffefdfc",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := hex.EncodeToString(Message(tt.c))
			if want := strings.ReplaceAll(tt.want, " ", ""); got != want {
				t.Errorf("message\n%s, want\n%s", got, want)
			}
		})
	}
}

// record encodes struct connection as the program does.
func record(next, bound uint32, family, local, peer uint16, from, to netip.Addr) []byte {
	b := binary.NativeEndian.AppendUint32(nil, next)
	b = binary.NativeEndian.AppendUint32(b, bound)
	for _, v := range []uint16{family, local, peer, 0} {
		b = binary.NativeEndian.AppendUint16(b, v)
	}
	for _, a := range []netip.Addr{from, to} {
		b = append(append(b, a.AsSlice()...), make([]byte, 16-a.BitLen()/8)...)
	}
	return b
}

func TestParse(t *testing.T) {
	addr := netip.MustParseAddr
	four := record(7, 0, unix.AF_INET, 22, 4000, addr("10.0.0.1"), addr("10.0.0.2"))
	six := record(8, 3, unix.AF_INET6, 22, 4000, addr("fe80::1"), addr("fe80::2"))
	mapped := record(9, 0, unix.AF_INET6, 22, 4000, addr("::ffff:10.0.0.1"), addr("::ffff:10.0.0.2"))
	at := netip.MustParseAddrPort
	wantFour := Connection{at("10.0.0.1:22"), at("10.0.0.2:4000"), 7, 0}
	wantSix := Connection{at("[fe80::1]:22"), at("[fe80::2]:4000"), 8, 3}
	for name, tt := range map[string]struct {
		b     []byte
		want  []Connection
		fails bool
	}{
		"none":                            {nil, nil, false},
		"one of each version":             {append(append([]byte{}, four...), six...), []Connection{wantFour, wantSix}, false},
		"IPv4 over a socket of IPv6":      {mapped, []Connection{{wantFour.Local, wantFour.Peer, 9, 0}}, false},
		"a part of one":                   {four[:47], nil, true},
		"a family that nobody asks about": {record(1, 0, unix.AF_UNIX, 1, 1, addr("::"), addr("::")), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tt.b)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	if _, err := parse(make([]byte, 1)); !errors.Is(err, errSize) {
		t.Errorf("error %v, want errSize", err)
	}
}

func TestWhoIsTold(t *testing.T) {
	at := netip.MustParseAddrPort
	local := map[netip.Addr]int{netip.MustParseAddr("10.0.0.1"): 4, netip.MustParseAddr("fd00::1"): 4}
	four := Connection{at("10.0.0.1:22"), at("10.0.0.2:4000"), 7, 0}
	six := Connection{at("[fd00::1]:22"), at("[fd00::2]:4000"), 8, 0}
	var many []Connection
	for i := range MaxConnections + 3 {
		many = append(many, Connection{four.Local, netip.AddrPortFrom(four.Peer.Addr(), uint16(i)), 0, 0})
	}
	for _, tt := range []struct {
		name   string
		now    []Connection
		want   int
		beyond int
	}{
		{"peers of either version", []Connection{four, six}, 2, 0},
		{"nobody who talks to another interface", []Connection{{at("127.0.0.1:22"), at("127.0.0.1:4000"), 1, 0}}, 0, 0},
		{"not this host itself", []Connection{{four.Local, at("10.0.0.1:4000"), 1, 0}}, 0, 0},
		{"no more than the bound", many, MaxConnections, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, beyond := choose(tt.now, local)
			if len(got) != tt.want || beyond != tt.beyond {
				t.Errorf("%d are told and %d not, want %d and %d", len(got), beyond, tt.want, tt.beyond)
			}
		})
	}

	told := map[Connection]bool{four: true, six: true}
	moved, fresh := six, many[0]
	moved.Next++
	if got := unchanged([]Connection{four, moved, fresh}, told); len(got) != 1 || !got[four] {
		t.Errorf("told once more are %v, want who has sent nothing since, %v", got, four)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(record(7, 0, unix.AF_INET, 22, 4000, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")))
	f.Add(record(7, 0, unix.AF_INET6, 22, 4000, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.2")))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		connections, err := parse(b)
		if err == nil && len(connections) != len(b)/connectionLen {
			t.Errorf("%d connections in %d bytes", len(connections), len(b))
		}
		for _, c := range connections {
			Message(c)
		}
	})
}

func TestProgramMatchesParser(t *testing.T) {
	spec, err := loadSockets()
	if err != nil {
		t.Fatal(err)
	}
	var layout *btf.Struct
	if err := spec.Types.TypeByName("connection", &layout); err != nil {
		t.Fatal(err)
	}
	if layout.Size != connectionLen {
		t.Errorf("the program writes %d bytes, we read %d", layout.Size, connectionLen)
	}
}

func TestALinkLocalAddressHasAnInterface(t *testing.T) {
	local := map[netip.Addr]int{netip.MustParseAddr("fe80::1"): 4, netip.MustParseAddr("fd00::1"): 4}
	from := func(addr string, iface int) Connection {
		return Connection{Local: netip.AddrPortFrom(netip.MustParseAddr(addr), 1), Interface: iface}
	}
	got := []Connection{from("fe80::1", 0), from("fe80::1", 7), from("fd00::1", 0)}
	scope(got, local)
	want := []Connection{from("fe80::1", 4), from("fe80::1", 7), from("fd00::1", 0)}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
