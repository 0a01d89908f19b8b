// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

var mac6 = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}

// reply6 makes an answer with an identity association of the role's.
func reply6(t1, t2 time.Duration, opts ...dhcpv6.Option) *dhcpv6.Message {
	id := newIdentity6(mac6)
	ia := &dhcpv6.OptIANA{IaId: id.iaid, T1: t1, T2: t2}
	for _, o := range opts {
		ia.Options.Add(o)
	}
	server := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply}
	m.AddOption(dhcpv6.OptClientID(id.duid))
	m.AddOption(dhcpv6.OptServerID(server))
	m.AddOption(ia)
	return m
}

func iaAddr(addr string, preferred, valid time.Duration) dhcpv6.Option {
	return &dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(addr), PreferredLifetime: preferred, ValidLifetime: valid}
}

func says(code iana.StatusCode) dhcpv6.Option {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: "no\nnameserver 6.6.6.6"}
}

func TestTimesOfALeaseOfIPv6(t *testing.T) {
	const h = time.Hour
	const ever = math.MaxUint32 * time.Second
	for _, tt := range []struct {
		name                          string
		preferred, valid, t1, t2      time.Duration
		until, renew, rebind, expires time.Duration
	}{
		{"the server's T1 and T2 are kept", 10 * h, 20 * h, 1 * h, 2 * h, 10 * h, 1 * h, 2 * h, 20 * h},
		{"without them they are at 0.5 and 0.8 of the preferred lifetime", 10 * h, 20 * h, 0, 0, 10 * h, 5 * h, 8 * h, 20 * h},
		{"a late T1 without T2 moves that", 10 * h, 20 * h, 9 * h, 0, 10 * h, 9 * h, 9 * h, 20 * h},
		{"nothing comes after the end", 10 * h, 20 * h, 30 * h, 40 * h, 10 * h, 20 * h, 20 * h, 20 * h},
		{"an address that is not preferred goes by its valid lifetime", 0, 20 * h, 0, 0, 0, 10 * h, 16 * h, 20 * h},
		{"the longest time is for ever", ever, ever, 0, 0, Forever, Forever, Forever, Forever},
		{"a lease for ever may be renewed", ever, ever, h, 2 * h, Forever, h, 2 * h, Forever},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const granted = 100 * time.Second
			at := func(d time.Duration) time.Duration {
				if d == Forever {
					return d
				}
				return granted + d
			}
			var l Lease6
			l.setTimes6(granted, tt.preferred, tt.valid, tt.t1, tt.t2)
			want := Lease6{Preferred: at(tt.until), Term: Term{Granted: granted, Renew: at(tt.renew), Rebind: at(tt.rebind), Expires: at(tt.expires)}}
			if diff := cmp.Diff(want, l, addrCmp); diff != "" {
				t.Errorf("times (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLeaseOfAnAnswerOfIPv6(t *testing.T) {
	const h = time.Hour
	with := func(m *dhcpv6.Message, opts ...dhcpv6.Option) *dhcpv6.Message {
		for _, o := range opts {
			m.UpdateOption(o)
		}
		return m
	}
	without := func(m *dhcpv6.Message, code dhcpv6.OptionCode) *dhcpv6.Message {
		m.Options.Options = slices.DeleteFunc(m.Options.Options, func(o dhcpv6.Option) bool { return o.Code() == code })
		return m
	}
	good := iaAddr("fd00::15", h, 2*h)
	stranger := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 8}}
	for _, tt := range []struct {
		name string
		m    *dhcpv6.Message
		addr string
		err  error
	}{
		{"an address", reply6(0, 0, good), "fd00::15", nil},
		{"success may be said", reply6(0, 0, good, says(iana.StatusSuccess)), "fd00::15", nil},
		{"the first that can be used", reply6(0, 0, iaAddr("fe80::1", h, h), iaAddr("fd00::1", 2*h, h), iaAddr("fd00::2", 0, 0), good), "fd00::15", nil},
		{"no address", reply6(0, 0), "", ErrLease},
		{"a link-local address is none", reply6(0, 0, iaAddr("fe80::1", h, h)), "", ErrLease},
		{"a group's address is none", reply6(0, 0, iaAddr("ff02::1", h, h)), "", ErrLease},
		{"an address of IPv4 is none", reply6(0, 0, iaAddr("::ffff:10.0.0.1", h, h)), "", ErrLease},
		{"preferred for longer than valid makes no sense", reply6(0, 0, iaAddr("fd00::1", 2*h, h)), "", ErrLease},
		{"T1 after T2 makes no sense", reply6(2*h, h, good), "", ErrLease},
		{"a lifetime of 0 takes the address back", reply6(0, 0, iaAddr("fd00::15", 0, 0)), "", ErrNak},
		{"a server that does not know the lease", reply6(0, 0, says(iana.StatusNoBinding)), "", ErrNoBinding},
		{"an address of another link", reply6(0, 0, says(iana.StatusNotOnLink)), "", ErrNak},
		{"no address left", reply6(0, 0, says(iana.StatusNoAddrsAvail)), "", ErrStatus},
		{"a refusal of the whole", with(reply6(0, 0, good), says(iana.StatusUnspecFail)), "", ErrStatus},
		{"another client's answer", with(reply6(0, 0, good), dhcpv6.OptClientID(stranger)), "", ErrLease},
		{"an answer to nobody", without(reply6(0, 0, good), dhcpv6.OptionClientID), "", ErrLease},
		{"an answer from nobody", without(reply6(0, 0, good), dhcpv6.OptionServerID), "", ErrLease},
		{"another association's answer", with(reply6(0, 0), &dhcpv6.OptIANA{IaId: [4]byte{9}, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{good}}}), "", ErrLease},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := dhcpv6.MessageFromBytes(tt.m.ToBytes())
			if err != nil {
				t.Fatal(err)
			}
			l, err := newIdentity6(mac6).lease6(m, 0)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && (l.Address.String() != tt.addr || l.Server != "00030001020000000009") {
				t.Errorf("lease %+v, want address %s", l, tt.addr)
			}
		})
	}
}

