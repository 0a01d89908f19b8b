// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/umbra-vm/umbra/init/config"
)

// fakeServer6 is a DHCPv6 server on the other end of every link.
type fakeServer6 struct {
	mu     sync.Mutex
	addr   string          // what it grants
	code   iana.StatusCode // what it says instead
	silent bool
	heard  []string
	duids  map[string]bool // of clients that were heard
}

func newFakeServer6() *fakeServer6 {
	return &fakeServer6{addr: "fd00::15", duids: make(map[string]bool)}
}

func (s *fakeServer6) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// take returns what was heard since the last call.
func (s *fakeServer6) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := strings.Join(s.heard, "; ")
	s.heard = nil
	return h
}

func (s *fakeServer6) dial(l Link, from netip.Addr) (*nclient6.Client, error) {
	conn := &fakeConn6{server: s, from: from, fakeConn: fakeConn{in: make(chan []byte, 8), closed: make(chan struct{})}}
	return nclient6.NewWithConn(conn, l.MAC, nclient6.WithTimeout(firstTimeout), nclient6.WithRetry(tries))
}

// answer returns the answer to a message.
func (s *fakeServer6) answer(from netip.Addr, b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		return nil
	}
	ia := m.Options.OneIANA()
	what := m.MessageType.String()
	if a := ia.Options.OneAddress(); a != nil {
		what += " " + a.IPv6Addr.String()
	}
	if m.Options.ServerID() == nil {
		what += " to all"
	}
	s.heard = append(s.heard, what)
	s.duids[fmt.Sprintf("%x %x from %s", m.Options.ClientID().ToBytes(), ia.IaId, from)] = true
	if s.silent {
		return nil
	}
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if m.MessageType == dhcpv6.MessageTypeSolicit {
		reply.MessageType = dhcpv6.MessageTypeAdvertise
	}
	answer := &dhcpv6.OptIANA{IaId: ia.IaId, T1: 1000 * time.Second, T2: 1600 * time.Second}
	if s.code != iana.StatusSuccess {
		answer.Options.Add(&dhcpv6.OptStatusCode{StatusCode: s.code, StatusMessage: "no"})
	} else {
		answer.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(s.addr), PreferredLifetime: 2000 * time.Second, ValidLifetime: 3000 * time.Second})
	}
	server := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	for _, o := range []dhcpv6.Option{dhcpv6.OptClientID(m.Options.ClientID()), dhcpv6.OptServerID(server), answer, dhcpv6.OptDNS(net.ParseIP("fd00::53"))} {
		reply.AddOption(o)
	}
	return reply.ToBytes()
}

type fakeConn6 struct {
	fakeConn
	server *fakeServer6
	from   netip.Addr
}

func (c *fakeConn6) WriteTo(b []byte, _ net.Addr) (int, error) {
	if reply := c.server.answer(c.from, b); reply != nil {
		c.in <- reply
	}
	return len(b), nil
}

var (
	linkLocal = netip.MustParsePrefix("fe80::5054:ff:fe00:1/64")
	slaacAddr = netip.MustParsePrefix("fd99::5054:ff:fe00:1/64")
)

func roleWith(ipv6 config.IPv6) config.Role {
	return config.Role{Name: "net0", Class: config.ClassNet, Network: config.Network{Method: config.MethodNone, IPv6: ipv6}}
}

// have gives the interface an address, in a state, and tells the worker.
func (w world) have(p netip.Prefix, c Check) {
	w.kernel.mu.Lock()
	if !slices.Contains(w.kernel.addrs[3], p) {
		w.kernel.addrs[3] = append(w.kernel.addrs[3], p)
	}
	w.kernel.checks[p.Addr()] = c
	w.kernel.mu.Unlock()
	w.news(news6{index: 3})
}

// lose takes an address away from the interface, as the kernel does.
func (w world) lose(p netip.Prefix) {
	w.kernel.mu.Lock()
	w.kernel.addrs[3] = slices.DeleteFunc(w.kernel.addrs[3], func(a netip.Prefix) bool { return a == p })
	w.kernel.mu.Unlock()
	w.news(news6{index: 3})
}

