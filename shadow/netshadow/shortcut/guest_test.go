// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

// This test runs as root in a guest with the modules veth and bridge. A bridge stands for
// the proxy: unlike a bond's, its counters are not those of its ports, so they tell what has
// gone through it. Its port is a veth, with the peer's network namespace at its other end.
package shortcut_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/shortcut"
)

// Interfaces and addresses. There is a network behind the peer, and one behind a link with
// a small MTU.
const (
	proxyName = "sct"
	portName  = "sct0"
	peerName  = "sct1"
	here      = "10.78.0.1"
	peer      = "10.78.0.2"
	behind    = "10.79.0.1"
	narrow    = "10.80.0.9"
	narrowMTU = 1300
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scene is the proxy with its port, and the peer.
type scene struct {
	t      *testing.T
	proxy  netlink.Link
	port   netlink.Link
	ns     netns.NsHandle
	heard  chan string // from whom the peer got datagrams
	ending context.CancelFunc
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, heard: make(chan string, 4096)}
	runtime.LockOSThread()
	own, err := netns.Get()
	must(t, err)
	s.ns, err = netns.New()
	must(t, err)
	must(t, netns.Set(own))
	own.Close()
	runtime.UnlockOSThread()
	t.Cleanup(func() { s.ns.Close() })

	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: proxyName}}))
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: portName}, PeerName: peerName}))
	other, err := netlink.LinkByName(peerName)
	must(t, err)
	must(t, netlink.LinkSetNsFd(other, int(s.ns)))
	s.port = s.up(portName)
	t.Cleanup(func() { netlink.LinkDel(s.port) })
	s.proxy = s.up(proxyName, here+"/24")
	t.Cleanup(func() { netlink.LinkDel(s.proxy) })
	must(t, netlink.LinkSetMaster(s.port, s.proxy))
	s.gateway()
	s.in(func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "narrow0", MTU: narrowMTU}, PeerName: "narrow1"}))
		s.up("narrow1")
		s.up("narrow0", "10.80.0.1/16")
		s.up("lo", behind+"/32")
		s.up(peerName, peer+"/24")
		must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
		pc, err := net.ListenPacket("udp4", ":9")
		must(t, err)
		t.Cleanup(func() { pc.Close() })
		go s.listen(pc)
	})
	return s
}

// gateway makes the default route.
func (s *scene) gateway() {
	s.t.Helper()
	must(s.t, netlink.RouteReplace(&netlink.Route{LinkIndex: s.proxy.Attrs().Index, Gw: net.ParseIP(peer), Priority: 100}))
}

func (s *scene) listen(pc net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		s.heard <- from.(*net.UDPAddr).IP.String()
	}
}

// in runs f in the peer's namespace.
func (s *scene) in(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	must(s.t, err)
	defer own.Close()
	must(s.t, netns.Set(s.ns))
	defer func() { must(s.t, netns.Set(own)) }()
	f()
}

func (s *scene) up(name string, addrs ...string) netlink.Link {
	s.t.Helper()
	l, err := netlink.LinkByName(name)
	must(s.t, err)
	// Nothing is sent by itself.
	must(s.t, os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte("1"), 0))
	for _, a := range addrs {
		s.address(l, a)
	}
	must(s.t, netlink.LinkSetUp(l))
	return l
}

func (s *scene) address(l netlink.Link, text string) {
	s.t.Helper()
	a, err := netlink.ParseAddr(text)
	must(s.t, err)
	must(s.t, netlink.AddrReplace(l, a))
}

// open makes a shortcut that ends with the test.
func (s *scene) open() *shortcut.Shortcut {
	sc := shortcut.New(slog.New(slog.NewTextHandler(s.t.Output(), nil)), proxyName)
	ctx, cancel := context.WithCancel(s.t.Context())
	s.ending = cancel
	sc.Open(ctx, s.port.Attrs().Index)
	return sc
}

// until waits for check to return nil.
func (s *scene) until(what string, check func() error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	s.t.Fatalf("%s: %v", what, err)
}

// sent counts the frames that an interface has sent.
func (s *scene) sent(l netlink.Link) int {
	s.t.Helper()
	l, err := netlink.LinkByIndex(l.Attrs().Index)
	must(s.t, err)
	return int(l.Attrs().Statistics.TxPackets)
}

// batch is how many datagrams are sent to find out which way they go; the kernel's own
// questions for neighbours are far fewer.
const batch = 50

