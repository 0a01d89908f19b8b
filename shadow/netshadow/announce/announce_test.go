// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package announce

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
)

var mac = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrames(t *testing.T) {
	padding := strings.Repeat("00", 18)
	for _, tt := range []struct {
		name  string
		build func() ([]byte, error)
		want  string
	}{
		{
			name:  "an ARP announcement is a broadcast request for one's own address",
			build: func() ([]byte, error) { return ARP(mac, netip.MustParseAddr("10.0.2.15")) },
			want: "ffffffffffff 525400123456 0806 0001 0800 06 04 0001" +
				"525400123456 0a00020f 000000000000 0a00020f" + padding,
		},
		{
			name:  "a reverse ARP request asks for one's own MAC",
			build: func() ([]byte, error) { return RARP(mac) },
			want: "ffffffffffff 525400123456 8035 0001 0800 06 04 0003" +
				"525400123456 00000000 525400123456 00000000" + padding,
		},
		{
			name:  "a MAC without tags is shown by a reverse ARP request",
			build: func() ([]byte, error) { return Show(stack.Place{MAC: mac}) },
			want: "ffffffffffff 525400123456 8035 0001 0800 06 04 0003" +
				"525400123456 00000000 525400123456 00000000" + padding,
		},
		{
			name: "a MAC on a VLAN is shown there, the outer tag first",
			build: func() ([]byte, error) {
				return Show(stack.Place{MAC: mac, Tags: []stack.Tag{{Protocol: 0x88a8, ID: 7}, {Protocol: 0x8100, ID: 42}}})
			},
			want: "ffffffffffff 525400123456 88a80007 8100002a 8035 0001 0800 06 04 0003" +
				"525400123456 00000000 525400123456 00000000" + padding,
		},
		{
			name: "a question is asked on the VLAN that the asker is on",
			build: func() ([]byte, error) {
				return Question(stack.Place{MAC: mac, Tags: []stack.Tag{{Protocol: 0x8100, ID: 42}}},
					netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("10.0.2.2"))
			},
			want: "ffffffffffff 525400123456 8100002a 0806 0001 0800 06 04 0001" +
				"525400123456 0a00020f 000000000000 0a000202" + padding,
		},
		{
			name:  "an unsolicited advertisement goes to all nodes and overrides",
			build: func() ([]byte, error) { return Advertisement(mac, netip.MustParseAddr("fd00::1"), false) },
			want: "333300000001 525400123456 86dd 60000000 0020 3a ff" +
				"fd000000000000000000000000000001 ff020000000000000000000000000001" +
				"88 00 d5df 20000000 fd000000000000000000000000000001 02 01 525400123456",
		},
		{
			name:  "a router's advertisement says so",
			build: func() ([]byte, error) { return Advertisement(mac, netip.MustParseAddr("fe80::1%eth0"), true) },
			want: "333300000001 525400123456 86dd 60000000 0020 3a ff" +
				"fe800000000000000000000000000001 ff020000000000000000000000000001" +
				"88 00 52df a0000000 fe800000000000000000000000000001 02 01 525400123456",
		},
		{
			name: "a solicitation goes to the group of the one it is for",
			build: func() ([]byte, error) {
				return Solicitation(mac, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fd00::12:3456"))
			},
			want: "3333ff123456 525400123456 86dd 60000000 0020 3a ff" +
				"fe800000000000000000000000000001 ff0200000000000000000001ff123456" +
				"87 00 8e8f 00000000 fd000000000000000000000000123456 01 01 525400123456",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.build()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(hex.EncodeToString(unhex(t, tt.want)), hex.EncodeToString(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestAdvertisementChecksum adds up what a receiver does (RFC 4443 2.3).
func TestAdvertisementChecksum(t *testing.T) {
	for _, addr := range []string{"fd00::1", "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe", "fe80::5054:ff:fe12:3456"} {
		b, err := Advertisement(mac, netip.MustParseAddr(addr), false)
		if err != nil {
			t.Fatal(err)
		}
		sum := uint32(len(b)-54) + 58
		for i := 22; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		if sum != 0xffff {
			t.Errorf("%s: sums up to %#x, want 0xffff", addr, sum)
		}
	}
}

func TestFramesRefuse(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("fd00::1")
	infiniband := make(net.HardwareAddr, 20)
	for _, tt := range []struct {
		name  string
		build func() ([]byte, error)
	}{
		{"ARP for IPv6", func() ([]byte, error) { return ARP(mac, v6) }},
		{"an advertisement for IPv4", func() ([]byte, error) { return Advertisement(mac, v4, false) }},
		{"an advertisement for IPv4 in IPv6", func() ([]byte, error) { return Advertisement(mac, netip.MustParseAddr("::ffff:10.0.2.15"), false) }},
		{"a solicitation of IPv4", func() ([]byte, error) { return Solicitation(mac, v4, v6) }},
		{"a solicitation for IPv4", func() ([]byte, error) { return Solicitation(mac, v6, v4) }},
		{"ARP of another link layer", func() ([]byte, error) { return ARP(infiniband, v4) }},
		{"an advertisement of another link layer", func() ([]byte, error) { return Advertisement(infiniband, v6, false) }},
		{"a reverse ARP request without MAC", func() ([]byte, error) { return RARP(nil) }},
		{"a question for IPv6", func() ([]byte, error) { return Question(stack.Place{MAC: mac}, v4, v6) }},
		{"to show a MAC of another link layer", func() ([]byte, error) { return Show(stack.Place{MAC: infiniband}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if b, err := tt.build(); err == nil {
				t.Errorf("got % x", b)
			}
		})
	}
	if _, err := ARP(infiniband, v4); !errors.Is(err, ErrHardwareAddr) {
		t.Errorf("got %v, want ErrHardwareAddr", err)
	}
}

func TestInterfaceFrames(t *testing.T) {
	i := Interface{MAC: mac, Addresses: []netip.Addr{netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("fd00::1")}}
	frames, err := i.frames()
	if err != nil || len(frames) != 2 || frames[0][13] != 0x06 || frames[1][12] != 0x86 {
		t.Errorf("got %x, %v, want one ARP and one advertisement", frames, err)
	}
	i.Addresses = nil
	frames, err = i.frames()
	if err != nil || len(frames) != 1 || frames[0][12] != 0x80 {
		t.Errorf("without addresses: got %x, %v, want one RARP", frames, err)
	}
}

func TestShownIsBounded(t *testing.T) {
	var places []stack.Place
	for i := range maxShown + 1 {
		places = append(places, stack.Place{MAC: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}})
	}
	frames, err := Shown(slog.New(slog.DiscardHandler), places)
	if err != nil || len(frames) != maxShown {
		t.Errorf("%d frames for %d MACs, %v, want %d", len(frames), len(places), err, maxShown)
	}
}
