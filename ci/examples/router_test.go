// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package examples

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/peer"
)

// The router's own addresses, of which the outer one is a lease, and those of a host on
// either side, as its nftables.conf has them.
var (
	routerInside  = netip.MustParseAddr("192.168.7.1")
	routerOutside = testbed.FirstLease
	inside        = netip.MustParsePrefix("192.168.7.50/24")
	outside       = netip.MustParsePrefix("10.99.0.60/24")
	beyond        = testbed.Subnet4.Addr() // a server outside
)

const (
	forwarded = 8080 // port of the router that leads inside, to served
	served    = 80
	closed    = 22 // a port of the inner host to which nothing leads
)

// A network card of a router: whatever it is, it has the MAC that belongs to its role,
// as hosts can give it to virtual functions.
func card(role int, bed *testbed.Bed, model, slot string) rig.NIC {
	return rig.NIC{Model: model, Slot: slot, MAC: fmt.Sprintf("52:54:00:75:07:%02x", role), Bed: bed}
}

// TestRouter sends from the inside out, where it is seen to come from the router; from
// the outside in by the port that leads there; and by one that does not, which nobody
// inside hears of. Then both NICs are replaced at once, and change their places: all
// that was allowed goes on, and what was not is not.
func TestRouter(t *testing.T) {
	skip(t)
	wan := open(t, testbed.Subnet4)
	lan := open(t, netip.MustParsePrefix("192.168.7.2/24"))
	a := boot(t, "router", nil, card(0, lan, "e1000", "2"), card(1, wan, "rtl8139", "3"))
	in := settle(t, lan, inside, routerInside)
	out := settle(t, wan, outside, routerOutside)

	beyondSees := echo(t, wan.Peer, netip.AddrPortFrom(beyond, served))
	insideSees := echo(t, in, netip.AddrPortFrom(inside.Addr(), served))
	echo(t, in, netip.AddrPortFrom(inside.Addr(), closed))

	outward := a.dial(in, netip.AddrPortFrom(beyond, served))
	a.seenAs(beyondSees, routerOutside)
	refuse := a.barred(out, wan, lan)
	inward := a.dial(out, netip.AddrPortFrom(routerOutside, forwarded))
	a.seenAs(insideSees, outside.Addr())
	refuse()

	before := connections(wan, lan)
	a.move(card(0, lan, "virtio-net-pci", "5"), card(1, wan, "e1000", "2"))
	a.says(outward, "still outward")
	a.says(inward, "still inward")
	if after := connections(wan, lan); after != before {
		t.Errorf("SYN and RST of both sides on the wire were %v before the move and are %v", before, after)
	}

	refuse = a.barred(out, wan, lan)
	a.dial(in, netip.AddrPortFrom(beyond, served))
	a.seenAs(beyondSees, routerOutside)
	a.dial(out, netip.AddrPortFrom(routerOutside, forwarded))
	a.seenAs(insideSees, outside.Addr())
	refuse()
}

// settle adds a host to a network, with a way to other networks.
func settle(t *testing.T, bed *testbed.Bed, address netip.Prefix, gateway netip.Addr) *peer.Host {
	t.Helper()
	port, err := bed.Switch.Attach("host "+address.Addr().String(), true)
	if err != nil {
		t.Fatal(err)
	}
	mac := slices.Concat(testbed.PeerMAC[:2], address.Addr().AsSlice())
	h, err := peer.New(port, peer.Config{MAC: mac, Addresses: []netip.Prefix{address}, Gateway: gateway})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// echo serves connections, and tells from which address they seem to come.
func echo(t *testing.T, h *peer.Host, at netip.AddrPort) <-chan netip.Addr {
	t.Helper()
	l, err := h.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	seen := make(chan netip.Addr, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			seen <- netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr()
			go io.Copy(conn, conn)
		}
	}()
	return seen
}

// seenAs checks what the next connection was seen to come from.
func (a *appliance) seenAs(seen <-chan netip.Addr, want netip.Addr) {
	a.t.Helper()
	select {
	case got := <-seen:
		if got != want {
			a.t.Errorf("a connection is seen to come from %s, want %s", got, want)
		}
	case <-a.ctx.Done():
		a.t.Fatal(context.Cause(a.ctx))
	}
}

// dial connects once there is a way, and says something.
func (a *appliance) dial(h *peer.Host, to netip.AddrPort) (conn net.Conn) {
	a.t.Helper()
	a.until("connection to "+to.String(), func() (err error) {
		ctx, cancel := context.WithTimeout(a.ctx, attempt)
		defer cancel()
		conn, err = h.Dial(ctx, to)
		return err
	})
	a.t.Cleanup(func() { conn.Close() })
	a.says(conn, "hello")
	return conn
}

// says says something on a connection and hears it again.
func (a *appliance) says(conn net.Conn, text string) {
	a.t.Helper()
	stop := context.AfterFunc(a.ctx, func() { conn.Close() })
	defer stop()
	heard := make([]byte, len(text))
	if _, err := io.WriteString(conn, text); err != nil {
		a.t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, heard); err != nil || string(heard) != text {
		a.t.Fatalf("said %q and heard %q: %v", text, heard, err)
	}
}

// barred sends from the outside to a port inside that does not lead there. What it
// returns is called when something that was sent later has passed the router, and checks
// that the other did not.
func (a *appliance) barred(from *peer.Host, wan, lan *testbed.Bed) (check func()) {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.ctx)
	to := netip.AddrPortFrom(inside.Addr(), closed)
	result := make(chan error, 1)
	before := synsTo(wan, to)
	go func() {
		conn, err := from.Dial(ctx, to)
		if err == nil {
			conn.Close()
		}
		result <- err
	}()
	a.until("a SYN for "+to.String(), func() error {
		if synsTo(wan, to) == before {
			return errors.New("none on the wire")
		}
		return nil
	})
	return func() {
		a.t.Helper()
		cancel()
		if err := <-result; err == nil {
			a.t.Errorf("%s is reached from outside", to)
		}
		if n := synsTo(lan, to); n != 0 {
			a.t.Errorf("%d SYN for %s have passed the router", n, to)
		}
	}
}

// synsTo counts SYNs for an address on a network.
func synsTo(bed *testbed.Bed, to netip.AddrPort) (n uint64) {
	for _, f := range bed.Flows.All() {
		if f.Dst == to {
			n += f.SYN
		}
	}
	return n
}

// connections counts the SYN and RST of what is allowed, on both networks.
func connections(wan, lan *testbed.Bed) (n [4]uint64) {
	for i, bed := range []*testbed.Bed{wan, lan} {
		for _, f := range bed.Flows.All() {
			if !slices.ContainsFunc([]uint16{served, forwarded}, func(p uint16) bool { return f.Src.Port() == p || f.Dst.Port() == p }) {
				continue
			}
			n[2*i] += f.SYN
			n[2*i+1] += f.RST
		}
	}
	return n
}