// way sends datagrams and returns what they have gone through.
func (s *scene) way(send func() error) string {
	s.t.Helper()
	proxy, port := s.sent(s.proxy), s.sent(s.port)
	for range batch {
		must(s.t, send())
	}
	proxy, port = s.sent(s.proxy)-proxy, s.sent(s.port)-port
	switch {
	case port < batch:
		return fmt.Sprintf("nowhere: %d by the proxy, %d by the port", proxy, port)
	case proxy < batch/2:
		return "port"
	case proxy >= batch:
		return "proxy"
	}
	return fmt.Sprintf("both: %d by the proxy, %d by the port", proxy, port)
}

// goes waits until what is sent goes through what is wanted.
func (s *scene) goes(want string, send func() error) {
	s.t.Helper()
	s.until("what is sent goes through the "+want, func() error {
		if got := s.way(send); got != want {
			return errors.New(got)
		}
		return nil
	})
}

// arrives checks that the peer gets all of a batch, from this end's address.
func (s *scene) arrives(send func() error) {
	s.t.Helper()
	for len(s.heard) > 0 {
		<-s.heard
	}
	for range batch {
		must(s.t, send())
	}
	for i := range batch {
		select {
		case from := <-s.heard:
			if from != here {
				s.t.Errorf("a datagram came from %s", from)
			}
		case <-time.After(10 * time.Second):
			s.t.Fatalf("%d of %d datagrams arrived", i, batch)
		}
	}
}

// to returns what sends a datagram to the address from one socket that is not connected,
// with options.
func (s *scene) to(address string, options ...func(fd int) error) func() error {
	s.t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			for _, o := range options {
				err = errors.Join(err, o(int(fd)))
			}
		})
		return errors.Join(err, cerr)
	}}
	pc, err := lc.ListenPacket(s.t.Context(), "udp4", ":0")
	must(s.t, err)
	s.t.Cleanup(func() { pc.Close() })
	dst := &net.UDPAddr{IP: net.ParseIP(address), Port: 9}
	return func() error {
		_, err := pc.WriteTo(make([]byte, 64), dst)
		return err
	}
}

func bound(fd int) error {
	return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, proxyName)
}

// ours returns the routes of shortcuts.
func (s *scene) ours() (texts []string) {
	s.t.Helper()
	list, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: 'u'}, netlink.RT_FILTER_PROTOCOL)
	must(s.t, err)
	for _, r := range list {
		texts = append(texts, r.String())
	}
	return texts
}

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

// connect returns both ends of a TCP connection to the peer.
func (s *scene) connect() (this, other net.Conn) {
	s.t.Helper()
	var l net.Listener
	s.in(func() {
		var err error
		l, err = net.Listen("tcp4", peer+":0")
		must(s.t, err)
	})
	defer l.Close()
	this, err := net.Dial("tcp4", l.Addr().String())
	must(s.t, err)
	other, err = l.Accept()
	must(s.t, err)
	s.t.Cleanup(func() { this.Close(); other.Close() })
	return this, other
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

// captured counts the datagrams to the peer that a packet socket sees while f runs, up to
// the next broadcast.
func captured(t *testing.T, conn *packet.Conn, f func()) (n int) {
	t.Helper()
	f()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
	must(t, unix.Sendto(fd, []byte("end"), 0, &unix.SockaddrInet4{Port: 10, Addr: [4]byte{10, 78, 0, 255}}))
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 2048)
	for {
		l, _, err := conn.ReadFrom(buf)
		must(t, err)
		if l < 42 || buf[12] != 0x08 || buf[13] != 0x00 || buf[23] != unix.IPPROTO_UDP {
			continue
		}
		switch dst := net.IP(buf[30:34]).String(); dst {
		case peer:
			n++
		case "10.78.0.255":
			return n
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

// peerIs returns an error unless the proxy's entry of the peer has that state.
func (s *scene) peerIs(state int) error {
	list, err := netlink.NeighList(s.proxy.Attrs().Index, unix.AF_INET)
	if err != nil {
		return err
	}
	for _, n := range list {
		if n.IP.String() == peer && n.State == state {
			return nil
		}
	}
	return fmt.Errorf("its state is not %#x among %+v", state, list)
}

// none reports the routes that there are as an error.
func (s *scene) none() error {
	if list := s.ours(); len(list) > 0 {
		return fmt.Errorf("there is %q", list)
	}
	return nil
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
