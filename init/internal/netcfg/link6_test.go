// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// userOption makes a message of the kernel about options of a router advertisement on
// interface 3.
func userOption(icmpType byte, opts []byte) []byte {
	b := make([]byte, userOptHeaderLen)
	b[0], b[8] = unix.AF_INET6, icmpType
	binary.NativeEndian.PutUint16(b[2:], uint16(len(opts)))
	binary.NativeEndian.PutUint32(b[4:], 3)
	return append(b, opts...)
}

// rdnss makes an option with name servers.
func rdnss(lifetime uint32, servers ...string) []byte {
	b := []byte{25, byte(1 + 2*len(servers)), 0, 0}
	b = binary.BigEndian.AppendUint32(b, lifetime)
	for _, s := range servers {
		b = append(b, netip.MustParseAddr(s).AsSlice()...)
	}
	return b
}

func TestNameServersOfAnAdvertisement(t *testing.T) {
	const ra = 134
	is := func(s string, lifetime time.Duration) advertised { return advertised{netip.MustParseAddr(s), lifetime} }
	dnssl := []byte{31, 2, 0, 0, 0, 0, 0, 60, 1, 'a', 1, 'b', 0, 0, 0, 0}
	for _, tt := range []struct {
		name string
		b    []byte
		want []advertised
	}{
		{"each server with the lifetime", userOption(ra, rdnss(60, "fd00::1", "fd00::2")),
			[]advertised{is("fd00::1", time.Minute), is("fd00::2", time.Minute)}},
		{"among other options", userOption(ra, slices.Concat(dnssl, rdnss(60, "fd00::1"), dnssl, rdnss(0, "fd00::2"))),
			[]advertised{is("fd00::1", time.Minute), is("fd00::2", 0)}},
		{"what is no host's address is left out", userOption(ra, rdnss(60, "::", "ff02::1", "::1", "::ffff:10.0.0.1", "fd00::2")),
			[]advertised{is("fd00::2", time.Minute)}},
		{"another message's options", userOption(ra+1, rdnss(60, "fd00::1")), nil},
		{"an option cut short", userOption(ra, rdnss(60, "fd00::1")[:16]), nil},
		{"an option without length", userOption(ra, make([]byte, 24)), nil},
		{"a message cut short", userOption(ra, nil)[:8], nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, ok := newsOf(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWNDUSEROPT}, Data: tt.b})
			if !slices.Equal(n.servers, tt.want) || ok != (len(tt.want) > 0) || ok && n.index != 3 {
				t.Errorf("got %+v, %t, want %v of interface 3", n, ok, tt.want)
			}
		})
	}
}

func TestFlagsOfAnInterface(t *testing.T) {
	link := func(family int, flags uint32) []byte {
		info := nl.NewIfInfomsg(family)
		info.Index = 3
		prot := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
		prot.AddRtAttr(iflaInet6Flags, nl.Uint32Attr(flags))
		return slices.Concat(info.Serialize(), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("net0")).Serialize(), prot.Serialize())
	}
	for _, tt := range []struct {
		name  string
		b     []byte
		flags uint32
		ok    bool
	}{
		{"of IPv6", link(unix.AF_INET6, 0x40), raManaged, true},
		{"a link of another family has none", link(unix.AF_UNSPEC, 0x40), 0, false},
		{"a link without IPv6 has none", link(unix.AF_INET6, 0)[:unix.SizeofIfInfomsg], 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			index, flags, ok := inet6Flags(tt.b)
			if ok != tt.ok || flags != tt.flags || ok && index != 3 {
				t.Errorf("got %d, %#x, %t, want 3, %#x, %t", index, flags, ok, tt.flags, tt.ok)
			}
		})
	}
}

func TestCheckOfAnAddress(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags int
		want  Check
	}{
		{"no flag", 0, Unique},
		{"tentative", unix.IFA_F_TENTATIVE | unix.IFA_F_PERMANENT, Tentative},
		{"tentative and used all the same (RFC 4429)", unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC, Unique},
		{"found on another host, and tentative for good", unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED, Duplicate},
	} {
		if got := checkOf(tt.flags); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	view := View6{Addresses: []Address6{
		{netip.MustParsePrefix("fe80::1/64"), Unique}, {netip.MustParsePrefix("fd00::1/64"), Duplicate}, {netip.MustParsePrefix("fd00::2/64"), Unique},
	}}
	ll, _ := view.linkLocal()
	global, _ := view.global()
	if d := cmp.Diff("fe80::1 fd00::2", ll.String()+" "+global.String()); d != "" {
		t.Error(d)
	}
}
