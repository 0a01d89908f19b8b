// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package peer

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
)

var (
	addrA = netip.MustParsePrefix("10.99.0.1/24")
	addrB = netip.MustParsePrefix("10.99.0.2/24")
	v6A   = netip.MustParsePrefix("fd99::1/64")
	v6B   = netip.MustParsePrefix("fd99::2/64")
)

// pair returns two hosts on one switch.
func pair(t *testing.T) (a, b *Host) {
	t.Helper()
	sw := vswitch.New()
	t.Cleanup(func() { sw.Close() })
	host := func(name string, last byte, prefixes ...netip.Prefix) *Host {
		port, err := sw.Attach(name, true)
		if err != nil {
			t.Fatal(err)
		}
		h, err := New(port, Config{MAC: net.HardwareAddr{2, 0, 0, 0, 0, last}, Addresses: prefixes})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return h
	}
	return host("a", 1, addrA, v6A), host("b", 2, addrB, v6B)
}

func TestTCPCarriesEveryByteBothWays(t *testing.T) {
	for name, server := range map[string]netip.Addr{"IPv4": addrA.Addr(), "IPv6": v6A.Addr()} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			to := netip.AddrPortFrom(server, 80)
			l, err := a.Listen(to)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			sum, stats := make(chan [32]byte, 1), make(chan Stats, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				h := sha256.New()
				io.Copy(io.MultiWriter(h, c), c)
				// Not later: an acknowledgement that comes after both have ended is reset.
				stats <- a.Stats()
				sum <- [32]byte(h.Sum(nil))
			}()
			c, err := b.Dial(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			data := bytes.Repeat([]byte("umbra"), 200_000)
			go func() {
				c.Write(data)
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			back, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(back, data) {
				t.Errorf("%d of %d bytes came back, %v", len(back), len(data), err)
			}
			if <-sum != sha256.Sum256(data) {
				t.Error("the server read other bytes than were sent")
			}
			if s := <-stats; s.TCPResetsSent+s.TCPChecksum != 0 {
				t.Errorf("server stats %+v", s)
			}
		})
	}
}

func TestUDPBurstIsNotLostHere(t *testing.T) {
	a, b := pair(t)
	server, err := a.ListenPacket(netip.AddrPortFrom(addrA.Addr(), 7))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := b.ListenPacket(netip.AddrPortFrom(addrB.Addr(), 0))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	to := &net.UDPAddr{IP: addrA.Addr().AsSlice(), Port: 7}
	// The first datagram resolves the address: gVisor drops datagrams beyond
	// a handful while it waits for ARP, as Linux does.
	buf := make([]byte, 2048)
	client.WriteTo(make([]byte, 1), to)
	server.ReadFrom(buf)

	const datagrams = 600 // fewer than the transmit queue of the sender holds
	for range datagrams {
		if _, err := client.WriteTo(make([]byte, 1400), to); err != nil {
			t.Fatal(err)
		}
	}
	for range datagrams {
		if _, _, err := server.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	if s := a.Stats(); s.UDPDropped+s.UDPMalformed != 0 {
		t.Errorf("receiver stats %+v", s)
	}
}

func TestBroadcastReachesAnUnconfiguredHost(t *testing.T) {
	sw := vswitch.New()
	defer sw.Close()
	port, err := sw.Attach("peer", true)
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(port, Config{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Addresses: []netip.Prefix{addrA}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	wire, err := sw.Attach("wire", true)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.ListenPacket(netip.MustParseAddrPort("0.0.0.0:67"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("offer"), &net.UDPAddr{IP: net.IPv4bcast, Port: 68}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := wire.ReadFrame(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f[12] != 0x08 || f[13] != 0x00 {
			continue // IPv6 router solicitation and the like
		}
		if !bytes.Equal(f[:6], bytes.Repeat([]byte{0xff}, 6)) {
			t.Errorf("link destination %x, want broadcast", f[:6])
		}
		if !bytes.Equal(f[30:34], []byte{255, 255, 255, 255}) || !bytes.HasSuffix(f, []byte("offer")) {
			t.Errorf("not the broadcast datagram: %x", f)
		}
		return
	}
}

func TestCloseWakesEverybody(t *testing.T) {
	a, b := pair(t)
	l, err := a.Listen(netip.AddrPortFrom(addrA.Addr(), 80))
	if err != nil {
		t.Fatal(err)
	}
	u, err := a.ListenPacket(netip.AddrPortFrom(addrA.Addr(), 80))
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	go func() { _, err := l.Accept(); errs <- err }()
	go func() { _, _, err := u.ReadFrom(make([]byte, 1)); errs <- err }()
	l.Close()
	u.Close()
	for range 2 {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	}

	l, err = a.Listen(netip.AddrPortFrom(addrA.Addr(), 81))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := b.Dial(t.Context(), netip.AddrPortFrom(addrA.Addr(), 81))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read from a closed host's connection: %v, want a reset", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	sw := vswitch.New()
	defer sw.Close()
	port, _ := sw.Attach("p", true)
	if _, err := New(port, Config{MAC: net.HardwareAddr{1, 2, 3}}); err == nil {
		t.Error("a three byte MAC address was taken")
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if _, err := New(port, Config{MAC: mac, Addresses: []netip.Prefix{addrA, addrA}}); err == nil {
		t.Error("the same address was added twice")
	}
}

func TestGatewayLeadsToOtherSubnets(t *testing.T) {
	sw := vswitch.New()
	t.Cleanup(func() { sw.Close() })
	host := func(name string, last byte, cfg Config) *Host {
		port, err := sw.Attach(name, true)
		if err != nil {
			t.Fatal(err)
		}
		cfg.MAC = net.HardwareAddr{2, 0, 0, 0, 0, last}
		h, err := New(port, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return h
	}
	behind := netip.MustParsePrefix("10.77.0.2/24")
	a := host("a", 1, Config{Addresses: []netip.Prefix{addrA}, Gateway: addrB.Addr()})
	b := host("b", 2, Config{Addresses: []netip.Prefix{addrB, behind}})
	server, err := a.ListenPacket(netip.AddrPortFrom(addrA.Addr(), 80))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := b.ListenPacket(netip.AddrPortFrom(behind.Addr(), 81))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 16)
	if _, err := client.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrA.Addr(), 80))); err != nil {
		t.Fatal(err)
	}
	n, from, err := server.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.WriteTo(buf[:n], from); err != nil {
		t.Fatal(err)
	}
	if n, _, err := client.ReadFrom(buf); err != nil || string(buf[:n]) != "question" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}
