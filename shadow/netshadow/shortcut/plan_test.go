// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shortcut

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The interfaces of the tests.
const (
	testProxy = 5
	testPort  = 3
	testOther = 9
)

// parseRoute reads a route as ip(8) writes it, as far as the tests need that.
func parseRoute(t *testing.T, text string) rtnl.Route {
	t.Helper()
	f := strings.Fields(text)
	r := rtnl.Route{LinkIndex: testProxy, Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT}
	if f[0] == "blackhole" {
		r.Type, r.LinkIndex, f = unix.RTN_BLACKHOLE, 0, f[1:]
	}
	if f[0] != "default" {
		to, err := netip.ParsePrefix(f[0])
		if err != nil {
			t.Fatalf("route %q: %v", text, err)
		}
		r.Dst = &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)}
	}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("route %q: %v", text, err)
		}
		return n
	}
	for i := 1; i < len(f); i += 2 {
		switch v := f[i+1]; f[i] {
		case "via":
			r.Gw = net.ParseIP(v).To4()
		case "src":
			r.Src = net.ParseIP(v).To4()
		case "dev":
			r.LinkIndex = map[string]int{"net0": testProxy, "other": testOther}[v]
		case "metric":
			r.Priority = number(v)
		case "mtu":
			r.MTU = number(v)
		case "quickack":
			r.QuickACK = number(v)
		default:
			t.Fatalf("route %q: %q is not known", text, f[i])
		}
	}
	return r
}

// text is a route as the tables below write it.
func (r route) text() string {
	out := r.to.String()
	if r.gateway.IsValid() {
		out += " via " + r.gateway.String()
	}
	out += fmt.Sprintf(" dev %s src %s metric %d", map[bool]string{true: "net0", false: "port"}[r.proxy], r.source, r.metric)
	return out
}

func neighbour(ip, mac string, state int) rtnl.Neigh {
	hw, _ := net.ParseMAC(mac)
	return rtnl.Neigh{LinkIndex: testProxy, IP: net.ParseIP(ip), HardwareAddr: hw, State: state}
}

const (
	subnet  = "10.0.2.0/24 src 10.0.2.15"
	gateway = "default via 10.0.2.2 metric 100"
	mac2    = "02:00:00:00:00:02"
	mac3    = "02:00:00:00:00:03"
)

var (
	router  = neighbour("10.0.2.2", mac2, unix.NUD_REACHABLE)
	server  = neighbour("10.0.2.3", mac3, unix.NUD_DELAY)
	groups4 = "224.0.0.0/4 dev net0 src 10.0.2.15 metric 99"
	all4    = "255.255.255.255/32 dev net0 src 10.0.2.15 metric 99"
)

