// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func linkReport(index int, values ...string) report {
	return report{index: index, group: groupLink, name: fmt.Sprintf("nic%d", index), values: with(Values{}, values...)}
}

func groupReport(g group, index int, values ...string) report {
	return report{index: index, group: g, values: with(Values{}, values...)}
}

// answer answers all queries of t, with what kernel says, or with an error.
func answer(t *testing.T, tr *tracker, kernel map[query]report) {
	t.Helper()
	for range 100 {
		asked := false
		for socket := range numSockets {
			q, ok := tr.next(socket)
			if !ok {
				continue
			}
			asked = true
			if r, ok := kernel[q]; ok {
				tr.answered(socket, &r)
			} else {
				tr.answered(socket, nil)
			}
		}
		if !asked {
			return
		}
	}
	t.Fatal("the tracker does not stop asking")
}

// tracking returns a tracker that knows interface 1.
func tracking(t *testing.T) (*tracker, map[query]report) {
	t.Helper()
	kernel := map[query]report{
		{1, groupLink}:     linkReport(1, "net.mtu", "1500", "net.mac", "52:54:00:00:00:01"),
		{1, groupRings}:    groupReport(groupRings, 1, "net.ring.rx", "256"),
		{1, groupFeatures}: groupReport(groupFeatures, 1, "net.feature.rx-all", "off"),
	}
	tr := newTracker()
	tr.add(1, "nic1", Both)
	answer(t, tr, kernel)
	if !tr.settled() {
		t.Fatal("not settled")
	}
	tr.rebase()
	if c, ok := tr.change(); ok {
		t.Fatalf("a change before any: %+v", c)
	}
	return tr, kernel
}

func expect(t *testing.T, tr *tracker, keys ...string) {
	t.Helper()
	c, ok := tr.change()
	if diff := cmp.Diff(keys, c.Keys); diff != "" || ok != (len(keys) > 0) {
		t.Errorf("change %v (-want +got)\n%s", ok, diff)
	}
	if ok {
		tr.delivered(c)
	}
}

