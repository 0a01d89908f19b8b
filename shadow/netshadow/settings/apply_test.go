// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// fakeNIC is a kernel with one interface, "nic0".
type fakeNIC struct {
	values    [numGroups]Values
	missing   map[group]bool    // groups that the driver does not have
	limits    map[string]uint32 // of rings
	supported []string          // link modes
	refuse    map[string]error  // error of any request with the key
	ignore    map[string]bool   // keys that it takes and does not do
	round     map[string]string // value that a key becomes
	fail      error             // of every request
	gone      bool              // the interface goes with the next request
	requests  []string          // sets, operations joined by a space
}

func (f *fakeNIC) link(name string) (report, error) {
	if f.gone || name != "nic0" {
		return report{}, unix.ENODEV
	}
	return report{index: 7, group: groupLink, values: f.values[groupLink].clone(), minMTU: 68, maxMTU: 1500}, nil
}

func (f *fakeNIC) get(g group, index int) (report, error) {
	switch {
	case f.fail != nil:
		return report{}, f.fail
	case f.missing[g]:
		return report{}, unix.EOPNOTSUPP
	case f.gone || index != 7:
		return report{}, unix.ENODEV
	}
	return report{index: 7, group: g, values: f.values[g].clone(), limits: f.limits, supported: f.supported}, nil
}

func (f *fakeNIC) set(g group, index int, list []oplog.Op, cur report) error {
	f.requests = append(f.requests, strings.Join(lines(list), " "))
	for _, op := range list {
		if err := f.refuse[op.Key]; err != nil {
			return err
		}
	}
	for _, op := range list {
		switch {
		case f.ignore[op.Key]:
		case f.round[op.Key] != "":
			f.values[g][op.Key] = f.round[op.Key]
		default:
			f.values[g][op.Key] = op.Value
		}
	}
	return nil
}

func newFakeNIC() *fakeNIC {
	f := &fakeNIC{supported: []string{"10baseT/Full", "100baseT/Full"}}
	for g := range f.values {
		f.values[g] = Values{}
	}
	for key, value := range negotiated {
		o, _ := lookup(key)
		f.values[o.group][key] = value
	}
	return f
}

func client(f *fakeNIC) *Client { return &Client{k: f, log: slog.New(slog.DiscardHandler)} }

