// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

// These tests run as root in a guest with the modules veth and bridge: see scene.
package shortcut_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/shortcut"
)

// TestGuestWay has what is sent go around the proxy while there is a shortcut, whether its
// socket was there before or not, and nothing is lost on either change.
func TestGuestWay(t *testing.T) {
	s := newScene(t)
	neighbour, gateway := s.to(peer), s.to(behind)
	s.goes("proxy", neighbour)
	stream, other := s.connect()
	say := func(text string) {
		t.Helper()
		_, err := stream.Write([]byte(text))
		must(t, err)
		b := make([]byte, len(text))
		must(t, other.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := other.Read(b); err != nil || string(b) != text {
			t.Errorf("the peer read %q, %v, want %q", b, err, text)
		}
	}
	say("before")
	sc := s.open()
	s.goes("port", neighbour)
	s.goes("port", gateway)
	s.arrives(neighbour)
	s.arrives(gateway)
	say("meanwhile")
	if st := sc.State(); st.Routes != 2 || st.Obstacle != "" {
		t.Errorf("state %+v, want the routes to the peer and by it", st)
	}
	must(t, sc.Close())
	for _, send := range []func() error{neighbour, gateway} {
		if way := s.way(send); way != "proxy" {
			t.Errorf("right after Close what is sent goes %s", way)
		}
	}
	s.arrives(neighbour)
	say("behind")
	if left := s.ours(); len(left) > 0 || sc.State() != (shortcut.State{}) {
		t.Errorf("left behind: %q, %+v", left, sc.State())
	}
}

// TestGuestProxyStays has the proxy take what is bound to it, packet sockets, groups and
// broadcasts; and shows what it does not see of all that goes around it.
func TestGuestProxyStays(t *testing.T) {
	s := newScene(t)
	plain := s.to(peer)
	s.goes("proxy", plain)
	defer s.open().Close()
	s.goes("port", plain)

	t.Run("bind-to-device", func(t *testing.T) {
		for _, to := range []string{peer, behind} {
			if way := s.way(s.to(to, bound)); way != "proxy" {
				t.Errorf("to %s it goes %s", to, way)
			}
		}
		s.arrives(s.to(peer, bound))
	})
	t.Run("groups and broadcasts", func(t *testing.T) {
		broadcast := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }
		for _, to := range []string{"239.1.2.3", "255.255.255.255", "10.78.0.255"} {
			if way := s.way(s.to(to, broadcast)); way != "proxy" {
				t.Errorf("to %s it goes %s", to, way)
			}
		}
	})
	t.Run("packet sockets", func(t *testing.T) {
		ifi, err := net.InterfaceByIndex(s.proxy.Attrs().Index)
		must(t, err)
		conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		must(t, err)
		defer conn.Close()
		frame := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ifi.HardwareAddr...), 0x88, 0xb5)
		frame = append(frame, make([]byte, 50)...)
		way := s.way(func() error {
			_, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
			return err
		})
		if way != "proxy" {
			t.Errorf("what it sends goes %s", way)
		}
		// It sees what comes, and of what is sent what goes through the proxy.
		if n := captured(t, conn, func() { must(t, s.to(peer, bound)()) }); n != 1 {
			t.Errorf("%d datagrams were seen, want that which was bound to the proxy", n)
		}
		if n := captured(t, conn, func() { s.arrives(plain) }); n != 0 {
			t.Errorf("%d datagrams were seen that go around the proxy", n)
		}
	})
}