func TestTracker(t *testing.T) {
	for name, f := range map[string]func(*testing.T, *tracker, map[query]report){
		"a notification has the values itself: nothing is asked": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(linkReport(1, "net.mtu", "9000"))
			if !tr.settled() {
				t.Error("the kernel is asked")
			}
			expect(t, tr, "net.mtu")
			expect(t, tr)
		},
		"changes that nobody received are one": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(linkReport(1, "net.mtu", "9000"))
			tr.notified(groupReport(groupRings, 1, "net.ring.rx", "64"))
			tr.notified(linkReport(1, "net.mtu", "9001"))
			expect(t, tr, "net.mtu", "net.ring.rx")
			expect(t, tr)
		},
		"a setting that changed back is no change": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(linkReport(1, "net.mtu", "9000"))
			tr.notified(linkReport(1, "net.mtu", "1500"))
			expect(t, tr)
		},
		"a link message without an attribute leaves the setting": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(linkReport(1))
			expect(t, tr)
		},
		"a notification of traffic control makes it be read": func(t *testing.T, tr *tracker, kernel map[query]report) {
			kernel[query{1, groupTraffic}] = groupReport(groupTraffic, 1, "net.qdisc.root", "fq,handle=1:")
			tr.notified(report{index: 1, group: groupTraffic, unnamed: true})
			tr.notified(report{index: 1, group: groupTraffic, unnamed: true})
			answer(t, tr, kernel)
			expect(t, tr, "net.qdisc.root")
			tr.notified(report{index: 1, group: groupTraffic, unnamed: true})
			kernel[query{1, groupTraffic}] = groupReport(groupTraffic, 1)
			answer(t, tr, kernel)
			expect(t, tr, "net.qdisc.root")
		},
		"nothing is asked of an interface that is not of its scope": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.add(2, "proxy", Proxy)
			if q, ok := tr.next(socketLink); !ok || q != (query{2, groupLink}) {
				t.Errorf("%v %v is asked, want its link", q, ok)
			}
			tr.notified(report{index: 2, group: groupTraffic, unnamed: true})
			for _, socket := range []int{socketEthtool, socketCalls} {
				if q, ok := tr.next(socket); ok {
					t.Errorf("%v is asked", q)
				}
			}
			tr.remove(2)
		},
		"an ethtool message speaks for its whole group": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(groupReport(groupRings, 1))
			expect(t, tr, "net.ring.rx")
		},
		"an interface that nobody watches": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(linkReport(2, "net.mtu", "9000"))
			expect(t, tr)
		},
		"an answer that is overtaken by a notification is asked for again": func(t *testing.T, tr *tracker, kernel map[query]report) {
			tr.enqueue(query{1, groupRings})
			if _, ok := tr.next(socketEthtool); !ok {
				t.Fatal("nothing asked")
			}
			old := kernel[query{1, groupRings}]
			kernel[query{1, groupRings}] = groupReport(groupRings, 1, "net.ring.rx", "64")
			tr.notified(kernel[query{1, groupRings}])
			tr.answered(socketEthtool, &old)
			if tr.settled() {
				t.Error("settled on an answer that may be old")
			}
			expect(t, tr, "net.ring.rx")
			answer(t, tr, kernel)
			expect(t, tr)
		},
		"a notification without names is asked for": func(t *testing.T, tr *tracker, kernel map[query]report) {
			kernel[query{1, groupPrivateFlags}] = groupReport(groupPrivateFlags, 1, "net.private-flag.legacy-rx", "on")
			tr.notified(report{index: 1, group: groupPrivateFlags, unnamed: true})
			answer(t, tr, kernel)
			expect(t, tr, "net.private-flag.legacy-rx")
		},
		"a look asks for what is not announced, and nothing else": func(t *testing.T, tr *tracker, kernel map[query]report) {
			kernel[query{1, groupHash}] = groupReport(groupHash, 1, "net.hash.table", "0")
			kernel[query{1, groupRings}] = groupReport(groupRings, 1, "net.ring.rx", "64")
			tr.look(unannounced)
			answer(t, tr, kernel)
			expect(t, tr, "net.hash.table")
		},
		"a look while the answer to an earlier one is to come asks again": func(t *testing.T, tr *tracker, kernel map[query]report) {
			tr.look(unannounced)
			if _, ok := tr.next(socketCalls); !ok {
				t.Fatal("nothing asked")
			}
			old := groupReport(groupHash, 1, "net.hash.table", "0")
			kernel[query{1, groupHash}] = groupReport(groupHash, 1, "net.hash.table", "0,1")
			tr.look(unannounced)
			tr.answered(socketCalls, &old)
			answer(t, tr, kernel)
			c, _ := tr.change()
			if got := c.Values["net.hash.table"]; got != "0,1" {
				t.Errorf("the table is %q, want what was there at the second look", got)
			}
		},
		"one query is under way on a socket at a time": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.ask(1, everyGroup)
			for socket := range numSockets {
				if _, ok := tr.next(socket); !ok {
					t.Errorf("socket %d: nothing asked", socket)
				}
				if q, ok := tr.next(socket); ok {
					t.Errorf("socket %d: %v asked too", socket, q)
				}
			}
		},
		"lost notifications are made good": func(t *testing.T, tr *tracker, kernel map[query]report) {
			kernel[query{1, groupLink}] = linkReport(1, "net.mtu", "9000")
			kernel[query{1, groupRings}] = groupReport(groupRings, 1, "net.ring.rx", "64")
			tr.ask(1, everyGroup) // an answer may be lost too
			tr.next(socketLink)
			tr.next(socketEthtool)
			tr.overrun(socketLink)
			tr.overrun(socketEthtool)
			answer(t, tr, kernel)
			expect(t, tr, "net.mtu", "net.ring.rx")
		},
		"a refused query leaves what is known": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.ask(1, everyGroup)
			answer(t, tr, nil)
			expect(t, tr)
		},
		"a forced speed is asked for when the link comes": func(t *testing.T, tr *tracker, kernel map[query]report) {
			tr.notified(groupReport(groupLinkModes, 1, "net.link.autoneg", "off"))
			expect(t, tr, "net.link.autoneg")
			kernel[query{1, groupLinkModes}] = groupReport(groupLinkModes, 1, "net.link.autoneg", "off", "net.link.speed", "100")
			up := linkReport(1)
			up.carrier = true
			tr.notified(up)
			answer(t, tr, kernel)
			expect(t, tr, "net.link.speed")
		},
		"a link that comes with negotiation asks the driver nothing": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(groupReport(groupLinkModes, 1, "net.link.autoneg", "on"))
			up := linkReport(1)
			up.carrier = true
			tr.notified(up)
			if !tr.settled() {
				t.Error("the driver is asked")
			}
		},
		"rules that went with their feature are missed": func(t *testing.T, tr *tracker, kernel map[query]report) {
			kernel[query{1, groupRules}] = groupReport(groupRules, 1, "net.ntuple.7", httpsText)
			tr.look(unannounced)
			answer(t, tr, kernel)
			expect(t, tr, "net.ntuple.7")
			kernel[query{1, groupRules}] = groupReport(groupRules, 1)
			tr.notified(groupReport(groupFeatures, 1, "net.feature.rx-all", "off", "net.feature.rx-ntuple-filter", "off"))
			answer(t, tr, kernel)
			expect(t, tr, "net.feature.rx-ntuple-filter", "net.ntuple.7")
		},
		"for another feature no driver is asked for rules": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.notified(groupReport(groupFeatures, 1, "net.feature.rx-all", "on"))
			if !tr.settled() {
				t.Error("the driver is asked")
			}
		},
		"what happens on pause is not reported": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.paused = true
			tr.notified(linkReport(1, "net.mtu", "9000"))
			expect(t, tr)
			tr.rebase()
			if got := tr.known()["nic1"]["net.mtu"]; got != "9000" {
				t.Errorf("after the pause the MTU is %q", got)
			}
			tr.paused = false
			expect(t, tr)
			tr.notified(linkReport(1, "net.mtu", "1500"))
			expect(t, tr, "net.mtu")
		},
		"what the kernel itself remembers is asked of no driver": func(t *testing.T, tr *tracker, kernel map[query]report) {
			kernel[query{1, groupFeatures}] = groupReport(groupFeatures, 1, "net.feature.rx-all", "on")
			kernel[query{1, groupRings}] = groupReport(groupRings, 1, "net.ring.rx", "65535")
			tr.paused = true
			tr.askAll(remembered)
			answer(t, tr, kernel)
			got := tr.known()["nic1"]
			if got["net.feature.rx-all"] != "on" || got["net.ring.rx"] != "256" {
				t.Errorf("got %v", got)
			}
		},
		"of an interface nothing is asked that has not the scope in which it is tracked": func(t *testing.T, tr *tracker, kernel map[query]report) {
			tr.add(2, "proxy", Proxy)
			tr.askAll(remembered)
			tr.look(unannounced)
			tr.overrun(socketEthtool)
			for socket := range numSockets {
				for q, ok := tr.next(socket); ok; q, ok = tr.next(socket) {
					if q.index == 2 && q.group != groupLink {
						t.Errorf("asked for %s", q.group)
					}
					tr.answered(socket, nil)
				}
			}
		},
		"what an interface had when it went is known until it is forgotten": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.paused = true
			tr.notified(groupReport(groupRings, 1, "net.ring.rx", "64"))
			gone := linkReport(1)
			gone.gone = true
			tr.notified(gone)
			if got := tr.known()["nic1"]["net.ring.rx"]; got != "64" {
				t.Errorf("the ring is %q", got)
			}
			tr.rebase()
			tr.paused = false
			expect(t, tr)
			if got, ok := tr.known()["nic1"]; ok {
				t.Errorf("after the pause it has %v", got)
			}
		},
		"of two interfaces of one name the one that is there is known": func(t *testing.T, tr *tracker, kernel map[query]report) {
			gone := linkReport(1)
			gone.gone = true
			tr.notified(gone)
			kernel[query{2, groupLink}] = linkReport(2, "net.mtu", "9000")
			tr.add(2, "nic1", Both)
			tr.notified(report{index: 2, group: groupLink, name: "nic1", values: Values{"net.mtu": "9000"}})
			for range 20 { // a map has no order
				if got := tr.known()["nic1"]["net.mtu"]; got != "9000" {
					t.Fatalf("the MTU is %q", got)
				}
			}
		},
		"an interface that goes is reported once, and forgotten": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.ask(1, everyGroup)
			gone := linkReport(1)
			gone.gone = true
			tr.notified(gone)
			c, ok := tr.change()
			if !ok || !c.Gone || c.Interface != "nic1" {
				t.Fatalf("%+v, %v", c, ok)
			}
			tr.delivered(c)
			expect(t, tr)
			answer(t, tr, nil)
			if !tr.settled() {
				t.Error("asks for an interface that is gone")
			}
		},
		"a renamed interface is reported by its new name": func(t *testing.T, tr *tracker, _ map[query]report) {
			r := linkReport(1, "net.mtu", "9000")
			r.name = "wan"
			tr.notified(r)
			if c, _ := tr.change(); c.Interface != "wan" {
				t.Errorf("reported as %q", c.Interface)
			}
		},
		"an interface that is removed is not asked for": func(t *testing.T, tr *tracker, _ map[query]report) {
			tr.ask(1, everyGroup)
			tr.remove(1)
			answer(t, tr, nil)
			if len(tr.ifaces) != 0 || !tr.settled() {
				t.Error("still there")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr, kernel := tracking(t)
			f(t, tr, kernel)
		})
	}
}

func TestFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"lost notifications":   {&netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", unix.ENOBUFS)}, "overrun"},
		"a refused query":      {&netlink.OpError{Op: "receive", Err: unix.EOPNOTSUPP}, "refused"},
		"a closed socket":      {&netlink.OpError{Op: "receive", Err: os.ErrClosed}, "failed"},
		"a closed socket, too": {&netlink.OpError{Op: "receive", Err: net.ErrClosed}, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			in := failureOf(socketLink, tt.err)
			got := map[string]bool{"overrun": in.overrun, "refused": in.refused != nil, "failed": in.failed != nil}
			want := map[string]bool{"overrun": false, "refused": false, "failed": false}
			want[tt.want] = true
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestUnreadableAnswerIsRefused(t *testing.T) {
	if in := inputOf(socketLink, report{}, false, false, os.ErrInvalid); in.refused == nil {
		t.Error("the query would wait for ever")
	}
	if in := inputOf(socketLink, report{}, true, false, os.ErrInvalid); in.refused != nil || in.ok {
		t.Errorf("a notification that cannot be read is taken for %+v", in)
	}
}

func TestSourcesAndPhasesHaveNames(t *testing.T) {
	for _, o := range Operations() {
		for _, s := range []fmt.Stringer{o.Seen, o.Phase, o.Scope} {
			if name := s.String(); name == "" || name[len(name)-1] == ')' {
				t.Errorf("%s: %q", o.Key, name)
			}
		}
	}
}