func TestIdentityOfIPv6IsReadBack(t *testing.T) {
	id := newIdentity6(mac6)
	back, err := identity6From(id.duid.ToBytes())
	if err != nil || !back.duid.Equal(id.duid) || back.iaid != id.iaid || id.iaid != [4]byte{0, 0, 0, 1} {
		t.Errorf("identity %v of %v is read back as %v, %v", id.iaid, id.duid, back, err)
	}
	if _, err := identity6From(nil); err == nil {
		t.Error("no identity is read as one")
	}
}

func FuzzLease6(f *testing.F) {
	f.Add(reply6(0, 0, iaAddr("fd00::15", time.Hour, 2*time.Hour)).ToBytes())
	f.Add(reply6(time.Minute, time.Hour, iaAddr("fd00::15", 0, infinite), says(iana.StatusSuccess)).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			return
		}
		l, err := newIdentity6(mac6).lease6(m, 0)
		if err != nil {
			return
		}
		if !l.Address.Is6() || l.Renew > l.Rebind || l.Rebind > l.Expires || l.Preferred > l.Expires || l.Renew < 0 {
			t.Fatalf("%+v", l)
		}
	})
}

func TestLifetimesForTheKernel(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    time.Duration
		want int
	}{
		{"seconds are rounded up", 1500 * time.Millisecond, 2},
		{"for ever has all bits set", Forever, math.MaxUint32},
		{"long is not for ever", math.MaxUint32 * time.Second, math.MaxUint32 - 1},
		{"none", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := seconds(tt.d); got != tt.want {
				t.Errorf("%v is %d s, want %d", tt.d, got, tt.want)
			}
		})
	}
}

func TestStateOfIPv6IsReadBack(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	l := &Lease6{Address: netip.MustParseAddr("fd00::15"), Server: "0003", DNS: []netip.Addr{netip.MustParseAddr("fd00::53")}, Domains: []string{"a.b"}}
	l.setTimes6(time.Second, time.Hour, 2*time.Hour, 0, 0)
	want := State{V6: State6{Ifindex: 3, DUID: "0003", Lease: l, Servers: []Server{{netip.MustParseAddr("fd99::53"), Forever}}}}
	if err := s.Save("net0", want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load("net0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, addrCmp, prefixCmp); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}
