// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/umbra-vm/umbra/ci/testbed/peer"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
)

var (
	macA = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xb}
)

func config() Config {
	return Config{
		Server: netip.MustParseAddr("10.99.0.1"),
		Subnet: netip.MustParsePrefix("10.99.0.0/24"),
		First:  netip.MustParseAddr("10.99.0.1"),
		Router: netip.MustParseAddr("10.99.0.1"),
		DNS:    []netip.Addr{netip.MustParseAddr("10.99.0.1")},
		MTU:    1400,
		Lease:  time.Minute,
	}
}

func request(t *testing.T, mac net.HardwareAddr, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func option(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

func TestAnswer(t *testing.T) {
	const leased = "10.99.0.2" // the first that is not the server's own
	for _, tc := range []struct {
		name string
		msg  *dhcpv4.DHCPv4
		kind dhcpv4.MessageType // none: no answer
		addr string
	}{
		{"discover is offered a lease", request(t, macA, dhcpv4.MessageTypeDiscover),
			dhcpv4.MessageTypeOffer, leased},
		{"request for the lease is acknowledged", request(t, macA, dhcpv4.MessageTypeRequest, option(leased)),
			dhcpv4.MessageTypeAck, leased},
		{"renewal by client address is acknowledged",
			request(t, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.ParseIP(leased))),
			dhcpv4.MessageTypeAck, leased},
		{"request for another address is refused", request(t, macA, dhcpv4.MessageTypeRequest, option("10.99.0.77")),
			dhcpv4.MessageTypeNak, ""},
		{"request without an address is refused", request(t, macA, dhcpv4.MessageTypeRequest),
			dhcpv4.MessageTypeNak, ""},
		{"request to another server is not answered",
			request(t, macA, dhcpv4.MessageTypeRequest, option(leased),
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP("10.99.0.9")))),
			dhcpv4.MessageTypeNone, ""},
		{"release is not answered", request(t, macA, dhcpv4.MessageTypeRelease), dhcpv4.MessageTypeNone, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := newServer(config())
			if err != nil {
				t.Fatal(err)
			}
			reply, err := s.answer(tc.msg)
			if err != nil {
				t.Fatal(err)
			}
			if tc.kind == dhcpv4.MessageTypeNone {
				if reply != nil {
					t.Errorf("answered with %s", reply.Summary())
				}
				return
			}
			if reply.MessageType() != tc.kind {
				t.Fatalf("answer is %s, want %s", reply.MessageType(), tc.kind)
			}
			if tc.addr == "" {
				return
			}
			if got := reply.YourIPAddr.String(); got != tc.addr {
				t.Errorf("address %s, want %s", got, tc.addr)
			}
			if ones, _ := reply.SubnetMask().Size(); ones != 24 {
				t.Errorf("mask /%d, want /24", ones)
			}
			if got := reply.IPAddressLeaseTime(0); got != time.Minute {
				t.Errorf("lease of %s, want 1m", got)
			}
			if got := reply.Router(); len(got) != 1 || got[0].String() != "10.99.0.1" {
				t.Errorf("router %v", got)
			}
			if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, reply.Options); err != nil || mtu != 1400 {
				t.Errorf("MTU %d, %v", mtu, err)
			}
		})
	}
}

func TestLeases(t *testing.T) {
	cfg := config()
	cfg.Subnet = netip.MustParsePrefix("10.99.0.0/29")
	cfg.Fixed = map[string]netip.Addr{macB.String(): netip.MustParseAddr("10.99.0.4")}
	s, err := newServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[netip.Addr]bool)
	var last error
	clients := 0
	for i := range 10 {
		a, err := s.lease(net.HardwareAddr{2, 0, 0, 0, 1, byte(i)})
		if err != nil {
			last = err
			break
		}
		again, err := s.lease(net.HardwareAddr{2, 0, 0, 0, 1, byte(i)})
		if err != nil || again != a {
			t.Errorf("client %d got %s and then %s, %v", i, a, again, err)
		}
		if got[a] {
			t.Errorf("%s was leased twice", a)
		}
		got[a] = true
		clients++
	}
	if !errors.Is(last, ErrExhausted) {
		t.Errorf("the range ended with %v, want ErrExhausted", last)
	}
	// .1 is the server, .4 is fixed, .7 is the broadcast address.
	if clients != 4 {
		t.Errorf("%d clients served from a /29, want 4", clients)
	}
	if a, err := s.lease(macB); err != nil || a.String() != "10.99.0.4" {
		t.Errorf("fixed lease is %s, %v", a, err)
	}
}

// The client of this test has an address already, because gVisor sends nothing
// from 0.0.0.0; the answer to a host without one is tested in package peer and
// with a real guest.
func TestClientGetsItsLeaseOverTheWire(t *testing.T) {
	sw := vswitch.New()
	defer sw.Close()
	host := func(name string, mac net.HardwareAddr, prefix string) *peer.Host {
		port, err := sw.Attach(name, true)
		if err != nil {
			t.Fatal(err)
		}
		h, err := peer.New(port, peer.Config{MAC: mac, Addresses: []netip.Prefix{netip.MustParsePrefix(prefix)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return h
	}
	server, client := host("server", macB, "10.99.0.1/24"), host("client", macA, "10.99.0.200/24")
	conn, err := server.ListenPacket(netip.MustParseAddrPort("0.0.0.0:67"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serve(conn, config())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	cc, err := client.ListenPacket(netip.MustParseAddrPort("0.0.0.0:68"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := nclient4.NewWithConn(cc, macA)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lease, err := c.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := lease.ACK.YourIPAddr.String(); got != "10.99.0.2" {
		t.Errorf("lease is %s, want 10.99.0.2", got)
	}
	if s.Acks() != 1 || s.Leases()[macA.String()].String() != "10.99.0.2" {
		t.Errorf("server knows %v after %d acknowledgements", s.Leases(), s.Acks())
	}
}