// TestGuestLimits shows what is tied to the proxy and does not meet what goes around it: rules of
// netfilter for the interface that something leaves by, and the proxy's queueing discipline. What
// is bound to the proxy meets them, and so does all once there is no shortcut.
func TestGuestLimits(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit func(*scene) // lets nothing out by the proxy
	}{
		{"a rule for what leaves by the proxy", func(s *scene) { s.refuse(proxyName) }},
		{"a rate of the proxy", func(s *scene) {
			// One second's worth, in ticks of 64 ns, is the largest that passes; no frame is that small.
			must(s.t, netlink.QdiscAdd(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: s.proxy.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
				Rate:       50, Limit: 1 << 16, Buffer: 1e9 / 64,
			}))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			plain, bound := s.to(peer), s.to(peer, bound)
			s.goes("proxy", plain)
			sc := s.open()
			s.goes("port", plain)
			tc.limit(s)
			s.arrives(plain)
			s.stopped(bound)
			must(t, sc.Close())
			s.stopped(plain)
		})
	}
	t.Run("a rule for what leaves by the port", func(t *testing.T) {
		s := newScene(t)
		plain := s.to(peer)
		s.goes("proxy", plain)
		sc := s.open()
		s.goes("port", plain)
		s.refuse(portName)
		s.stopped(plain)
		must(t, sc.Close())
		s.arrives(plain)
	})
}

// TestGuestIPv6 has all of IPv6 take the proxy, to a neighbour and to a gateway that are in use.
func TestGuestIPv6(t *testing.T) {
	s := newScene(t)
	s.speakIPv6()
	neighbour, gateway := s.to6(peer6), s.to6(behind6)
	s.goes("proxy", neighbour)
	s.goes("proxy", s.to(peer))
	defer s.open().Close()
	s.goes("port", s.to(peer)) // so it has looked
	for name, send := range map[string]func() error{"a neighbour": neighbour, "what is behind a gateway": gateway} {
		if way := s.way(send); way != "proxy" {
			t.Errorf("to %s it goes %s", name, way)
		}
	}
}

// TestGuestFollows changes what a shortcut depends on.
func TestGuestFollows(t *testing.T) {
	s := newScene(t)
	plain, gateway := s.to(peer), s.to(behind)
	s.goes("proxy", plain)
	sc := s.open()
	defer sc.Close()
	s.goes("port", gateway)

	t.Run("a neighbour with another MAC", func(t *testing.T) {
		s.in(func() {
			l, err := netlink.LinkByName(peerName)
			must(t, err)
			must(t, netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 0x77}))
			c, err := net.Dial("udp4", here+":9") // whoever asks tells who he is
			must(t, err)
			defer c.Close()
			_, err = c.Write([]byte("x"))
			must(t, err)
		})
		s.until("the port knows it", func() error {
			list, err := netlink.NeighList(s.port.Attrs().Index, unix.AF_INET)
			if err != nil || len(list) != 1 || list[0].HardwareAddr.String() != "02:00:00:00:00:77" {
				return fmt.Errorf("it knows %v, %w", list, err)
			}
			return nil
		})
		s.goes("port", plain)
		s.arrives(plain)
	})
	t.Run("a neighbour that the kernel forgets is asked for again", func(t *testing.T) {
		must(t, netlink.NeighDel(&netlink.Neigh{LinkIndex: s.proxy.Attrs().Index, IP: net.ParseIP(peer)}))
		s.until("the proxy knows it", func() error { return s.peerIs(unix.NUD_REACHABLE) })
		s.arrives(plain)
		if way := s.way(plain); way != "port" {
			t.Errorf("it goes %s", way)
		}
	})
	for _, setting := range []string{proxyName + "/rp_filter", "all/forwarding"} {
		t.Run(setting, func(t *testing.T) {
			file := filepath.Join("/proc/sys/net/ipv4/conf", setting)
			must(t, os.WriteFile(file, []byte("1"), 0))
			s.until("no route is left", s.none)
			if st := sc.State(); !strings.Contains(st.Obstacle, filepath.Base(setting)) {
				t.Errorf("the state is %+v", st)
			}
			s.goes("proxy", plain)
			s.arrives(plain)
			must(t, os.WriteFile(file, []byte("0"), 0))
			s.goes("port", plain)
		})
	}
	t.Run("an address that is taken away takes the routes along at once", func(t *testing.T) {
		a, err := netlink.ParseAddr(here + "/24")
		must(t, err)
		must(t, netlink.AddrDel(s.proxy, a))
		must(t, s.none())
		s.address(s.proxy, here+"/24")
		s.gateway()
		s.goes("port", gateway)
		s.arrives(gateway)
	})
	t.Run("a port that is closed takes the routes along at once", func(t *testing.T) {
		must(t, netlink.LinkSetDown(s.port))
		for _, text := range s.ours() {
			if strings.Contains(text, fmt.Sprintf("Ifindex: %d ", s.port.Attrs().Index)) {
				t.Errorf("left: %s", text)
			}
		}
		must(t, netlink.LinkSetUp(s.port))
		s.goes("port", plain)
		s.arrives(plain)
	})
}

