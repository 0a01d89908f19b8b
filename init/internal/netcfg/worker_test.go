// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
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

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/umbra-vm/umbra/init/config"
)

// fakeKernel keeps what a worker does to interfaces, and writes it down.
type fakeKernel struct {
	mu    sync.Mutex
	addrs map[int][]netip.Prefix
	done  []string
	vlans []string // made beside the rest

	checks  map[netip.Addr]Check // those that are not Unique
	managed bool
}

func (k *fakeKernel) note(format string, args ...any) error {
	k.done = append(k.done, fmt.Sprintf(format, args...))
	return nil
}

func (k *fakeKernel) Up(index int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.note("up %d", index)
}

func (k *fakeKernel) Addresses(index int) ([]netip.Prefix, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.addrs[index]), nil
}

func (k *fakeKernel) AddAddress(index int, p netip.Prefix) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addrs[index] = append(k.addrs[index], p)
	return k.note("+%d %s", index, p)
}

func (k *fakeKernel) RemoveAddress(index int, p netip.Prefix) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addrs[index] = slices.DeleteFunc(k.addrs[index], func(a netip.Prefix) bool { return a == p })
	return k.note("-%d %s", index, p)
}

func (k *fakeKernel) AddRoute(index int, r Route, onlink bool, metric int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	suffix := ""
	if onlink {
		suffix = " onlink"
	}
	return k.note("+%d %s via %s metric %d%s", index, r.To, r.Gateway, metric, suffix)
}

func (k *fakeKernel) RemoveRoute(index int, r Route, metric int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.note("-%d %s via %s metric %d", index, r.To, r.Gateway, metric)
}

func (k *fakeKernel) AddVLAN(index, id int, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vlans = append(k.vlans, fmt.Sprintf("%s of %d on %d", name, id, index))
	return nil
}

func (k *fakeKernel) AddLeased(index int, a netip.Addr, preferred, valid time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(k.addrs[index], single(a)) {
		k.addrs[index] = append(k.addrs[index], single(a))
	}
	return k.note("+%d %s for %v of %v", index, a, preferred.Round(time.Second), valid.Round(time.Second))
}

func (k *fakeKernel) View6(index int) (View6, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := View6{Managed: k.managed}
	for _, p := range k.addrs[index] {
		if !p.Addr().Is6() {
			continue
		}
		a := Address6{p, Unique}
		if c, ok := k.checks[p.Addr()]; ok {
			a.Check = c
		}
		v.Addresses = append(v.Addresses, a)
	}
	return v, nil
}

// take returns what was done since the last call.
func (k *fakeKernel) take() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := strings.Join(k.done, "; ")
	k.done = nil
	return s
}

// fakeServer is a DHCP server on the other end of every link.
type fakeServer struct {
	mu     sync.Mutex
	addr   string // what it grants
	silent bool
	nak    bool
	heard  []string
}

// take returns what was heard since the last call.
func (s *fakeServer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := strings.Join(s.heard, "; ")
	s.heard = nil
	return h
}

func (s *fakeServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// answer returns the answer to a message sent from an address to another.
func (s *fakeServer) answer(from netip.Addr, to net.Addr, b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	req, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil
	}
	how := "from nobody"
	if from.IsValid() {
		how = "from " + from.String()
	}
	what := fmt.Sprintf("%s id=%s %s to %s", req.MessageType(), hex.EncodeToString(req.Options.Get(dhcpv4.OptionClientIdentifier)), how, to)
	if !req.ClientIPAddr.IsUnspecified() {
		what += " ciaddr=" + req.ClientIPAddr.String()
	}
	if ip := req.RequestedIPAddress(); ip != nil {
		what += " requested=" + ip.String()
	}
	if id := req.ServerIdentifier(); id != nil {
		what += " server=" + id.String()
	}
	s.heard = append(s.heard, what)
	if s.silent {
		return nil
	}
	kind := dhcpv4.MessageTypeAck
	switch {
	case req.MessageType() == dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case s.nak:
		kind = dhcpv4.MessageTypeNak
	}
	reply, err := dhcpv4.NewReplyFromRequest(req,
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.ParseIP(s.addr)), dhcpv4.WithLeaseTime(8000),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(10, 0, 2, 2))),
		dhcpv4.WithOption(dhcpv4.OptDNS(net.IPv4(10, 0, 2, 3))), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 2, 2))))
	if err != nil {
		return nil
	}
	return reply.ToBytes()
}

