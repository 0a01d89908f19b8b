// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestIntegrationKernel6 shows what the kernel of this machine makes of IPv6 on an
// interface whose other end is the test. It runs in a network namespace of its own,
// and is skipped where there can be none.
func TestIntegrationKernel6(t *testing.T) {
	const inside = "UMBRA_NETCFG_NAMESPACE"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestIntegrationKernel6$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Skipf("no network namespace: %v", err)
		}
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	w := newLAN(t)

	w.until("the link-local address may be used", func(v View6) bool { _, ok := v.linkLocal(); return ok })
	w.say(netip.MustParseAddr("fe80::1"), slices.Concat(
		[]byte{134, 0, 0, 0, 64, 0x80, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, // M flag, gateway for 30 min
		[]byte{3, 4, 64, 0xc0, 0, 0, 28, 32, 0, 0, 14, 16, 0, 0, 0, 0}, netip.MustParseAddr("fd99::").AsSlice(),
		rdnss(1800, "fd99::53")))
	v := w.until("a router is heard", func(v View6) bool { _, ok := v.global(); return ok && v.Managed })
	if a, _ := v.global(); a.String() != "fd99::5054:ff:fe00:1" {
		t.Errorf("the address by advertisement is %s: it does not follow from the MAC", a)
	}
	if got := <-w.servers; got.addr.String() != "fd99::53" || got.lifetime != 30*time.Minute {
		t.Errorf("the name server is %+v", got)
	}

	leased := netip.MustParseAddr("fd99::1:0")
	w.must(w.kernel.AddLeased(w.index, leased, time.Hour, 2*time.Hour))
	w.until("a leased address may be used", func(v View6) bool { c, _ := v.check(leased); return c == Unique })
	w.must(w.kernel.AddLeased(w.index, leased, 3*time.Hour, 4*time.Hour))
	v, err := w.kernel.View6(w.index)
	if c, _ := v.check(leased); err != nil || c != Unique {
		t.Errorf("a lease that is extended is %q, %v: it must not be checked again", c, err)
	}
	if preferred, valid := w.lifetimes(leased); preferred <= 2*time.Hour || valid <= 3*time.Hour || preferred > 3*time.Hour || valid > 4*time.Hour {
		t.Errorf("the extended lease lasts %v of %v", preferred, valid)
	}
	w.must(w.kernel.AddLeased(w.index, leased, Forever, Forever))
	if _, valid := w.lifetimes(leased); valid < 100*365*24*time.Hour {
		t.Errorf("a lease for ever ends after %v", valid)
	}

	taken := netip.MustParseAddr("fd99::1:1")
	w.taken <- taken
	w.must(w.kernel.AddLeased(w.index, taken, time.Hour, 2*time.Hour))
	w.until("a leased address that another host has is taken away", func(v View6) bool { _, there := v.check(taken); return !there })
	static := netip.MustParsePrefix("fd99::1:2/64")
	w.taken <- static.Addr()
	w.must(w.kernel.AddAddress(w.index, static))
	w.until("a static address that another host has is marked", func(v View6) bool { c, _ := v.check(static.Addr()); return c == Duplicate })
	w.must(w.kernel.RemoveAddress(w.index, static))
	w.must(w.kernel.AddAddress(w.index, static))
	w.until("it may be had when it is free", func(v View6) bool { c, _ := v.check(static.Addr()); return c == Unique })

	all := netip.MustParsePrefix("::/0")
	for _, r := range []struct {
		name string
		Route
		onlink bool
	}{
		{"a gateway on the link", Route{all, netip.MustParseAddr("fe80::7")}, false},
		{"in the network of an address", Route{all, netip.MustParseAddr("fd99::7")}, false},
		{"in no network", Route{all, netip.MustParseAddr("2001:db8::7")}, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			for range 2 { // it may be there already
				w.must(w.kernel.AddRoute(w.index, r.Route, r.onlink, 100))
			}
			if got := w.gateways(); !slices.Contains(got, r.Gateway) || !slices.Contains(got, netip.MustParseAddr("fe80::1")) {
				t.Errorf("gateways are %v, want %s and the router's own", got, r.Gateway)
			}
			w.must(w.kernel.RemoveRoute(w.index, r.Route, 100))
			if got := w.gateways(); len(got) != 1 {
				t.Errorf("gateways are %v, want the router's alone", got)
			}
		})
	}
}

