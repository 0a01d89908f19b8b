// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

// This test runs as root in a guest with the module veth. The peer is the same kernel in
// another network namespace, behind a veth pair; it is the peer's TCP that is looked at.
package hasten_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/hasten"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// doublings are how often a peer has doubled its wait before it is told; the next attempt
// is then more than six seconds after the last.
const doublings = 5

// awayFor is how long peers wait already when they are told: longer than the wait that
// three messages make of it.
const awayFor = time.Second

// wire is a veth pair with the peer's namespace at its other end.
type wire struct {
	t     testing.TB
	here  netlink.Link
	peer  netns.NsHandle
	addrs []netip.Addr // of this end
	link  int          // of the peer's end
}

// in runs f in the peer's namespace.
func (w *wire) in(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	must(w.t, err)
	defer own.Close()
	must(w.t, netns.Set(w.peer))
	defer func() { must(w.t, netns.Set(own)) }()
	f()
}

func newWire(t testing.TB) *wire {
	w := &wire{t: t}
	runtime.LockOSThread()
	own, err := netns.Get()
	must(t, err)
	w.peer, err = netns.New()
	must(t, err)
	must(t, netns.Set(own))
	own.Close()
	runtime.UnlockOSThread()
	t.Cleanup(func() { w.peer.Close() })
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "has0"}, PeerName: "has1"}))
	w.here = w.up("has0", "10.88.0.1/24", "fd88::1/64")
	t.Cleanup(func() { netlink.LinkDel(w.here) })
	other, err := netlink.LinkByName("has1")
	must(t, err)
	must(t, netlink.LinkSetNsFd(other, int(w.peer)))
	w.in(func() {
		w.link = w.up("has1", "10.88.0.2/24", "fd88::2/64").Attrs().Index
		// No connection is to learn from the one before how long an answer takes.
		must(t, os.WriteFile("/proc/sys/net/ipv4/tcp_no_metrics_save", []byte("1"), 0))
	})
	w.addrs = []netip.Addr{netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("fd88::1")}
	w.reach(true)
	// A connection whose first segment is lost, because the link is not up yet, begins
	// with a wait of three seconds (TCP_TIMEOUT_FALLBACK). These may lose theirs.
	w.connect("tcp4", "10.88.0.1:0", "10.88.0.1").close()
	w.connect("tcp6", "[fd88::1]:0", "fd88::1").close()
	return w
}

func (w *wire) up(name string, addrs ...string) netlink.Link {
	l, err := netlink.LinkByName(name)
	must(w.t, err)
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		must(w.t, err)
		if a.IP.To4() == nil {
			a.Flags |= unix.IFA_F_NODAD
		}
		must(w.t, netlink.AddrAdd(l, a))
	}
	must(w.t, netlink.LinkSetUp(l))
	return l
}

// reach has the peer find this end, or send to a host that does not exist.
func (w *wire) reach(can bool) {
	mac := w.here.Attrs().HardwareAddr
	if !can {
		mac = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	}
	w.in(func() {
		for _, a := range w.addrs {
			must(w.t, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: w.link, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
			}))
		}
	})
}

// connection is one from the peer.
type connection struct{ here, peer *net.TCPConn }