func (w world) news(n news6) {
	w.heard(n)
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

// want6 is want with what the DHCPv6 server has heard.
func (w world) want6(t *testing.T, what, kernel, heard string, told ...bool) {
	t.Helper()
	w.want(t, what, kernel, "", told...)
	if got := w.six.take(); got != heard {
		t.Errorf("%s: the DHCPv6 server heard\n\t%s, want\n\t%s", what, got, heard)
	}
}

func (w world) resolv(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	text, err := os.ReadFile(filepath.Join(w.dir, "resolv.conf"))
	if err != nil || string(text) != want {
		t.Errorf("resolv.conf is %q, %v, want %q", text, err, want)
	}
}

const (
	leased6   = "+3 fd00::15 for 33m20s of 50m0s"
	exchange6 = "SOLICIT to all; REQUEST fd00::15"
)

// inBubble6 runs a test with a clock of its own and a worker that has a lease.
func inBubble6(t *testing.T, test func(*testing.T, world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roleWith(config.IPv6DHCP))
		w.link(&nic)
		w.want6(t, "without a link-local address nobody can be asked", "", "")
		w.have(linkLocal, Tentative)
		w.want6(t, "nor while it is tentative", "", "")
		w.kernel.mu.Lock()
		w.kernel.checks[netip.MustParseAddr("fd00::15")] = Tentative
		w.kernel.mu.Unlock()
		w.have(linkLocal, Unique)
		w.want6(t, "a lease is put on the link", leased6, exchange6)
		w.have(single(netip.MustParseAddr("fd00::15")), Unique)
		w.want6(t, "the role is up when the address may be used", "", "", true)
		w.resolv(t, "nameserver fd00::53\n")
		test(t, w)
		w.stop()
		// A DUID of type 3 for Ethernet, and an IAID, both by the role's MAC.
		const known = "00030001525400000001 00000001 from fe80::5054:ff:fe00:1"
		if len(w.six.duids) != 1 || !w.six.duids[known] {
			t.Errorf("the server knows the clients %v, want one: %s", w.six.duids, known)
		}
	})
}

func TestALeaseOfIPv6IsExtended(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		for range 3 {
			time.Sleep(990 * time.Second)
			w.want6(t, "before T1", "", "")
			time.Sleep(10 * time.Second)
			w.want6(t, "at T1 the kernel gets the new times", leased6, "RENEW fd00::15")
		}
	})
}

func TestASilentServerOfIPv6LosesTheLeaseAtItsEnd(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		w.six.set(func() { w.six.silent = true })
		time.Sleep(1590 * time.Second)
		synctest.Wait()
		for _, h := range strings.Split(w.six.take(), "; ") {
			if h != "RENEW fd00::15" {
				t.Errorf("between T1 and T2 the server heard %s", h)
			}
		}
		time.Sleep(1400 * time.Second)
		synctest.Wait()
		if heard := strings.Split(w.six.take(), "; "); !slices.Contains(heard, "REBIND fd00::15 to all") {
			t.Errorf("after T2 not everybody was asked, but %s", heard)
		}
		w.want(t, "until the end the address stays", "", "")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		w.want(t, "at the end it goes", "-3 fd00::15/128", "", false)
		w.six.set(func() { w.six.silent = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		w.six.take()
		w.want6(t, "a server that is back grants it again", leased6, "", true)
	})
}

func TestAServerThatHasForgottenIsAskedAgain(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		w.six.set(func() { w.six.code = iana.StatusNoBinding })
		time.Sleep(1000*time.Second - 2*time.Millisecond)
		go func() {
			time.Sleep(3 * time.Millisecond)
			w.six.set(func() { w.six.code = iana.StatusSuccess })
		}()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		heard := w.six.take()
		if !strings.HasPrefix(heard, "RENEW fd00::15; SOLICIT fd00::15 to all") || !strings.HasSuffix(heard, "REQUEST fd00::15") {
			t.Errorf("the server heard %s", heard)
		}
		w.want(t, "the address stays on the link all the time", leased6, "")
	})
}

func TestAnotherAddressTakesThePlaceOfTheOld(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		w.six.set(func() { w.six.addr = "fd00::77" })
		time.Sleep(1000 * time.Second)
		w.want6(t, "the new one comes first", "+3 fd00::77 for 33m20s of 50m0s; -3 fd00::15/128", "RENEW fd00::15")
	})
}

func TestAWithdrawnAddressIsGivenUp(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		w.six.set(func() { w.six.code = iana.StatusNotOnLink })
		time.Sleep(1001 * time.Second)
		w.six.take()
		w.want(t, "it is not for this link", "-3 fd00::15/128", "", false)
	})
}

func TestASuccessorKeepsTheLeaseOfIPv6(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		w.stop()
		w.want6(t, "who ends takes nothing away", "", "")
		time.Sleep(500 * time.Second)
		next := w.restart(roleWith(config.IPv6DHCP))
		defer next.stop()
		next.want6(t, "the successor goes on with the time that is left", "+3 fd00::15 for 25m0s of 41m40s", "", true)
		time.Sleep(500 * time.Second)
		next.want6(t, "and extends the lease at the same T1", leased6, "RENEW fd00::15")
		mac := nic
		mac.MAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 9}
		next.link(&mac)
		time.Sleep(1000 * time.Second)
		next.want6(t, "another MAC makes no other client", leased6, "RENEW fd00::15")
	})
}

func TestADuplicateOfALeaseIsDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roleWith(config.IPv6DHCP))
		defer func() { w.stop() }()
		taken := netip.MustParseAddr("fd00::15")
		w.kernel.checks[taken] = Tentative
		w.link(&nic)
		w.have(linkLocal, Unique)
		w.want6(t, "a lease is tried", leased6, exchange6)
		w.six.set(func() { w.six.addr = "fd00::16" })
		w.lose(single(taken)) // as the kernel does with an address that has a lifetime
		time.Sleep(time.Second)
		w.want6(t, "the server is told", "-3 fd00::15/128", "DECLINE fd00::15")
		time.Sleep(lastRetry)
		w.want6(t, "and another address asked for", "+3 fd00::16 for 33m20s of 50m0s", "SOLICIT to all; REQUEST fd00::16", true)
	})
}

