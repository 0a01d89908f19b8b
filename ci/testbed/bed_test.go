// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package testbed

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"

	"github.com/umbra-vm/umbra/ci/testbed/peer"
)

func open(t *testing.T, opts Options) *Bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "umbra-bed-")
	if err != nil {
		t.Fatal(err)
	}
	opts.Dir = dir
	b, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		os.RemoveAll(dir)
	})
	return b
}

// neighbourMAC is that of a neighbour.
var neighbourMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

// neighbour puts another host on the bed's switch.
func neighbour(t *testing.T, b *Bed) *peer.Host {
	t.Helper()
	return host(t, attach(t, b), "10.99.0.200/24")
}

// attach gives the bed's switch one more port.
func attach(t *testing.T, b *Bed) peer.Link {
	t.Helper()
	port, err := b.Switch.Attach("neighbour", true)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// host starts a host with addresses on a link.
func host(t *testing.T, link peer.Link, addresses ...string) *peer.Host {
	t.Helper()
	cfg := peer.Config{MAC: neighbourMAC}
	for _, a := range addresses {
		cfg.Addresses = append(cfg.Addresses, netip.MustParsePrefix(a))
	}
	h, err := peer.New(link, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestBedIsOneNetwork(t *testing.T) {
	capture := filepath.Join(t.TempDir(), "all.pcapng")
	b := open(t, Options{Capture: capture})
	h := neighbour(t, b)
	c, err := h.Dial(t.Context(), netip.MustParseAddrPort(WitnessAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := b.Witness.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if syn, rst := b.Flows.Port(WitnessPort); syn != 2 || rst != 0 {
		t.Errorf("%d SYN and %d RST on the wire, want 2 and 0", syn, rst)
	}
	if err := b.Fault(); err != nil {
		t.Errorf("Fault = %v", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if s, err := os.Stat(capture); err != nil || s.Size() < 500 {
		t.Errorf("capture: %v, %v", s, err)
	}
}

func TestBedOfIPv6(t *testing.T) {
	b := open(t, Options{IPv6: &IPv6{Managed: true}})
	h := host(t, attach(t, b), "fd99::9/64", "fe80::9/64")
	conn, err := h.ListenPacket(netip.MustParseAddrPort("[fe80::9]:546"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := nclient6.NewWithConn(conn, neighbourMAC)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	advert, err := client.Solicit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.Request(t.Context(), advert)
	if err != nil {
		t.Fatal(err)
	}
	if a := reply.Options.OneIANA().Options.OneAddress(); a == nil || a.IPv6Addr.String() != FirstLease6.String() {
		t.Errorf("lease is %v, want %s", a, FirstLease6)
	}
	c, err := h.Dial(t.Context(), netip.MustParseAddrPort(WitnessAddr6))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := b.Witness.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if syn, rst := b.Flows.Port(WitnessPort); syn != 2 || rst != 0 {
		t.Errorf("%d SYN and %d RST on the wire, want 2 and 0", syn, rst)
	}
}

func TestNeighbourOnAVLANIsHeardThereOnly(t *testing.T) {
	b := open(t, Options{Neighbours: []Neighbour{{Addr: netip.MustParsePrefix("10.42.0.1/24"), VLAN: 42}}})
	on42, err := peer.Tagged(attach(t, b), 42)
	if err != nil {
		t.Fatal(err)
	}
	h := host(t, on42, "10.42.0.10/24")
	s := b.Stations[1]
	c, err := h.Dial(t.Context(), s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := s.Witness.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.Witness.Snapshot().Connected {
		t.Error("the peer took a connection of its neighbour's")
	}
}

func TestOwnLossIsConfessed(t *testing.T) {
	b := open(t, Options{})
	h := neighbour(t, b)
	u, err := h.ListenPacket(netip.MustParseAddrPort("10.99.0.200:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	b.Stations[0].port.Blackhole(true)
	// The question for the peer's hardware address is lost already.
	u.WriteTo([]byte("anybody there?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(WitnessAddr)))
	for b.Stations[0].port.Counters().Blackholed == 0 {
		if t.Context().Err() != nil {
			t.Fatal("no frame came to the peer's port")
		}
		time.Sleep(time.Millisecond)
	}
	if err := b.Fault(); !errors.Is(err, ErrOwnLoss) {
		t.Errorf("Fault = %v, want ErrOwnLoss", err)
	}
}

func TestPlug(t *testing.T) {
	b := open(t, Options{})
	netdev, port, err := b.Plug("a")
	if err != nil {
		t.Fatal(err)
	}
	_, path, ok := strings.Cut(netdev, "stream,server=off,addr.type=unix,addr.path=")
	if !ok || path != port.Path() {
		t.Errorf("back end %q for path %q", netdev, port.Path())
	}
	if _, _, err := b.Plug("a"); err == nil {
		t.Error("the same name twice")
	}
	b.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestBedEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	b, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	// Close waits for the shutdown that the context has begun.
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, _, err := b.Plug("late"); err == nil {
		t.Error("a closed bed took a cable")
	}
}

func TestClosedBedLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		b := open(t, Options{Capture: filepath.Join(t.TempDir(), "c")})
		if _, _, err := b.Plug("a"); err != nil {
			t.Fatal(err)
		}
		h := neighbour(t, b)
		if _, err := h.Dial(t.Context(), netip.MustParseAddrPort(WitnessAddr)); err != nil {
			t.Fatal(err)
		}
		b.Close()
		h.Close()
	}
	for range 1000 { // a goroutine that has returned is still counted for a moment
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d now:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
}

func TestOpenFails(t *testing.T) {
	if _, err := Open(t.Context(), Options{Dir: t.TempDir(), Capture: "/nonexistent/dir/file"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open = %v", err)
	}
}