func TestApply(t *testing.T) {
	for name, tt := range map[string]struct {
		nic      func(*fakeNIC)
		ops      []string
		requests []string
		deferred []string
	}{
		"what is as it should be is not touched": {
			ops: []string{"net.mtu=1500", "net.ring.rx=256", "net.feature.rx-all=off", "net.link.autoneg=on"},
		},
		"groups in the order of the table, the operations of one at once": {
			ops: []string{"net.feature.rx-all=on", "net.feature.tx-tcp-segmentation=off", "net.ring.tx=64", "net.ring.rx=64", "net.mtu=1400", "net.mac=52:54:00:00:00:09"},
			requests: []string{
				"net.mac=52:54:00:00:00:09", "net.mtu=1400",
				"net.feature.rx-all=on net.feature.tx-tcp-segmentation=off",
				"net.ring.rx=64 net.ring.tx=64",
			},
		},
		"one refused operation does not keep out the others of its group": {
			nic:      func(f *fakeNIC) { f.refuse = map[string]error{"net.ring.rx": unix.ERANGE} },
			ops:      []string{"net.ring.rx=4096", "net.ring.tx=64"},
			requests: []string{"net.ring.rx=4096 net.ring.tx=64", "net.ring.rx=4096", "net.ring.tx=64"},
			deferred: []string{"net.ring.rx=4096: numerical result out of range"},
		},
		"rules in the order of the device, each by itself": {
			ops: []string{"net.ntuple.10=flow=1,to=0,value=,mask=", "net.ntuple.9=flow=2,to=0,value=,mask=", "net.ntuple.100=flow=3,to=0,value=,mask="},
			requests: []string{
				"net.ntuple.9=flow=2,to=0,value=,mask=", "net.ntuple.10=flow=1,to=0,value=,mask=", "net.ntuple.100=flow=3,to=0,value=,mask=",
			},
		},
		"link modes stand and fall together": {
			nic:      func(f *fakeNIC) { f.refuse = map[string]error{keyLinkSpeed: unix.EINVAL} },
			ops:      []string{"net.link.speed=1000", "net.link.duplex=full", "net.link.autoneg=off"},
			requests: []string{"net.link.autoneg=off net.link.speed=1000 net.link.duplex=full"},
			deferred: []string{
				"net.link.autoneg=off: the driver does not take this value",
				"net.link.speed=1000: the driver does not take this value",
				"net.link.duplex=full: the driver does not take this value",
			},
		},
		"the part of a list of link modes that the device has is advertised, and the list deferred": {
			nic:      func(f *fakeNIC) { f.round = map[string]string{keyLinkModes: "100baseT/Full"} },
			ops:      []string{"net.link.advertise=100baseT/Full,2500baseT/Full"},
			requests: []string{"net.link.advertise=100baseT/Full,2500baseT/Full"},
			deferred: []string{"net.link.advertise=100baseT/Full,2500baseT/Full: the device has no 2500baseT/Full"},
		},
		"a group that the driver does not have": {
			nic:      func(f *fakeNIC) { f.missing = map[group]bool{groupRings: true} },
			ops:      []string{"net.ring.rx=64", "net.mtu=1400"},
			requests: []string{"net.mtu=1400"},
			deferred: []string{"net.ring.rx=64: the driver has no such setting"},
		},
		"a feature that the driver does not have is not asked for": {
			ops:      []string{"net.feature.rx-gro-hw=on", "net.feature.rx-all=on"},
			requests: []string{"net.feature.rx-all=on"},
			deferred: []string{"net.feature.rx-gro-hw=on: the driver cannot change this feature"},
		},
		"a size that the driver rounds is applied": {
			nic:      func(f *fakeNIC) { f.round = map[string]string{"net.ring.rx": "512"} },
			ops:      []string{"net.ring.rx=500"},
			requests: []string{"net.ring.rx=500"},
		},
		"a setting that the driver takes and does not do": {
			nic:      func(f *fakeNIC) { f.ignore = map[string]bool{"net.feature.rx-all": true} },
			ops:      []string{"net.feature.rx-all=on"},
			requests: []string{"net.feature.rx-all=on"},
			deferred: []string{"net.feature.rx-all=on: the driver keeps off"},
		},
		"a forced speed that the driver does not tell without a link is applied": {
			nic:      func(f *fakeNIC) { f.ignore = map[string]bool{keyLinkSpeed: true} },
			ops:      []string{"net.link.autoneg=off", "net.link.speed=100"},
			requests: []string{"net.link.autoneg=off net.link.speed=100"},
		},
		"an address that the host fixed": {
			nic:      func(f *fakeNIC) { f.refuse = map[string]error{keyMAC: unix.EPERM} },
			ops:      []string{"net.mac=52:54:00:00:00:09"},
			requests: []string{"net.mac=52:54:00:00:00:09"},
			deferred: []string{"net.mac=52:54:00:00:00:09: not permitted"},
		},
		"a malformed value and an unknown key are deferred": {
			ops: []string{"net.colour=blue", "net.mtu=big", "net.flag.promisc=maybe", "net.feature.=on", "net.mac=1:2", "net.link.duplex=both"},
			deferred: []string{
				`net.mac=1:2: malformed: "1:2" is not an Ethernet address`,
				`net.mtu=big: malformed: "big" is not a number of 32 bits`,
				`net.flag.promisc=maybe: malformed: "maybe" is neither on nor off`,
				`net.link.duplex=both: malformed: "both" is neither half nor full`,
				"net.colour=blue: unknown operation",
				"net.feature.=on: unknown operation",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeNIC()
			if tt.nic != nil {
				tt.nic(f)
			}
			got, err := client(f).Apply(t.Context(), "nic0", ops(t, tt.ops...), BeforeOpen)
			if err != nil {
				t.Fatal(err)
			}
			var deferred []string
			for _, d := range got {
				deferred = append(deferred, d.String())
			}
			if diff := cmp.Diff(tt.deferred, deferred); diff != "" {
				t.Errorf("deferred (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tt.requests, f.requests); diff != "" {
				t.Errorf("requests (-want +got)\n%s", diff)
			}
		})
	}
}

func TestApplyTriesAgainAfterOpen(t *testing.T) {
	f := newFakeNIC()
	f.refuse = map[string]error{"net.ring.rx": unix.EBUSY}
	list := ops(t, "net.ring.rx=64", "net.mtu=1400")
	deferred, err := client(f).Apply(t.Context(), "nic0", list, BeforeOpen)
	if err != nil || len(deferred) != 1 {
		t.Fatalf("before open: %v, %v; want one deferred", deferred, err)
	}
	f.refuse, f.requests = nil, nil
	deferred, err = client(f).Apply(t.Context(), "nic0", list, AfterOpen)
	if err != nil || len(deferred) != 0 {
		t.Fatalf("after open: %v, %v", deferred, err)
	}
	if diff := cmp.Diff([]string{"net.ring.rx=64"}, f.requests); diff != "" {
		t.Errorf("requests (-want +got)\n%s", diff)
	}
}

func TestApplyDoesNotForceTwice(t *testing.T) {
	f := newFakeNIC()
	f.ignore = map[string]bool{keyLinkSpeed: true, keyLinkDuplex: true} // no link, not told
	list := ops(t, "net.link.autoneg=off", "net.link.speed=100", "net.link.duplex=full")
	for _, phase := range []Phase{BeforeOpen, AfterOpen} {
		if deferred, err := client(f).Apply(t.Context(), "nic0", list, phase); err != nil || len(deferred) != 0 {
			t.Fatalf("%v: %v, %v", phase, deferred, err)
		}
	}
	if diff := cmp.Diff([]string{"net.link.autoneg=off net.link.speed=100 net.link.duplex=full"}, f.requests); diff != "" {
		t.Errorf("requests (-want +got)\n%s", diff)
	}
}

func TestApplyErrors(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx    context.Context
		ifname string
		nic    func(*fakeNIC)
		want   error
	}{
		"no such interface":                {t.Context(), "nic1", func(*fakeNIC) {}, ErrNoInterface},
		"a name that no interface has":     {t.Context(), "a name that is too long", func(*fakeNIC) {}, ErrNoInterface},
		"an answer that cannot be read":    {t.Context(), "nic0", func(f *fakeNIC) { f.fail = fs.ErrInvalid }, fs.ErrInvalid},
		"a context that is over":           {canceled, "nic0", func(*fakeNIC) {}, context.Canceled},
		"the interface goes in the middle": {t.Context(), "nic0", func(f *fakeNIC) { f.refuse = map[string]error{keyMTU: goes{f}} }, ErrNoInterface},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeNIC()
			tt.nic(f)
			_, err := client(f).Apply(tt.ctx, tt.ifname, ops(t, "net.mtu=1400"), BeforeOpen)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// goes is the error of an interface that is unregistered meanwhile.
type goes struct{ f *fakeNIC }

func (g goes) Error() string { return "gone" }
func (g goes) Unwrap() error {
	g.f.gone = true
	return unix.ENODEV
}

func TestSnapshot(t *testing.T) {
	f := newFakeNIC()
	f.missing = map[group]bool{groupPause: true}
	got, err := client(f).Snapshot(t.Context(), "nic0")
	if err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(negotiated)
	delete(want, keyPauseAuto)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCanMTU(t *testing.T) {
	for name, tt := range map[string]struct {
		mtu  int
		want bool
	}{
		"the largest":            {1500, true},
		"over the largest":       {1501, false},
		"the smallest":           {68, true},
		"under the smallest":     {67, false},
		"none":                   {0, false},
		"more than 32 bits hold": {1<<32 + 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, largest, err := client(newFakeNIC()).CanMTU(t.Context(), "nic0", tt.mtu)
			if err != nil || got != tt.want || largest != 1500 {
				t.Errorf("CanMTU(%d) = %v, %d, %v", tt.mtu, got, largest, err)
			}
		})
	}
}

func TestSortOps(t *testing.T) {
	list := ops(t, "net.zzz=1", "net.link.autoneg=off", "net.feature.b=on", "net.feature.a=on", "net.ring.tx=1", "net.mtu=1", "net.mac=00:00:00:00:00:01")
	sortOps(list)
	want := []string{"net.mac=00:00:00:00:00:01", "net.mtu=1", "net.ring.tx=1", "net.feature.a=on", "net.feature.b=on", "net.link.autoneg=off", "net.zzz=1"}
	if diff := cmp.Diff(want, lines(list)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !slices.IsSortedFunc(list, func(a, b oplog.Op) int { return rank(a.Key) - rank(b.Key) }) {
		t.Error("ranks are not ascending")
	}
}