func TestPlan(t *testing.T) {
	for _, tc := range []struct {
		name       string
		routes     []string
		neighbours []rtnl.Neigh
		had, over  []string
		want       []string
		hosts      []string // that the port is told of; nil: not looked at
	}{
		{
			name:       "what goes by a gateway goes by the port, before the proxy's route, and groups stay with the proxy",
			routes:     []string{gateway, subnet},
			neighbours: []rtnl.Neigh{router},
			want: []string{
				"0.0.0.0/0 via 10.0.2.2 dev port src 10.0.2.15 metric 99", groups4, all4,
				"10.0.2.2/32 dev port src 10.0.2.15 metric 30061",
			},
			hosts: []string{"10.0.2.2 " + mac2},
		},
		{
			name:       "each neighbour that is in use has a route of its own, for the network itself has to be asked on the proxy",
			routes:     []string{subnet},
			neighbours: []rtnl.Neigh{server, router},
			want:       []string{"10.0.2.2/32 dev port src 10.0.2.15 metric 30061", "10.0.2.3/32 dev port src 10.0.2.15 metric 30061"},
			hosts:      []string{"10.0.2.2 " + mac2, "10.0.2.3 " + mac3},
		},
		{
			name:   "a gateway that is not resolved has none",
			routes: []string{gateway, subnet},
			neighbours: []rtnl.Neigh{
				neighbour("10.0.2.2", "", unix.NUD_INCOMPLETE), neighbour("10.0.2.4", mac2, unix.NUD_FAILED), neighbour("10.0.2.5", "", unix.NUD_NOARP),
			},
		},
		{
			name:       "a neighbour that has only asked for us has none",
			routes:     []string{subnet},
			neighbours: []rtnl.Neigh{neighbour("10.0.2.3", mac3, unix.NUD_STALE)},
		},
		{
			name:       "one that is just being asked again keeps its route",
			routes:     []string{subnet},
			neighbours: []rtnl.Neigh{neighbour("10.0.2.3", mac3, unix.NUD_STALE)},
			had:        []string{"10.0.2.3"},
			want:       []string{"10.0.2.3/32 dev port src 10.0.2.15 metric 30061"},
		},
		{
			name:       "one that the kernel has lost keeps its route for a while: it may be the device that is dead",
			routes:     []string{subnet},
			neighbours: []rtnl.Neigh{neighbour("10.0.2.2", "", unix.NUD_FAILED)},
			had:        []string{"10.0.2.2", "10.0.2.3"},
			over:       []string{"10.0.2.3"},
			want:       []string{"10.0.2.2/32 dev port src 10.0.2.15 metric 30061"},
			hosts:      []string{"10.0.2.2 " + mac2 + " lost"},
		},
		{
			name:       "one that is back under another address is not lost",
			routes:     []string{subnet},
			neighbours: []rtnl.Neigh{neighbour("10.0.2.2", mac3, unix.NUD_REACHABLE)},
			had:        []string{"10.0.2.2"},
			over:       []string{"10.0.2.2"},
			want:       []string{"10.0.2.2/32 dev port src 10.0.2.15 metric 30061"},
			hosts:      []string{"10.0.2.2 " + mac3},
		},
		{
			name:       "a route of another interface that comes first stays the first, and the gateway's own is as for any neighbour",
			routes:     []string{"default via 192.0.2.1 dev other metric 50", gateway, subnet},
			neighbours: []rtnl.Neigh{router},
			want:       []string{"10.0.2.2/32 dev port src 10.0.2.15 metric 30061"},
		},
		{
			name:       "one that comes later is no matter",
			routes:     []string{"default via 192.0.2.1 dev other metric 101", gateway},
			neighbours: []rtnl.Neigh{router},
			want:       []string{"0.0.0.0/0 via 10.0.2.2 dev port src 10.0.2.15 metric 99", groups4, all4},
		},
		{
			name:       "nothing comes before a metric of 0",
			routes:     []string{"default via 10.0.2.2"},
			neighbours: []rtnl.Neigh{router},
		},
		{
			name:       "a route that says more than where to send is the kernel's to follow",
			routes:     []string{gateway + " mtu 1400", "10.9.0.0/16 via 10.0.2.2 metric 100 quickack 1"},
			neighbours: []rtnl.Neigh{router},
		},
		{
			name:       "networks behind a gateway are reached from the address that their route names",
			routes:     []string{"10.9.0.0/16 via 10.0.2.2 src 10.0.2.99 metric 7", subnet},
			neighbours: []rtnl.Neigh{router},
			want:       []string{"10.9.0.0/16 via 10.0.2.2 dev port src 10.0.2.99 metric 6", "10.0.2.2/32 dev port src 10.0.2.15 metric 30061"},
		},
		{
			name:       "a network of another interface inside that of the proxy, or a hole in it, is not the proxy's",
			routes:     []string{subnet, "10.0.2.0/30 dev other", "blackhole 10.0.2.3/32"},
			neighbours: []rtnl.Neigh{router, server},
		},
		{
			name:       "a user's route to a host stays as it is",
			routes:     []string{subnet, "10.0.2.3/32 metric 40000"},
			neighbours: []rtnl.Neigh{server},
		},
		{
			name:       "a user's route to groups stays as it is",
			routes:     []string{gateway, "224.0.0.0/4 dev other"},
			neighbours: []rtnl.Neigh{router},
			want:       []string{"0.0.0.0/0 via 10.0.2.2 dev port src 10.0.2.15 metric 99", all4},
		},
		{
			name:       "halves of all addresses keep their groups with the proxy too",
			routes:     []string{"0.0.0.0/1 via 10.0.2.2 metric 8", "128.0.0.0/1 via 10.0.2.2 metric 9"},
			neighbours: []rtnl.Neigh{router},
			want: []string{
				"0.0.0.0/1 via 10.0.2.2 dev port src 10.0.2.15 metric 7", "128.0.0.0/1 via 10.0.2.2 dev port src 10.0.2.15 metric 8",
				"224.0.0.0/4 dev net0 src 10.0.2.15 metric 8", "255.255.255.255/32 dev net0 src 10.0.2.15 metric 8",
			},
		},
		{
			name:       "a gateway outside every network is told of too",
			routes:     []string{"default via 192.0.2.254 metric 100"},
			neighbours: []rtnl.Neigh{neighbour("192.0.2.254", mac2, unix.NUD_PERMANENT)},
			want:       []string{"0.0.0.0/0 via 192.0.2.254 dev port src 10.0.2.15 metric 99", groups4, all4},
			hosts:      []string{"192.0.2.254 " + mac2 + " permanent"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := testView(t, tc.routes, tc.neighbours)
			for _, ip := range tc.had {
				v.had[netip.MustParseAddr(ip)] = host{mac: "\x02\x00\x00\x00\x00\x02"}
			}
			for _, ip := range tc.over {
				v.over[netip.MustParseAddr(ip)] = true
			}
			p := v.plan()
			var got, hosts []string
			for _, r := range p.routes {
				got = append(got, r.text())
			}
			for _, h := range p.hosts {
				text := h.ip.String() + " " + net.HardwareAddr(h.mac).String()
				if h.permanent {
					text += " permanent"
				}
				if h.lost {
					text += " lost"
				}
				hosts = append(hosts, text)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.hosts, hosts); tc.hosts != nil && diff != "" {
				t.Errorf("hosts (-want +got):\n%s", diff)
			}
		})
	}
}