// TestGuestLost has a neighbour that does not answer any more: what is sent goes to where it
// was last, as long as it may be the device that is dead; and if it is closed meanwhile, goes
// there by the proxy.
func TestGuestLost(t *testing.T) {
	s := newScene(t)
	plain := s.to(peer)
	s.goes("proxy", plain)
	s.open()
	s.goes("port", plain)
	deaf := func(state string) {
		t.Helper()
		s.in(func() { must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+peerName+"/arp_ignore", []byte(state), 0)) })
	}
	fail := func() {
		t.Helper()
		must(t, netlink.NeighDel(&netlink.Neigh{LinkIndex: s.proxy.Attrs().Index, IP: net.ParseIP(peer)}))
		s.until("the neighbour has failed", func() error { return s.peerIs(unix.NUD_FAILED) })
	}
	deaf("8") // answers nobody
	fail()
	s.arrives(plain)
	if way := s.way(plain); way != "port" {
		t.Errorf("to a neighbour that has just failed it goes %s", way)
	}
	// Also who has not seen that himself: a successor.
	s.ending()
	must(t, shortcut.New(slog.Default(), proxyName).Close())
	if way := s.way(plain); way != "proxy" {
		t.Errorf("right after Close it goes %s", way)
	}
	s.arrives(plain)

	deaf("0")
	sc := s.open()
	s.goes("port", plain)
	deaf("8")
	fail()
	must(t, sc.Close())
	s.arrives(plain)

	deaf("0")
	defer s.open().Close()
	s.goes("port", plain)
	deaf("8")
	fail()
	s.until("no route is left", s.none)
	s.until("the port does not know it any more", func() error {
		list, err := netlink.NeighList(s.port.Attrs().Index, unix.AF_INET)
		if err != nil || len(list) != 0 {
			return fmt.Errorf("it knows %v, %w", list, err)
		}
		return nil
	})
}

// TestGuestSuccessor ends who made a shortcut without a word: what he made stays, goes on
// with his successor, and is taken away by him.
func TestGuestSuccessor(t *testing.T) {
	s := newScene(t)
	plain, gateway := s.to(peer), s.to(behind)
	s.goes("proxy", plain)
	s.open()
	s.goes("port", gateway)
	s.ending()
	before := fmt.Sprint(s.ours())
	if way := s.way(plain); way != "port" {
		t.Errorf("without anybody it goes %s", way)
	}
	s.open()
	if after := fmt.Sprint(s.ours()); after != before {
		t.Errorf("a successor has made %s of %s", after, before)
	}
	s.ending()
	must(t, shortcut.New(slog.Default(), proxyName).Close())
	must(t, s.none())
	s.goes("proxy", plain)
}

// TestGuestPathMTU learns the MTU of a path: it is known as long as the shortcut is, and
// learned anew behind it.
func TestGuestPathMTU(t *testing.T) {
	s := newScene(t)
	s.goes("proxy", s.to(peer))
	sc := s.open()
	s.goes("port", s.to(peer))
	learned := func() {
		t.Helper()
		s.until("the path's MTU is known", func() error {
			c, err := net.Dial("udp4", narrow+":9")
			must(t, err)
			defer c.Close()
			raw, err := c.(*net.UDPConn).SyscallConn()
			must(t, err)
			must(t, raw.Control(func(fd uintptr) {
				must(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
			}))
			if _, err := c.Write(make([]byte, narrowMTU)); !errors.Is(err, unix.EMSGSIZE) {
				return fmt.Errorf("a datagram of %d bytes: %v", narrowMTU, err)
			}
			return nil
		})
	}
	learned()
	must(t, sc.Close())
	learned()
}
