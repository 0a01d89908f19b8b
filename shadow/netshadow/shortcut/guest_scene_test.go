// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

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
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
	here6     = "fd78::1"
	peer6     = "fd78::2"
	behind6   = "fd79::1"
	narrowMTU = 1300
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scene is the proxy with its port, and the peer. A bridge stands for the proxy: unlike a
// bond's, its counters are not those of its ports, so they tell what has gone through it. Its
// port is a veth, with the peer's network namespace at its other end.
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

// stopped checks that nothing of a batch gets to the peer, once all has that was sent before.
func (s *scene) stopped(send func() error) {
	s.t.Helper()
	for quiet := false; !quiet; {
		select {
		case <-s.heard:
		case <-time.After(time.Second):
			quiet = true
		}
	}
	for range batch {
		if err := send(); err != nil && !errors.Is(err, unix.EPERM) { // as a rule's refusal is told
			s.t.Fatal(err)
		}
	}
	select {
	case <-s.heard:
		s.t.Error("a datagram arrived")
	case <-time.After(time.Second):
	}
}

// refuse has netfilter drop what leaves by an interface.
func (s *scene) refuse(iface string) {
	s.t.Helper()
	c, err := nftables.New()
	must(s.t, err)
	table := c.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyIPv4})
	s.t.Cleanup(func() {
		c.DelTable(table)
		must(s.t, c.Flush())
	})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, iface)
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	must(s.t, c.Flush())
}

// speakIPv6 gives both sides addresses, and a gateway.
func (s *scene) speakIPv6() {
	s.t.Helper()
	speak := func(name string, addrs ...string) netlink.Link {
		must(s.t, os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte("0"), 0))
		l, err := netlink.LinkByName(name)
		must(s.t, err)
		for _, text := range addrs {
			a, err := netlink.ParseAddr(text)
			must(s.t, err)
			a.Flags = unix.IFA_F_NODAD
			must(s.t, netlink.AddrAdd(l, a))
		}
		return l
	}
	s.in(func() {
		speak("lo", behind6+"/128")
		speak(peerName, peer6+"/64")
	})
	speak(proxyName, here6+"/64")
	must(s.t, netlink.RouteReplace(&netlink.Route{LinkIndex: s.proxy.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP(behind6), Mask: net.CIDRMask(128, 128)}, Gw: net.ParseIP(peer6), Priority: 100}))
}

// to6 is to by IPv6.
func (s *scene) to6(address string) func() error {
	s.t.Helper()
	pc, err := net.ListenPacket("udp6", "[::]:0")
	must(s.t, err)
	s.t.Cleanup(func() { pc.Close() })
	dst := &net.UDPAddr{IP: net.ParseIP(address), Port: 9}
	return func() error {
		_, err := pc.WriteTo(make([]byte, 64), dst)
		return err
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