func testView(t *testing.T, routes []string, neighbours []rtnl.Neigh) view {
	t.Helper()
	address := rtnl.Addr{IPNet: &net.IPNet{IP: net.IP{10, 0, 2, 15}, Mask: net.CIDRMask(24, 32)}}
	v := view{proxy: testProxy, addresses: []rtnl.Addr{address}, neighbours: neighbours, had: make(map[netip.Addr]host), over: make(map[netip.Addr]bool)}
	for _, r := range routes {
		v.routes = append(v.routes, parseRoute(t, r))
	}
	return v
}

func TestPlanIsBounded(t *testing.T) {
	var neighbours []rtnl.Neigh
	for i := range 250 {
		neighbours = append(neighbours, neighbour(fmt.Sprintf("10.0.2.%d", i+1), mac2, unix.NUD_REACHABLE))
	}
	p := testView(t, []string{"default via 10.0.2.250 metric 100", subnet}, neighbours).plan()
	gateway := netip.MustParseAddr("10.0.2.250")
	if len(p.hosts) != maxHosts || !slices.ContainsFunc(p.hosts, func(h host) bool { return h.ip == gateway }) {
		t.Errorf("%d neighbours have routes, want %d with the gateway", len(p.hosts), maxHosts)
	}
}

// TestCompare has what a predecessor left, by this port and by another.
func TestCompare(t *testing.T) {
	v := testView(t, []string{gateway, subnet}, []rtnl.Neigh{router})
	want := v.plan().routes
	var have []rtnl.Route
	for _, r := range want {
		have = append(have, r.kernel(testProxy, testPort))
	}
	if stale, missing := compare(have, want, testProxy, testPort); len(stale)+len(missing) != 0 {
		t.Errorf("of what is as it should be, %v are to go and %v missing", stale, missing)
	}
	stale, missing := compare(have, want, testProxy, testPort+1)
	for _, r := range stale {
		if r.LinkIndex != testPort {
			t.Errorf("a route over the proxy is to go with the port: %v", r)
		}
	}
	if len(stale) != 2 || len(missing) != 2 {
		t.Errorf("by another port %v are to go and %v missing, want the default's and the router's", stale, missing)
	}
	if stale, missing := compare(have, nil, testProxy, testPort); len(stale) != len(have) || len(missing) != 0 {
		t.Errorf("with nothing wanted, %v are to go and %v missing", stale, missing)
	}
}

func TestObstacle(t *testing.T) {
	for _, tc := range []struct {
		name     string
		settings map[string]string
		old      bool   // a kernel before 6.0
		want     string // how the reason begins
	}{
		{"none by default", map[string]string{"all/rp_filter": "0", "net0/rp_filter": "0", "all/forwarding": "0", "net0/arp_filter": "0"}, false, ""},
		{"a strict test of sources, of the proxy", map[string]string{"all/rp_filter": "0", "net0/rp_filter": "1"}, false, "rp_filter"},
		{"a strict test of sources, of all", map[string]string{"all/rp_filter": "1", "net0/rp_filter": "0"}, false, "rp_filter"},
		{"not a loose one, which counts more", map[string]string{"all/rp_filter": "2", "net0/rp_filter": "1"}, false, ""},
		{"not another interface's", map[string]string{"other/rp_filter": "1"}, false, ""},
		{"a filter of ARP", map[string]string{"net0/arp_filter": "1"}, false, "arp_filter"},
		{"forwarding, of any interface", map[string]string{"veth0/forwarding": "1"}, false, "forwarding of veth0"},
		{"not what interfaces to come will do", map[string]string{"default/forwarding": "1"}, false, ""},
		{"a kernel that does not look after neighbours", nil, true, "the kernel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ipv4 := make(fstest.MapFS)
			for file, v := range tc.settings {
				ipv4[path.Join("conf", file)] = &fstest.MapFile{Data: []byte(v + "\n")}
			}
			if !tc.old {
				ipv4["neigh/net0/interval_probe_time_ms"] = &fstest.MapFile{Data: []byte("5000\n")}
			}
			got := obstacle(ipv4, "net0")
			if !strings.HasPrefix(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestRelevant(t *testing.T) {
	news := func(typ netlink.HeaderType, protocol byte) []netlink.Message {
		data := make([]byte, unix.SizeofRtMsg)
		data[5] = protocol
		return []netlink.Message{{Header: netlink.Header{Type: typ}, Data: data}}
	}
	for _, tc := range []struct {
		name string
		msgs []netlink.Message
		want bool
	}{
		{"our own routes are no news", news(unix.RTM_NEWROUTE, protocol), false},
		{"nor is that they have gone", news(unix.RTM_DELROUTE, protocol), false},
		{"those of others are", news(unix.RTM_NEWROUTE, unix.RTPROT_BOOT), true},
		{"so are neighbours", news(unix.RTM_NEWNEIGH, protocol), true},
		{"one piece of news among others is enough", append(news(unix.RTM_NEWROUTE, protocol), news(unix.RTM_DELADDR, 0)...), true},
		{"what is too short to be a route is", []netlink.Message{{Header: netlink.Header{Type: unix.RTM_NEWROUTE}}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := relevant(tc.msgs); got != tc.want {
				t.Errorf("%t", got)
			}
		})
	}
}