func TestAnInterfaceTakenDownGetsItsLeaseBack(t *testing.T) {
	inBubble6(t, func(t *testing.T, w world) {
		down := nic
		down.Up, down.Carrier = false, false
		w.link(&down)
		w.lose(single(netip.MustParseAddr("fd00::15")))
		w.want6(t, "taken down: left alone", "", "")
		w.link(&nic)
		w.want6(t, "brought up: the kernel has dropped its IPv6 addresses", leased6, "")
	})
}

func TestASLAACAddressIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roleWith(config.IPv6SLAAC))
		defer w.stop()
		w.link(&nic)
		w.have(linkLocal, Unique)
		w.want6(t, "a link-local address is none", "", "")
		w.have(slaacAddr, Tentative)
		w.want6(t, "nor is one that may be another host's", "", "")
		w.have(slaacAddr, Unique)
		w.want6(t, "the role is up", "", "", true)
		w.kernel.mu.Lock()
		w.kernel.managed = true
		w.kernel.mu.Unlock()
		w.news(news6{})
		w.want6(t, "whatever routers say", "", "")
		w.lose(slaacAddr)
		w.want6(t, "its lifetime is over", "", "", false)
	})
}

func TestRoutersSayWhetherDHCPv6IsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roleWith(config.IPv6Auto))
		defer w.stop()
		w.link(&nic)
		w.have(linkLocal, Unique)
		w.want6(t, "nobody waits for what may not come", "", "", true)
		w.kernel.mu.Lock()
		w.kernel.managed = true
		w.kernel.mu.Unlock()
		w.news(news6{index: 4})
		w.want6(t, "another interface's news", "", "")
		w.news(news6{index: 3})
		w.want6(t, "addresses are managed", leased6, exchange6)
	})
}

func TestIPv6NoneIsLeftToTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roleWith(config.IPv6None))
		defer w.stop()
		w.kernel.managed = true
		w.link(&nic)
		w.have(linkLocal, Unique)
		w.news(news6{index: 3, servers: []advertised{{netip.MustParseAddr("fd99::53"), time.Hour}}})
		w.want6(t, "nobody is asked", "", "", true)
		if _, err := os.Stat(filepath.Join(w.dir, "resolv.conf")); err == nil {
			t.Error("name servers are used")
		}
	})
}

func TestARoleIsUpWhenBothAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		role := dhcpRole
		role.Network.IPv6 = config.IPv6DHCP
		w := newWorld(t, role)
		defer w.stop()
		w.link(&nic)
		w.want(t, "an address of IPv4 is not enough", leased, exchange)
		w.have(linkLocal, Unique)
		w.want6(t, "both are", leased6, exchange6, true)
		w.resolv(t, "nameserver 10.0.2.3\nnameserver fd00::53\n")
		w.link(nil)
		w.want(t, "the interface takes both along, which is told once", "", "", false)
	})
}

func TestNameServersOfRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roleWith(config.IPv6Auto))
		defer w.stop()
		w.link(&nic)
		say := func(addr string, lifetime time.Duration) {
			w.news(news6{index: 3, servers: []advertised{{netip.MustParseAddr(addr), lifetime}}})
		}
		say("fd99::53", time.Hour)
		say("fd99::54", 2*time.Hour)
		w.resolv(t, "nameserver fd99::53\nnameserver fd99::54\n")
		time.Sleep(59 * time.Minute)
		say("fd99::53", time.Hour)
		time.Sleep(59 * time.Minute)
		w.resolv(t, "nameserver fd99::53\nnameserver fd99::54\n")
		time.Sleep(2 * time.Minute)
		w.resolv(t, "") // both times are over
		say("fd99::53", infinite)
		time.Sleep(1000 * time.Hour)
		w.resolv(t, "nameserver fd99::53\n")
		say("fd99::53", 0)
		w.resolv(t, "")
	})
}

func TestStaticWaitsForTheCheckOfIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config.Role{Name: "net0", Class: config.ClassNet, Network: config.Network{
			Method: config.MethodStatic, Addresses: []string{"fd00::7/64"}, Gateway: "fe80::1",
		}})
		defer w.stop()
		p := netip.MustParsePrefix("fd00::7/64")
		w.kernel.checks[p.Addr()] = Tentative
		w.link(&nic)
		w.want(t, "put on the link", "+3 fd00::7/64; +3 ::/0 via fe80::1 metric 100", "")
		w.have(p, Duplicate)
		w.want(t, "another host has it", "-3 fd00::7/64", "")
		w.kernel.mu.Lock()
		w.kernel.checks[p.Addr()] = Tentative
		w.kernel.mu.Unlock()
		time.Sleep(firstRetry)
		w.want(t, "it is tried again", "+3 fd00::7/64; +3 ::/0 via fe80::1 metric 100", "")
		w.have(p, Unique)
		w.want(t, "the role is up", "", "", true)
	})
}