// fakeConn is the link between a client and the server.
type fakeConn struct {
	net.PacketConn // what is not used
	server         *fakeServer
	from           netip.Addr
	in             chan []byte
	closed         chan struct{}
	once           sync.Once
}

func (c *fakeConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if reply := c.server.answer(c.from, to, b); reply != nil {
		c.in <- reply
	}
	return len(b), nil
}

func (c *fakeConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case in := <-c.in:
		return copy(b, in), nil, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// world is one worker in a bubble with a clock of its own.
type world struct {
	*worker
	kernel *fakeKernel
	server *fakeServer
	six    *fakeServer6
	dir    string
	told   *told
	stop   func()
}

// told is what PID 1 was told of the role.
type told struct {
	mu sync.Mutex
	up []bool
}

func (l *told) add(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = append(l.up, up)
}

// take returns what was told since the last call.
func (l *told) take() []bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	up := l.up
	l.up = nil
	return up
}

var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where synctest's clock starts

func newWorld(t *testing.T, role config.Role) world {
	w := world{
		kernel: &fakeKernel{addrs: make(map[int][]netip.Prefix), checks: make(map[netip.Addr]Check)},
		server: &fakeServer{addr: "10.0.2.15"}, six: newFakeServer6(), dir: t.TempDir(), told: new(told),
	}
	return w.restart(role)
}

// restart ends the worker, if there is one, and starts its successor.
func (w world) restart(role config.Role) world {
	ctx, cancel := context.WithCancel(context.Background())
	d := &Daemon{
		opt: Options{
			ResolvConf: filepath.Join(w.dir, "resolv.conf"), Hostname: "umbra", Logger: slog.New(slog.DiscardHandler),
			Tell: func(_ context.Context, _ string, up bool) error { w.told.add(up); return nil },
		},
		kernel: w.kernel, store: Store{Dir: w.dir}, states: make(map[string]State),
		now: func() time.Duration { return time.Since(start) },
		dial: func(_ *slog.Logger, l Link, from netip.Addr) (*nclient4.Client, error) {
			conn := &fakeConn{server: w.server, from: from, in: make(chan []byte, 8), closed: make(chan struct{})}
			return nclient4.NewWithConn(conn, l.MAC, nclient4.WithTimeout(firstTimeout), nclient4.WithRetry(tries))
		},
	}
	d.dial6 = w.six.dial
	last := w.worker
	w.worker = newWorker(d, role, 100)
	if last != nil {
		w.box.newest, _ = last.box.get()
	}
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	w.stop = func() { cancel(); <-done; synctest.Wait() }
	return w
}

// link tells of an interface and lets everything come to rest.
func (w world) link(l *Link) {
	w.box.put(l)
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

func (w world) want(t *testing.T, what, kernel, heard string, told ...bool) {
	t.Helper()
	synctest.Wait()
	if got := w.kernel.take(); got != kernel {
		t.Errorf("%s: did\n\t%s, want\n\t%s", what, got, kernel)
	}
	if got := w.server.take(); got != heard {
		t.Errorf("%s: the server heard\n\t%s, want\n\t%s", what, got, heard)
	}
	if got := w.told.take(); !slices.Equal(got, told) {
		t.Errorf("%s: told %v, want %v", what, got, told)
	}
}

var (
	dhcpRole = config.Role{Name: "net0", Class: config.ClassNet, Network: config.Network{Method: config.MethodDHCP}}
	nic      = Link{Index: 3, Name: "net0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, MTU: 1500, Up: true, Carrier: true}
)

const (
	id        = "id=01525400000001"
	everybody = "255.255.255.255:67"
	exchange  = "DISCOVER " + id + " from nobody to " + everybody + "; REQUEST " + id + " from nobody to " + everybody + " requested=10.0.2.15 server=10.0.2.2"
	leased    = "+3 10.0.2.15/24; +3 0.0.0.0/0 via 10.0.2.2 metric 100"
	route     = "+3 0.0.0.0/0 via 10.0.2.2 metric 100"
	renewal   = "REQUEST " + id + " from 10.0.2.15 to 10.0.2.2:67 ciaddr=10.0.2.15"
)

// inBubble runs a test with a clock of its own and a worker that has a lease.
func inBubble(t *testing.T, test func(*testing.T, world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dhcpRole)
		w.link(&nic)
		w.want(t, "a new interface gets a lease", leased, exchange, true)
		test(t, w)
	})
}

func TestAnInterfaceIsBroughtUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dhcpRole)
		defer w.stop()
		down := nic
		down.Up, down.Carrier = false, false
		w.link(&down)
		w.want(t, "an interface that is down is brought up", "up 3", "")
		w.link(&down)
		w.want(t, "who takes it down again has his way", "", "")
		noCarrier := nic
		noCarrier.Carrier = false
		w.link(&noCarrier)
		w.want(t, "without a carrier there is nobody to ask", "", "")
		w.link(&nic)
		w.want(t, "with a carrier there is", leased, exchange, true)
		text, err := os.ReadFile(filepath.Join(w.dir, "resolv.conf"))
		if err != nil || string(text) != "nameserver 10.0.2.3\n" {
			t.Errorf("resolv.conf is %q, %v", text, err)
		}
	})
}

func TestNewsAboutTheLinkBeginTheExchangeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dhcpRole)
		defer w.stop()
		w.server.set(func() { w.server.silent = true })
		w.link(&nic)
		time.Sleep(9 * time.Second) // the next message would go out 15 s after the first
		synctest.Wait()
		w.server.take()
		w.server.set(func() { w.server.silent = false })
		w.link(&nic)
		time.Sleep(settle)
		w.want(t, "the hardware is there now", leased, exchange, true)
	})
}

func TestNewsDuringAnExchangeThatWorksDoNoHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dhcpRole)
		defer w.stop()
		w.box.put(&nic)
		w.link(&nic)
		w.link(&nic)
		w.want(t, "one exchange", leased, exchange, true)
	})
}

func TestALossOfCarrierChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		noCarrier := nic
		noCarrier.Carrier = false
		for range 3 {
			w.link(&noCarrier)
			time.Sleep(time.Minute)
			w.link(&nic)
		}
		w.want(t, "the carrier went and came", "", "")
	})
}

func TestALeaseIsExtended(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		for range 3 {
			time.Sleep(3990 * time.Second)
			w.want(t, "before T1", "", "")
			time.Sleep(10 * time.Second)
			w.want(t, "at T1", route, renewal)
		}
	})
}

func TestASilentServerLosesTheLeaseAtItsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		w.server.set(func() { w.server.silent = true })
		time.Sleep(6990 * time.Second)
		synctest.Wait()
		for _, h := range strings.Split(w.server.take(), "; ") {
			if h != renewal {
				t.Errorf("between T1 and T2 the server heard %s", h)
			}
		}
		time.Sleep(1000 * time.Second)
		synctest.Wait()
		heard := strings.Split(w.server.take(), "; ")
		if rebind := "REQUEST " + id + " from nobody to " + everybody + " ciaddr=10.0.2.15"; !slices.Contains(heard, rebind) {
			t.Errorf("after T2 not everybody was asked, but %s", heard)
		}
		w.want(t, "until the end the address stays", "", "")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		w.server.take()
		w.want(t, "at the end it goes", "-3 0.0.0.0/0 via 10.0.2.2 metric 100; -3 10.0.2.15/24", "", false)
		w.server.set(func() { w.server.silent = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		w.server.take()
		w.want(t, "a server that is back grants it again", leased, "", true)
	})
}

func TestARefusalTakesTheAddressAway(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		w.server.set(func() { w.server.nak = true })
		time.Sleep(4000*time.Second - 2*time.Millisecond)
		go func() { // the server has another address for us
			time.Sleep(3 * time.Millisecond)
			w.server.set(func() { w.server.nak, w.server.addr = false, "10.0.2.77" })
		}()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		heard := w.server.take()
		if !strings.HasPrefix(heard, renewal+"; DISCOVER ") {
			t.Errorf("the server heard %s", heard)
		}
		w.want(t, "another address", "-3 0.0.0.0/0 via 10.0.2.2 metric 100; -3 10.0.2.15/24; "+
			"+3 10.0.2.77/24; +3 0.0.0.0/0 via 10.0.2.2 metric 100", "", false, true)
	})
}