// gateways returns those of all default routes.
func (w *lan) gateways() (gws []netip.Addr) {
	w.t.Helper()
	routes, err := netlink.RouteList(w.kernel.link(w.index), netlink.FAMILY_V6)
	w.must(err)
	for _, r := range routes {
		if gw, ok := netip.AddrFromSlice(r.Gw); ok {
			gws = append(gws, gw)
		}
	}
	return gws
}

// lan is an interface whose other end is the test.
type lan struct {
	t       *testing.T
	kernel  rtnetlink
	index   int
	tap     *os.File
	news    chan struct{}
	servers chan advertised
	taken   chan netip.Addr // an address that another host claims, once
}

func newLAN(t *testing.T) *lan {
	w := &lan{t: t, news: make(chan struct{}, 1), servers: make(chan advertised, 8), taken: make(chan netip.Addr, 1)}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no TAP: %v", err)
	}
	ifr, err := unix.NewIfreq("net0")
	w.must(err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Skipf("no TAP: %v", err)
	}
	w.tap = os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { w.tap.Close() })
	l, err := netlink.LinkByName("net0")
	w.must(err)
	w.index = l.Attrs().Index
	w.must(netlink.LinkSetHardwareAddr(l, mac6))
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go watchIPv6(ctx, slog.New(slog.DiscardHandler), func(n news6) {
		for _, s := range n.servers {
			w.servers <- s
		}
		select {
		case w.news <- struct{}{}:
		default:
		}
	})
	go w.listen()
	w.must(w.kernel.Up(w.index))
	return w
}

func (w *lan) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// until waits for news after which ok says yes.
func (w *lan) until(what string, ok func(View6) bool) View6 {
	w.t.Helper()
	for {
		v, err := w.kernel.View6(w.index)
		w.must(err)
		if ok(v) {
			return v
		}
		select {
		case <-w.news:
		case <-time.After(time.Minute):
			w.t.Fatalf("waiting until %s: %+v", what, v)
		}
	}
}

func (w *lan) lifetimes(a netip.Addr) (preferred, valid time.Duration) {
	w.t.Helper()
	list, err := netlink.AddrList(w.kernel.link(w.index), netlink.FAMILY_V6)
	w.must(err)
	for _, have := range list {
		if have.IP.Equal(a.AsSlice()) {
			return time.Duration(uint32(have.PreferedLft)) * time.Second, time.Duration(uint32(have.ValidLft)) * time.Second
		}
	}
	w.t.Fatalf("%s is not there", a)
	return 0, 0
}

// listen claims an address when it is asked for.
func (w *lan) listen() {
	claimed := netip.Addr{}
	for b := make([]byte, 2000); ; {
		n, err := w.tap.Read(b)
		if err != nil {
			return
		}
		select {
		case claimed = <-w.taken:
		default:
		}
		const solicitation = 135
		if n < 78 || b[20] != unix.IPPROTO_ICMPV6 || b[54] != solicitation || netip.AddrFrom16([16]byte(b[62:78])) != claimed {
			continue
		}
		w.say(claimed, slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, claimed.AsSlice(), []byte{2, 1, 2, 0, 0, 0, 0, 9}))
		claimed = netip.Addr{}
	}
}

// say sends an ICMPv6 message from an address to all nodes.
func (w *lan) say(from netip.Addr, icmp []byte) {
	to := net.IPv6linklocalallnodes
	packet := slices.Concat(from.AsSlice(), to, icmp)
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for i := 0; i < len(packet); i += 2 {
		sum += uint32(packet[i])<<8 | uint32(packet[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(packet[32+2:], ^uint16(sum))
	frame := slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}, packet)
	if _, err := w.tap.Write(frame); err != nil {
		w.t.Error(err)
	}
}
