// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// addrCmp makes cmp compare addresses.
var addrCmp = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var prefixCmp = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestTimesOfALease(t *testing.T) {
	const h = time.Hour
	for _, tt := range []struct {
		name              string
		lease, t1, t2     time.Duration
		renew, rebind, to time.Duration
	}{
		{"without T1 and T2 they are at 1/2 and 7/8", 8 * h, 0, 0, 4 * h, 7 * h, 8 * h},
		{"the server's T1 and T2 are kept", 8 * h, 1 * h, 2 * h, 1 * h, 2 * h, 8 * h},
		{"T2 after the end makes no sense", 8 * h, 1 * h, 9 * h, 1 * h, 7 * h, 8 * h},
		{"T1 after T2 makes no sense", 8 * h, 7 * h, 6 * h, 4 * h, 6 * h, 8 * h},
		{"T1 at half is bounded by an early T2", 8 * h, 0, 2 * h, 2 * h, 2 * h, 8 * h},
		{"the longest time is for ever", math.MaxUint32 * time.Second, h, 2 * h, Forever, Forever, Forever},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const granted = 100 * time.Second
			var l Lease
			l.setTimes(granted, tt.lease, tt.t1, tt.t2)
			at := func(d time.Duration) time.Duration {
				if d == Forever {
					return d
				}
				return granted + d
			}
			want := Lease{Term: Term{Granted: granted, Renew: at(tt.renew), Rebind: at(tt.rebind), Expires: at(tt.to)}}
			if diff := cmp.Diff(want, l, addrCmp, prefixCmp); diff != "" {
				t.Errorf("times (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPhaseAndNextTry(t *testing.T) {
	l := Term{Renew: 1000 * time.Second, Rebind: 1750 * time.Second, Expires: 2000 * time.Second}
	forever := Term{Renew: Forever, Rebind: Forever, Expires: Forever}
	for _, tt := range []struct {
		name  string
		l     Term
		now   time.Duration // s
		phase Phase
		next  time.Duration // s
	}{
		{"before T1 nothing is asked", l, 10, Bound, 1000},
		{"at T1 the server is asked; then after half of what is left until T2", l, 1000, Renewing, 1375},
		{"not within a minute", l, 1650, Renewing, 1710},
		{"T2 comes before the minute", l, 1740, Renewing, 1750},
		{"at T2 any server is asked", l, 1750, Rebinding, 1875},
		{"the end comes before the minute", l, 1990, Rebinding, 2000},
		{"at its end it is no more", l, 2000, Expired, 2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := tt.now * time.Second
			if got := tt.l.Phase(now); got != tt.phase {
				t.Errorf("phase %s, want %s", got, tt.phase)
			}
			if got := tt.l.NextTry(now, minRetry); got != tt.next*time.Second {
				t.Errorf("next try at %v, want %v", got, tt.next*time.Second)
			}
		})
	}
	if forever.Phase(math.MaxInt64-1) != Bound || forever.NextTry(0, minRetry) != Forever {
		t.Error("a lease for ever asks for something")
	}
}

func TestLeaseOfAnAnswer(t *testing.T) {
	ip := func(s string) net.IP { return net.ParseIP(s) }
	mask24 := dhcpv4.WithNetmask(net.CIDRMask(24, 32))
	hour := dhcpv4.WithLeaseTime(3600)
	you := dhcpv4.WithYourIP(ip("10.0.2.15"))
	router := dhcpv4.WithOption(dhcpv4.OptRouter(ip("10.0.2.2"), ip("10.0.2.9")))
	def := []Route{{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.2.2")}}
	for _, tt := range []struct {
		name string
		mods []dhcpv4.Modifier
		want Lease
		err  error
	}{
		{"address, mask, the first router, name servers, domain, time servers",
			[]dhcpv4.Modifier{you, mask24, hour, router, dhcpv4.WithOption(dhcpv4.OptDNS(ip("10.0.2.3"), ip("0.0.0.0"))),
				dhcpv4.WithOption(dhcpv4.OptNTPServers(ip("10.0.2.4"), ip("224.0.1.1"))),
				dhcpv4.WithOption(dhcpv4.OptDomainName("example.org")), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip("10.0.2.2")))},
			Lease{Address: netip.MustParsePrefix("10.0.2.15/24"), Server: netip.MustParseAddr("10.0.2.2"), Routes: def,
				DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")}, Domain: "example.org", NTP: []netip.Addr{netip.MustParseAddr("10.0.2.4")}}, nil},
		{"without a mask it goes by the class of the address", []dhcpv4.Modifier{dhcpv4.WithYourIP(ip("172.16.1.1")), hour},
			Lease{Address: netip.MustParsePrefix("172.16.1.1/16")}, nil},
		{"a mask with holes is none", []dhcpv4.Modifier{you, hour, dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})},
			Lease{Address: netip.MustParsePrefix("10.0.2.15/8")}, nil},
		{"classless routes take the place of the router",
			[]dhcpv4.Modifier{you, mask24, hour, router, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
				&dhcpv4.Route{Dest: &net.IPNet{IP: ip("10.9.0.0").To4(), Mask: net.CIDRMask(16, 32)}, Router: ip("10.0.2.7").To4()}))},
			Lease{Address: netip.MustParsePrefix("10.0.2.15/24"),
				Routes: []Route{{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.0.2.7")}}}, nil},
		{"a domain that would write a line of its own is left out",
			[]dhcpv4.Modifier{you, mask24, hour, dhcpv4.WithOption(dhcpv4.OptDomainName("a\nnameserver 6.6.6.6"))},
			Lease{Address: netip.MustParsePrefix("10.0.2.15/24")}, nil},
		{"no address is no lease", []dhcpv4.Modifier{mask24, hour}, Lease{}, ErrLease},
		{"a group's address is none", []dhcpv4.Modifier{dhcpv4.WithYourIP(ip("224.0.0.1")), hour}, Lease{}, ErrLease},
		{"no lease time is no lease", []dhcpv4.Modifier{you, mask24}, Lease{}, ErrLease},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ack, err := dhcpv4.New(tt.mods...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := lease(ack, time.Second)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			tt.want.setTimes(time.Second, time.Hour, 0, 0)
			if diff := cmp.Diff(&tt.want, got, addrCmp, prefixCmp); diff != "" {
				t.Errorf("lease (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzLease(f *testing.F) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 15)), dhcpv4.WithLeaseTime(60), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(10, 0, 2, 2))), dhcpv4.WithOption(dhcpv4.OptDomainName("a.b")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ack.ToBytes())
	ack.Options.Update(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 9, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}, Router: net.IPv4(10, 0, 2, 7).To4()}))
	f.Add(ack.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		ack, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := lease(ack, 0)
		if err != nil {
			return
		}
		if !l.Address.IsValid() || !l.Address.Addr().Is4() || l.Renew > l.Rebind || l.Rebind > l.Expires || l.Renew <= 0 {
			t.Fatalf("%+v", l)
		}
		for _, r := range l.Routes {
			if !r.To.IsValid() || !r.Gateway.IsValid() {
				t.Fatalf("route %+v", r)
			}
		}
	})
}

func TestStateIsReadBack(t *testing.T) {
	s := Store{Dir: t.TempDir() + "/net"}
	if st, err := s.Load("net0"); err != nil || st.Ifindex != 0 {
		t.Errorf("a role never seen has state %+v, %v", st, err)
	}
	l := Lease{Address: netip.MustParsePrefix("10.0.2.15/24"), Server: netip.MustParseAddr("10.0.2.2")}
	l.setTimes(time.Second, time.Hour, 0, 0)
	want := State{Ifindex: 3, ClientID: "01525400123456", Lease: &l, Addresses: []netip.Prefix{l.Address},
		Routes: []Route{{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.2.2")}}, DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")}, Domain: "x"}
	if err := s.Save("net0", want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load("net0")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, addrCmp, prefixCmp); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(s.path("net0"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Load("net0"); err == nil || st.Ifindex != 0 {
		t.Errorf("a broken file is state %+v, %v", st, err)
	}
}

func TestTimeServers(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	if got := TimeServers(s.Dir); got != nil {
		t.Errorf("without a lease: %v", got)
	}
	a, b := netip.MustParseAddr("10.0.2.4"), netip.MustParseAddr("10.0.3.4")
	for role, st := range map[string]State{
		"net0": {Lease: &Lease{NTP: []netip.Addr{a}}}, "net0.5": {Lease: &Lease{NTP: []netip.Addr{b, a}}}, "net1": {},
	} {
		if err := s.Save(role, st); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.path("net2"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]netip.Addr{b, a}, TimeServers(s.Dir), addrCmp); diff != "" {
		t.Errorf("servers of all leases, each once (-want +got):\n%s", diff)
	}
}

func TestResolvConf(t *testing.T) {
	as := func(ss ...string) (as []netip.Addr) {
		for _, s := range ss {
			as = append(as, netip.MustParseAddr(s))
		}
		return as
	}
	for _, tt := range []struct {
		name   string
		states map[string]State
		want   string
	}{
		{"no role, no line", nil, ""},
		{"roles in the order of their names, each server once",
			map[string]State{"net1": {DNS: as("10.1.0.3", "10.0.2.3"), Domain: "b"}, "net0": {DNS: as("10.0.2.3"), Domain: "a"}},
			"search a b\nnameserver 10.0.2.3\nnameserver 10.1.0.3\n"},
		{"resolvers look at three",
			map[string]State{"net0": {DNS: as("1.0.0.1", "1.0.0.2", "fd00::3", "1.0.0.4")}},
			"nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver fd00::3\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ResolvConf(tt.states); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLinkTable(t *testing.T) {
	table := make(linkTable)
	names := func(cs []change) string {
		s := ""
		for _, c := range cs {
			if c.link == nil {
				s += "-"
			} else {
				s += "+"
			}
			s += c.name + " "
		}
		return s
	}
	for _, step := range []struct {
		name string
		do   func() []change
		want string
	}{
		{"a new interface", func() []change { return table.seen(Link{Index: 2, Name: "eth0"}) }, "+eth0 "},
		{"its new name takes the old one away", func() []change { return table.seen(Link{Index: 2, Name: "net0"}) }, "-eth0 +net0 "},
		{"a change is told", func() []change { return table.seen(Link{Index: 2, Name: "net0", Up: true}) }, "+net0 "},
		{"what is gone is told", func() []change { return table.gone(2) }, "-net0 "},
		{"once", func() []change { return table.gone(2) }, ""},
		{"a list brings what is there", func() []change { return table.all([]Link{{Index: 3, Name: "net0"}, {Index: 4, Name: "lo"}}) }, "+net0 +lo "},
		{"a list tells what was missed", func() []change { return table.all([]Link{{Index: 4, Name: "lo"}}) }, "-net0 +lo "},
	} {
		if got := names(step.do()); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