func TestASuccessorTakesOverWithoutAQuestion(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		w.stop()
		w.want(t, "who ends takes nothing away", "", "")
		time.Sleep(time.Hour)
		w = w.restart(dhcpRole)
		defer func() { w.stop() }()
		synctest.Wait()
		w.want(t, "the successor goes on", "", "", true)
		time.Sleep(401 * time.Second)
		synctest.Wait()
		w.want(t, "and extends the lease at the same T1", route, renewal)
	})
}

func TestASuccessorTooLateAsksAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		w.stop()
		time.Sleep(3 * time.Hour)
		w = w.restart(dhcpRole)
		defer func() { w.stop() }()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		w.want(t, "the lease was over", route, exchange, true)
	})
}

func TestAnInterfaceThatComesBackIsConfiguredAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		w.link(nil)
		w.want(t, "it is gone", "", "", false)
		other := nic
		other.Index, other.MAC = 9, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
		w.link(&other)
		w.want(t, "another interface asks for the same address, as the same client",
			"+9 10.0.2.15/24; +9 0.0.0.0/0 via 10.0.2.2 metric 100",
			"REQUEST "+id+" from nobody to "+everybody+" requested=10.0.2.15", true)
	})
}

func TestAnotherNetworkRefusesTheOldAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		w.link(nil)
		w.server.set(func() { w.server.nak = true })
		other := nic
		other.Index = 9
		go func() {
			time.Sleep(500 * time.Microsecond)
			w.server.set(func() { w.server.nak, w.server.addr = false, "10.0.2.99" })
		}()
		w.link(&other)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.server.take()
		w.want(t, "a new address", "+9 10.0.2.99/24; +9 0.0.0.0/0 via 10.0.2.2 metric 100", "", false, true)
	})
}

func TestRoutesComeBackWithTheAdministrator(t *testing.T) {
	inBubble(t, func(t *testing.T, w world) {
		defer w.stop()
		down := nic
		down.Up, down.Carrier = false, false
		w.link(&down)
		w.want(t, "taken down: left alone", "", "")
		w.link(&nic)
		w.want(t, "brought up: the kernel has dropped the routes", route, "")
	})
}

func TestStatic(t *testing.T) {
	for _, tt := range []struct {
		name    string
		network config.Network
		want    string
	}{
		{"addresses and a gateway", config.Network{Addresses: []string{"192.0.2.7/24", "fd00::7/64"}, Gateway: "192.0.2.1"},
			"+3 192.0.2.7/24; +3 fd00::7/64; +3 0.0.0.0/0 via 192.0.2.1 metric 100"},
		{"a gateway of IPv6", config.Network{Addresses: []string{"fd00::7/64"}, Gateway: "fe80::1"},
			"+3 fd00::7/64; +3 ::/0 via fe80::1 metric 100"},
		{"a gateway in no network is on the link", config.Network{Addresses: []string{"192.0.2.7/32"}, Gateway: "192.0.2.1"},
			"+3 192.0.2.7/32; +3 0.0.0.0/0 via 192.0.2.1 metric 100 onlink"},
		{"no gateway", config.Network{Addresses: []string{"192.0.2.7/24"}}, "+3 192.0.2.7/24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.network.Method = config.MethodStatic
				tt.network.DNS = []string{"192.0.2.53"}
				w := newWorld(t, config.Role{Name: "net0", Class: config.ClassNet, Network: tt.network})
				defer w.stop()
				w.link(&nic)
				w.want(t, tt.name, tt.want, "", true)
				text, err := os.ReadFile(filepath.Join(w.dir, "resolv.conf"))
				if err != nil || string(text) != "nameserver 192.0.2.53\n" {
					t.Errorf("resolv.conf is %q, %v", text, err)
				}
			})
		})
	}
}

func TestMethodNoneIsUpWithItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config.Role{Name: "net0", Class: config.ClassNet, Network: config.Network{Method: config.MethodNone}})
		defer w.stop()
		w.link(&nic)
		w.want(t, "nothing is configured", "", "", true)
	})
}

func TestWhoIsToldIsToldUntilHeListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config.Role{Name: "net0", Class: config.ClassNet, Network: config.Network{Method: config.MethodNone}})
		defer w.stop()
		calls := 0
		w.daemon.opt.Tell = func(context.Context, string, bool) error {
			if calls++; calls < 4 {
				return errors.New("not there")
			}
			return nil
		}
		w.link(&nic)
		time.Sleep(time.Minute)
		synctest.Wait()
		if calls != 4 {
			t.Errorf("told %d times, want 4", calls)
		}
	})
}
