// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dhcp6

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	serverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macA      = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xa}
	macB      = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xb}
)

func duid(mac net.HardwareAddr) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
}

func message(t *testing.T, kind dhcpv6.MessageType, client net.HardwareAddr, mods ...dhcpv6.Modifier) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithClientID(duid(client)), dhcpv6.WithIAID([4]byte{1, 2, 3, 4})}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	return m
}

func TestAnswer(t *testing.T) {
	self, other := dhcpv6.WithServerID(duid(serverMAC)), dhcpv6.WithServerID(duid(macB))
	for _, tt := range []struct {
		name   string
		m      *dhcpv6.Message
		kind   dhcpv6.MessageType // 0: silence
		addr   string
		status iana.StatusCode
	}{
		{"solicit is advertised a lease", message(t, dhcpv6.MessageTypeSolicit, macB), dhcpv6.MessageTypeAdvertise, "fd99::101", 0},
		{"request is granted it", message(t, dhcpv6.MessageTypeRequest, macB, self), dhcpv6.MessageTypeReply, "fd99::101", 0},
		{"renewal is granted the same address", message(t, dhcpv6.MessageTypeRenew, macA, self), dhcpv6.MessageTypeReply, "fd99::100", 0},
		{"so is rebinding", message(t, dhcpv6.MessageTypeRebind, macA), dhcpv6.MessageTypeReply, "fd99::100", 0},
		{"another IAID is another client", message(t, dhcpv6.MessageTypeRequest, macA, self, dhcpv6.WithIAID([4]byte{9})), dhcpv6.MessageTypeReply, "fd99::101", 0},
		{"a lease that is not known is not extended", message(t, dhcpv6.MessageTypeRenew, macB, self), dhcpv6.MessageTypeReply, "", iana.StatusNoBinding},
		{"a request to another server", message(t, dhcpv6.MessageTypeRequest, macA, other), 0, "", 0},
		{"a request to no server", message(t, dhcpv6.MessageTypeRequest, macA), 0, "", 0},
		{"a decline changes nothing", message(t, dhcpv6.MessageTypeDecline, macA, self), 0, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := newServer(Config{MAC: serverMAC, First: netip.MustParseAddr("fd99::100"), T1: time.Minute, DNS: []netip.Addr{netip.MustParseAddr("fd99::53")}})
			if err != nil {
				t.Fatal(err)
			}
			if s.answer(message(t, dhcpv6.MessageTypeRequest, macA, self)) == nil {
				t.Fatal("the first client got nothing")
			}
			reply := s.answer(tt.m)
			if tt.kind == 0 {
				if reply != nil {
					t.Errorf("answered with %s", reply.Summary())
				}
				return
			}
			if reply == nil || reply.MessageType != tt.kind || reply.TransactionID != tt.m.TransactionID {
				t.Fatalf("answer is %v, want %s", reply, tt.kind)
			}
			ia := reply.Options.OneIANA()
			if st := ia.Options.Status(); st != nil && st.StatusCode != tt.status || st == nil && tt.status != 0 {
				t.Errorf("status %v, want %s", st, tt.status)
			}
			addr := ""
			if a := ia.Options.OneAddress(); a != nil {
				addr = a.IPv6Addr.String()
			}
			if addr != tt.addr || ia.T1 != time.Minute || ia.IaId != tt.m.Options.OneIANA().IaId {
				t.Errorf("got %q: %v, want %q", addr, ia, tt.addr)
			}
			if dns := reply.Options.DNS(); len(dns) != 1 || dns[0].String() != "fd99::53" {
				t.Errorf("name servers %v", dns)
			}
		})
	}
}

func TestForgottenLeasesAreGrantedAnew(t *testing.T) {
	s, err := newServer(Config{MAC: serverMAC, First: netip.MustParseAddr("fd99::100")})
	if err != nil {
		t.Fatal(err)
	}
	self := dhcpv6.WithServerID(duid(serverMAC))
	s.answer(message(t, dhcpv6.MessageTypeRequest, macA, self))
	s.Forget()
	if st := s.answer(message(t, dhcpv6.MessageTypeRenew, macA, self)).Options.OneIANA().Options.Status(); st == nil || st.StatusCode != iana.StatusNoBinding {
		t.Errorf("a forgotten lease is renewed: %v", st)
	}
	s.answer(message(t, dhcpv6.MessageTypeRequest, macA, self))
	if got := s.Leases(); len(got) != 1 || got["0003000152540000000a/01020304"].String() != "fd99::100" {
		t.Errorf("leases are %v", got)
	}
	if s.Heard(dhcpv6.MessageTypeRequest) != 2 || s.Heard(dhcpv6.MessageTypeRenew) != 1 {
		t.Errorf("heard %v", s.heard)
	}
}

func TestServerNeedsToKnowWhoItIs(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no MAC":            {First: netip.MustParseAddr("fd99::100")},
		"addresses of IPv4": {MAC: serverMAC, First: netip.MustParseAddr("10.0.0.1")},
	} {
		if _, err := newServer(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