func (w *wire) connect(network, listen, dial string) (c connection) {
	l, err := net.Listen(network, listen)
	must(w.t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(w.t, err)
	w.in(func() {
		conn, err := net.Dial("tcp", net.JoinHostPort(dial, port))
		must(w.t, err)
		c.peer = conn.(*net.TCPConn)
	})
	conn, err := l.Accept()
	must(w.t, err)
	c.here = conn.(*net.TCPConn)
	w.t.Cleanup(c.close)
	return c
}

func (c connection) close() {
	c.here.Close()
	c.peer.Close()
}

// info is what the peer's kernel says of the connection.
func (c connection) info(t testing.TB) (info *unix.TCPInfo) {
	t.Helper()
	c.control(t, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info
}

// control calls f for the peer's socket.
func (c connection) control(t testing.TB, f func(fd int) error) {
	t.Helper()
	raw, err := c.peer.SyscallConn()
	must(t, err)
	var ferr error
	must(t, raw.Control(func(fd uintptr) { ferr = f(int(fd)) }))
	must(t, ferr)
}

func TestGuestRun(t *testing.T) {
	w := newWire(t)
	told := map[string]connection{
		"IPv4":                       w.connect("tcp4", "10.88.0.1:0", "10.88.0.1"),
		"IPv6":                       w.connect("tcp6", "[fd88::1]:0", "fd88::1"),
		"IPv4 over a socket of IPv6": w.connect("tcp", "[::]:0", "10.88.0.1"),
	}
	idle := w.connect("tcp4", "10.88.0.1:0", "10.88.0.1")
	// Two that have asked for such errors.
	curious := map[string]connection{
		"IPv4": w.connect("tcp4", "10.88.0.1:0", "10.88.0.1"),
		"IPv6": w.connect("tcp6", "[fd88::1]:0", "fd88::1"),
	}
	curious["IPv4"].control(t, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1) })
	curious["IPv6"].control(t, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1) })
	// The address of another interface: its peer waits for the same time, and is not told.
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	other, err := netlink.ParseAddr("10.88.0.9/32")
	must(t, err)
	must(t, netlink.AddrAdd(lo, other))
	t.Cleanup(func() { netlink.AddrDel(lo, other) })
	w.addrs = append(w.addrs, netip.MustParseAddr("10.88.0.9"))
	w.reach(true)
	untold := w.connect("tcp4", "10.88.0.9:0", "10.88.0.9")

	h, err := hasten.New()
	must(t, err)
	defer h.Close()

	w.reach(false)
	waiting := []connection{untold}
	for _, c := range told {
		waiting = append(waiting, c)
	}
	for _, c := range waiting {
		if _, err := c.peer.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range waiting {
		for c.info(t).Backoff < doublings {
			time.Sleep(20 * time.Millisecond)
		}
	}
	time.Sleep(awayFor)
	w.reach(true)
	attempts := untold.info(t).Total_retrans

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := h.Run(ctx, w.here.Attrs().Index)
	all := len(told) + len(curious) + 1
	if err != nil || got.Connections != all || got.Untold != 0 {
		t.Errorf("told %+v, %v; want %d connections", got, err, all)
	}
	// Who has sent again is told no more, who has nothing to send is told in every round.
	if silent := all - len(told); got.Messages <= hasten.Rounds*silent || got.Messages >= hasten.Rounds*all {
		t.Errorf("%d messages to %d peers in %d rounds, and %d of them had nothing to send", got.Messages, all, hasten.Rounds, silent)
	}
	for name, c := range told {
		c.here.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := c.here.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
	}
	if now := untold.info(t).Total_retrans; now != attempts {
		t.Errorf("the peer that was not told has sent again as well: that the others did proves nothing")
	}
	for name, c := range told {
		if _, err := c.peer.Write([]byte("y")); err != nil {
			t.Errorf("%s: the peer's program sees %v", name, err)
		}
	}
	if _, err := idle.peer.Write([]byte("y")); err != nil {
		t.Errorf("the program of a peer that had nothing to send sees %v", err)
	}
	// This is why it is up to users whether peers are told.
	for name, c := range curious {
		var seen int
		c.control(t, func(fd int) (err error) {
			seen, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			return err
		})
		if want := map[string]unix.Errno{"IPv4": unix.EHOSTUNREACH, "IPv6": unix.ENETUNREACH}[name]; unix.Errno(seen) != want {
			t.Errorf("%s: the program that asked for errors sees %v, want %v", name, unix.Errno(seen), want)
		}
		if _, err := c.peer.Write([]byte("y")); err != nil {
			t.Errorf("%s: its connection does not live on: %v", name, err)
		}
	}
}

// BenchmarkGuestPeers has peers write into the void, each at another time of the first
// quarter of a gap, and measures from the end of the gap until what they wrote arrives,
// over the length of the gap: with nothing done about it, and with all of them told.
// It needs root and a network namespace of its own, and no guest:
//
//	go test -c -tags guest && unshare -n sh -c 'ip link set lo up; ./hasten.test -test.run "^$" -test.bench . -test.benchtime 1x'
func BenchmarkGuestPeers(b *testing.B) {
	w := newWire(b)
	h, err := hasten.New()
	must(b, err)
	defer h.Close()
	for _, gap := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		for name, tell := range map[string]bool{"told": true, "untold": false} {
			b.Run(gap.String()+"/"+name, func(b *testing.B) {
				var lost []float64
				for range b.N {
					lost = append(lost, w.gap(b, gap, func() {
						if tell {
							h.Run(b.Context(), w.here.Attrs().Index)
						}
					})...)
				}
				slices.Sort(lost)
				b.ReportMetric(lost[len(lost)/2], "median/gap")
				b.ReportMetric(lost[len(lost)*9/10], "p90/gap")
				b.ReportMetric(lost[len(lost)-1]*float64(gap.Milliseconds()), "longest-ms")
			})
		}
	}
}

// gap returns what each of some peers lost beyond a gap, relative to it.
func (w *wire) gap(b *testing.B, gap time.Duration, back func()) []float64 {
	const peers = 60
	connections := make([]connection, peers)
	for i := range connections {
		connections[i] = w.connect("tcp4", "10.88.0.1:0", "10.88.0.1")
		defer connections[i].close()
	}
	w.reach(false)
	end := time.After(gap)
	for i, c := range connections {
		time.AfterFunc(gap/4*time.Duration(i)/peers, func() { c.peer.Write([]byte("x")) })
	}
	<-end
	w.reach(true)
	released := time.Now()
	go back()
	lost := make([]float64, peers)
	var wg sync.WaitGroup
	for i, c := range connections {
		wg.Go(func() {
			if _, err := c.here.Read(make([]byte, 1)); err != nil {
				b.Error(err)
			}
			lost[i] = float64(time.Since(released)) / float64(gap)
		})
	}
	wg.Wait()
	return lost
}
