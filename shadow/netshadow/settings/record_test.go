// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// negotiated is what a copper NIC reports that negotiates all.
var negotiated = Values{
	"net.mtu": "1500", "net.mac": "52:54:00:00:00:01", "net.flag.promisc": "off", "net.txqueuelen": "1000",
	"net.feature.rx-all": "off", "net.feature.tx-tcp-segmentation": "on",
	"net.ring.rx": "256", "net.ring.tx": "256",
	"net.pause.autoneg": "on",
	"net.link.autoneg":  "on", "net.link.advertise": "10baseT/Half,10baseT/Full,100baseT/Full",
}

// forced is what a virtual NIC reports that negotiates nothing.
var forced = Values{
	"net.mtu": "1500", "net.feature.tx-tcp-segmentation": "off", "net.link.autoneg": "off",
}

// with returns v with changes; an empty value deletes a key.
func with(v Values, changes ...string) Values {
	v = v.clone()
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(v, changes[i])
			continue
		}
		v[changes[i]] = changes[i+1]
	}
	return v
}

func ops(t *testing.T, lines ...string) []oplog.Op {
	t.Helper()
	var list []oplog.Op
	for _, l := range lines {
		op, err := oplog.Parse(l)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, op)
	}
	return list
}

func lines(ops []oplog.Op) []string {
	var l []string
	for _, op := range ops {
		l = append(l, op.String())
	}
	return l
}

func TestOps(t *testing.T) {
	for name, tt := range map[string]struct {
		baseline, now Values
		want          []string
	}{
		"the driver's defaults are no operations": {negotiated, negotiated, nil},
		"what differs from the default is an operation, in the order of a replay": {
			negotiated,
			with(negotiated, "net.feature.rx-all", "on", "net.ring.rx", "512", "net.mtu", "9000", "net.mac", "52:54:00:00:00:02"),
			[]string{"net.mac=52:54:00:00:00:02", "net.mtu=9000", "net.ring.rx=512", "net.feature.rx-all=on"},
		},
		"a forced link brings autoneg=off along, and offers nothing": {
			negotiated,
			with(negotiated, "net.link.autoneg", "off", "net.link.speed", "100", "net.link.duplex", "full", "net.link.advertise", ""),
			[]string{"net.link.autoneg=off", "net.link.speed=100", "net.link.duplex=full"},
		},
		"a forced link is told as forced where that is the default": {
			forced,
			with(forced, "net.link.speed", "1000", "net.link.duplex", "full"),
			[]string{"net.link.autoneg=off", "net.link.speed=1000", "net.link.duplex=full"},
		},
		"forced pause": {
			negotiated,
			with(negotiated, "net.pause.autoneg", "off", "net.pause.rx", "on", "net.pause.tx", "off"),
			[]string{"net.pause.autoneg=off", "net.pause.rx=on", "net.pause.tx=off"},
		},
		"fewer link modes": {
			negotiated,
			with(negotiated, "net.link.advertise", "100baseT/Full"),
			[]string{"net.link.advertise=100baseT/Full"},
		},
		"a feature that the driver began to offer has its default": {
			negotiated,
			with(negotiated, "net.feature.rx-fcs", "on"),
			nil,
		},
		"a setting that cannot be read now is no operation": {
			negotiated,
			with(negotiated, "net.ring.rx", ""),
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, lines(Ops(tt.baseline, tt.now))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestRecorder(t *testing.T) {
	type step struct {
		rebase Values // if set, instead of now
		now    Values
		want   []string
	}
	for name, tt := range map[string]struct {
		baseline Values
		carried  []string
		steps    []step
	}{
		"a setting that goes back to its default is forgotten": {
			negotiated, nil,
			[]step{
				{now: with(negotiated, "net.mtu", "9000"), want: []string{"net.mtu=9000"}},
				{now: with(negotiated, "net.mtu", "9000")},
				{now: negotiated, want: []string{"net.mtu-="}},
			},
		},
		"a carried setting stays an operation at the new driver's default": {
			negotiated, []string{"net.feature.tx-tcp-segmentation=off"},
			[]step{
				{rebase: with(negotiated, "net.feature.tx-tcp-segmentation", "off")},
				{now: negotiated, want: []string{"net.feature.tx-tcp-segmentation=on"}},
			},
		},
		"a replayed setting is not recorded again": {
			negotiated, []string{"net.mtu=9000"},
			[]step{
				{rebase: with(negotiated, "net.mtu", "9000")},
				{now: with(negotiated, "net.mtu", "9000", "net.flag.promisc", "on"), want: []string{"net.flag.promisc=on"}},
			},
		},
		"a deferred setting stays until somebody changes it": {
			negotiated, []string{"net.mtu=9000"},
			[]step{
				{rebase: negotiated},
				{now: negotiated},
				{now: with(negotiated, "net.mtu", "1400"), want: []string{"net.mtu=1400"}},
				{now: negotiated, want: []string{"net.mtu=1500"}},
			},
		},
		"what we did ourselves is not recorded": {
			negotiated, nil,
			[]step{
				{rebase: with(negotiated, "net.feature.tx-tcp-segmentation", "off")},
				{now: with(negotiated, "net.feature.tx-tcp-segmentation", "off")},
			},
		},
		"proxy and device are observed separately": {
			negotiated, nil,
			[]step{
				{now: with(negotiated, "net.mtu", "9000").In(Proxy), want: []string{"net.mtu=9000"}},
				{now: with(negotiated, "net.mtu", "9000", "net.ring.rx", "64").In(Device), want: []string{"net.ring.rx=64"}},
			},
		},
		"a forced speed is told when the link is up": {
			negotiated, nil,
			[]step{
				{now: with(negotiated, "net.link.autoneg", "off", "net.link.advertise", ""),
					want: []string{"net.link.autoneg=off", "net.link.advertise-="}},
				{now: with(negotiated, "net.link.autoneg", "off", "net.link.advertise", "", "net.link.speed", "100", "net.link.duplex", "full"),
					want: []string{"net.link.speed=100", "net.link.duplex=full"}},
				{now: with(negotiated, "net.link.autoneg", "off", "net.link.advertise", "")},
				{now: with(negotiated, "net.link.autoneg", "off", "net.link.advertise", "", "net.link.speed", "100", "net.link.duplex", "full")},
			},
		},
		"what was forced is forgotten with the return to negotiation": {
			negotiated, nil,
			[]step{
				{now: with(negotiated, "net.link.autoneg", "off", "net.link.advertise", "", "net.link.speed", "100", "net.link.duplex", "full"),
					want: []string{"net.link.autoneg=off", "net.link.speed=100", "net.link.duplex=full", "net.link.advertise-="}},
				{now: negotiated,
					want: []string{"net.link.autoneg-=", "net.link.speed-=", "net.link.duplex-=", "net.link.advertise-="}},
				{now: with(negotiated, "net.link.autoneg", "off", "net.link.advertise", "", "net.link.speed", "100", "net.link.duplex", "full"),
					want: []string{"net.link.autoneg=off", "net.link.speed=100", "net.link.duplex=full", "net.link.advertise-="}},
			},
		},
		"a setting that the table does not know is not recorded": {
			negotiated, nil,
			[]step{{now: with(negotiated, "net.colour", "blue")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRecorder(tt.baseline, ops(t, tt.carried...))
			for i, s := range tt.steps {
				// Each step runs on what an agent's successor reads back.
				b, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				r = new(Recorder)
				if err := json.Unmarshal(b, r); err != nil {
					t.Fatal(err)
				}
				if s.rebase != nil {
					r.Rebase(s.rebase)
					continue
				}
				if diff := cmp.Diff(s.want, lines(r.Observe(s.now))); diff != "" {
					t.Errorf("step %d (-want +got)\n%s", i, diff)
				}
			}
		})
	}
}

func TestScopes(t *testing.T) {
	all := ops(t, "net.mtu=9000", "net.ring.rx=512", "net.feature.rx-all=on", "net.colour=blue")
	for name, tt := range map[string]struct {
		scope Scope
		want  []string
	}{
		"MTU is the proxy's":                {Proxy, []string{"net.mtu=9000", "net.colour=blue"}},
		"rings and features are the device": {Device, []string{"net.ring.rx=512", "net.feature.rx-all=on", "net.colour=blue"}},
		"one interface has both":            {Both, []string{"net.mtu=9000", "net.ring.rx=512", "net.feature.rx-all=on", "net.colour=blue"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, lines(In(all, tt.scope))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// htb is an interface's traffic control as somebody set it up.
var htb = Values{
	"net.qdisc.*": "", "net.class.*": "", "net.filter.*": "",
	"net.qdisc.root": "htb,handle=1:,options=00", "net.class.1:1": "htb,parent=root,options=01",
	"net.filter.1:/0/1/0800/800": "u32,options=02", "net.qdisc.ingress": "clsact,handle=ffff:",
	"net.filter.ffff:fff2/0/1/0800/1": "flower,options=03",
}

// TestLists: of queueing disciplines, classes, filters and rules, what is not listed is
// not there.
func TestLists(t *testing.T) {
	empty := Values{"net.qdisc.*": "", "net.class.*": "", "net.filter.*": ""}
	carried := Ops(Values{}, htb)
	for name, tt := range map[string]struct {
		carried  []oplog.Op
		seen     Values // after the replay
		now      Values
		edits    []string
		baseline Values
	}{
		"what somebody makes is an operation, whatever the driver had": {
			seen: empty, now: with(empty, "net.qdisc.root", "fq,handle=1:"),
			edits: []string{"net.qdisc.root=fq,handle=1:"},
		},
		"what somebody takes away is forgotten": {
			seen: htb, now: with(htb, "net.filter.1:/0/1/0800/800", ""),
			edits: []string{"net.filter.1:/0/1/0800/800-="},
		},
		"carried or not": {
			carried: carried, seen: htb, now: with(htb, "net.class.1:1", ""),
			edits: []string{"net.class.1:1-="},
		},
		"what this device could not have is not taken away": {
			carried: carried, seen: empty, now: empty,
		},
		"values that have no list say nothing": {
			carried: carried, seen: htb, now: Values{"net.mtu": "1500"},
		},
		"a new root takes the place of one that this device could not have, with all below it": {
			carried: carried, seen: with(empty, "net.qdisc.ingress", htb["net.qdisc.ingress"]),
			now:   with(empty, "net.qdisc.root", "fq,handle=7:", "net.qdisc.ingress", htb["net.qdisc.ingress"]),
			edits: []string{"net.qdisc.root=fq,handle=7:", "net.class.1:1-=", "net.filter.1:/0/1/0800/800-="},
		},
		"a new ingress that of the old one's filters": {
			carried: carried, seen: empty, now: with(empty, "net.qdisc.ingress", "ingress,handle=ffff:"),
			edits: []string{"net.qdisc.ingress=ingress,handle=ffff:", "net.filter.ffff:fff2/0/1/0800/1-="},
		},
		"a rule that the driver came with is its own": {
			baseline: Values{"net.ntuple.*": "", "net.ntuple.3": "flow=1"}, seen: Values{},
			now: Values{"net.ntuple.*": "", "net.ntuple.3": "flow=1", "net.ntuple.4": "flow=2"}, edits: []string{"net.ntuple.4=flow=2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRecorder(tt.baseline, tt.carried)
			r.Rebase(tt.seen)
			if diff := cmp.Diff(tt.edits, lines(r.Observe(tt.now))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if again := r.Observe(tt.now); len(again) > 0 {
				t.Errorf("seen again it is %v", again)
			}
		})
	}
}

// TestListOfAnotherDevice: a successor finds a device that its predecessor never saw.
func TestListOfAnotherDevice(t *testing.T) {
	root := oplog.Set("net.qdisc.root", htb["net.qdisc.root"])
	last := with(htb, "net.mtu", "1500")
	r := NewRecorder(last, Ops(Values{}, last))
	r.Lacks(root)
	r.Lacks(oplog.Set("net.mtu", "1500")) // no list: what it is says what it is to be
	want := []string{"net.mtu=1400", "net.class.1:1-="}
	now := with(htb, "net.qdisc.root", "", "net.class.1:1", "", "net.mtu", "1400")
	if diff := cmp.Diff(want, lines(r.Observe(now))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOperationsTable(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Operations() {
		if seen[o.Key] {
			t.Errorf("%s is listed twice", o.Key)
		}
		seen[o.Key] = true
		key := o.Key
		if family, ok := strings.CutSuffix(key, "*"); ok {
			key = family + "name-1"
		}
		if err := (oplog.Op{Key: key, Value: "1"}).Validate(); err != nil {
			t.Error(err)
		}
		if found, ok := lookup(key); !ok || found.Key != o.Key {
			t.Errorf("%s is not found by %s", o.Key, key)
		}
		if want := sourcesOf(o.group); !slices.Contains(want, o.Seen) {
			t.Errorf("%s of group %q is seen by %v", o.Key, o.group, o.Seen)
		}
		if o.Scope != Proxy && o.Scope != Device {
			t.Errorf("%s has scope %v; every setting belongs to one interface", o.Key, o.Scope)
		}
	}
	for _, f := range flagKeys {
		if !seen[f.key] {
			t.Errorf("%s is read but not in the table", f.key)
		}
	}
	for key := range linkAttrs {
		if !seen[key] {
			t.Errorf("%s is read but not in the table", key)
		}
	}
}

// sourcesOf returns what may tell of a change in a group. The kernel remembers
// settings of links that it does not announce.
func sourcesOf(g group) []Source {
	switch {
	case g == groupLink:
		return []Source{Link, Memory}
	case g == groupTraffic:
		return []Source{Traffic}
	case slices.Contains(unannounced, g):
		return []Source{Call}
	case slices.Contains(remembered, g) && socketOf(g) == socketCalls:
		return []Source{Memory}
	}
	return []Source{Monitor}
}
