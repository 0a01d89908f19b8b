// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stack

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// attrs are those of an interface that is up, with a MAC of its index.
func attrs(index, parent, master int) netlink.LinkAttrs {
	return netlink.LinkAttrs{
		Index: index, ParentIndex: parent, MasterIndex: master, NetNsID: -1,
		Name: fmt.Sprint(index), Flags: net.FlagUp, HardwareAddr: mac(index),
	}
}

func mac(last int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(last)} }

func TestAbove(t *testing.T) {
	elsewhere := attrs(14, 2, 0)
	elsewhere.NetNsID = 0
	links := []netlink.Link{
		&netlink.Vlan{LinkAttrs: attrs(9, 8, 0)}, // on the macvlan, listed before it
		&netlink.Device{LinkAttrs: attrs(1, 0, 2)},
		&netlink.Bond{LinkAttrs: attrs(2, 0, 6)},
		&netlink.Vlan{LinkAttrs: attrs(3, 2, 0)},
		&netlink.Veth{LinkAttrs: attrs(4, 2, 0)}, // its peer happens to have that index elsewhere
		&netlink.Gretun{LinkAttrs: attrs(5, 2, 0)},
		&netlink.Bridge{LinkAttrs: attrs(6, 0, 0)},
		&netlink.Veth{LinkAttrs: attrs(7, 0, 6)}, // another port of the bridge
		&netlink.Macvlan{LinkAttrs: attrs(8, 6, 0)},
		&netlink.Vlan{LinkAttrs: attrs(10, 7, 0)},
		&netlink.Vrf{LinkAttrs: attrs(11, 0, 0)},
		&netlink.Vlan{LinkAttrs: attrs(12, 2, 11)},
		&netlink.IPVlan{LinkAttrs: attrs(13, 12, 0)},
		&netlink.Macvlan{LinkAttrs: elsewhere}, // on an interface of that index elsewhere
	}
	var got []int
	for _, l := range (tables{links: links}).above(2) {
		got = append(got, l.Attrs().Index)
	}
	if d := cmp.Diff([]int{2, 3, 6, 12, 8, 13, 9}, got); d != "" {
		t.Error(d)
	}
	if got := (tables{links: links}).above(99); len(got) != 0 {
		t.Errorf("above an interface that is gone: %v", got)
	}
}

// The proxy has index 2 in what follows.
const proxy = 2

// receives is the kernel's note that an interface receives for a MAC.
func receives(index, last int) netlink.Neigh {
	return netlink.Neigh{LinkIndex: index, HardwareAddr: mac(last), Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT}
}

// learned is what a bridge has learned on a port.
func learned(bridge, port, last, vid int) netlink.Neigh {
	return netlink.Neigh{LinkIndex: port, MasterIndex: bridge, HardwareAddr: mac(last), Vlan: vid, State: unix.NUD_REACHABLE}
}

func TestOn(t *testing.T) {
	bond := func(bridge int) netlink.Link { return &netlink.Bond{LinkAttrs: attrs(proxy, 0, bridge)} }
	vlan := func(index, parent, id int) netlink.Link {
		return &netlink.Vlan{LinkAttrs: attrs(index, parent, 0), VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	}
	on := true
	filtering := func(index int) netlink.Link {
		return &netlink.Bridge{LinkAttrs: attrs(index, 0, 0), VlanFiltering: &on}
	}
	down := attrs(3, proxy, 0)
	down.Flags = 0
	members := func(infos ...nl.BridgeVlanInfo) (out []*nl.BridgeVlanInfo) {
		for _, i := range infos {
			out = append(out, &i)
		}
		return out
	}
	const pvid, untagged = nl.BRIDGE_VLAN_INFO_PVID, nl.BRIDGE_VLAN_INFO_UNTAGGED
	for _, tt := range []struct {
		name       string
		t          tables
		interfaces []string
		behind     []string
	}{
		{
			name:       "an interface alone is its own stack",
			t:          tables{links: []netlink.Link{bond(0)}},
			interfaces: []string{"2"},
		},
		{
			name: "an interface that is down sends nothing",
			t:    tables{links: []netlink.Link{bond(0), &netlink.Macvlan{LinkAttrs: down}}}, interfaces: []string{"2"},
		},
		{
			name:       "VLANs in VLANs have both tags, the outer first",
			t:          tables{links: []netlink.Link{bond(0), vlan(4, 3, 7), vlan(3, proxy, 42)}},
			interfaces: []string{"2", "3 42", "4 42 7"},
		},
		{
			name: "a MAC that the interface receives for, and nobody here has, is behind it",
			t: tables{
				links: []netlink.Link{bond(0), &netlink.Macvlan{LinkAttrs: attrs(3, proxy, 0)}},
				fdb:   []netlink.Neigh{receives(proxy, 3), receives(proxy, 50)},
			},
			interfaces: []string{"2", "3"},
			behind:     []string{"50"},
		},
		{
			name: "what is on a VLAN is behind its tag alone, though the interface below receives for it too",
			t: tables{
				links: []netlink.Link{bond(0), vlan(3, proxy, 42)},
				fdb:   []netlink.Neigh{receives(proxy, 50), receives(3, 50)},
			},
			interfaces: []string{"2", "3 42"},
			behind:     []string{"50 42"},
		},
		{
			name: "groups are nobody's place",
			t: tables{
				links: []netlink.Link{bond(0)},
				fdb:   []netlink.Neigh{{LinkIndex: proxy, HardwareAddr: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Flags: unix.NTF_SELF}},
			},
			interfaces: []string{"2"},
		},
		{
			name: "what a bridge has learned of its other ports is behind it, what it knows of the network or as its own is not",
			t: tables{
				links: []netlink.Link{bond(6), &netlink.Bridge{LinkAttrs: attrs(6, 0, 0)}, &netlink.Veth{LinkAttrs: attrs(7, 0, 6)}},
				fdb: []netlink.Neigh{
					learned(6, 7, 50, 0), learned(6, proxy, 60, 0), learned(9, 10, 70, 0),
					{LinkIndex: 7, MasterIndex: 6, HardwareAddr: mac(7), State: unix.NUD_PERMANENT},
				},
			},
			interfaces: []string{"2", "6"},
			behind:     []string{"50"},
		},
		{
			name: "what is behind a bridge on a VLAN is on that VLAN",
			t: tables{
				links: []netlink.Link{bond(0), &netlink.Vlan{LinkAttrs: attrs(3, proxy, 6), VlanId: 42}, &netlink.Bridge{LinkAttrs: attrs(6, 0, 0)}},
				fdb:   []netlink.Neigh{learned(6, 7, 50, 0), learned(6, 3, 60, 0)},
			},
			interfaces: []string{"2", "3 42", "6 42"},
			behind:     []string{"50 42"},
		},
		{
			name: "a bridge that filters VLANs forwards with a tag, without one, or not at all",
			t: tables{
				links: []netlink.Link{bond(6), filtering(6), vlan(8, 6, 20), vlan(9, 6, 40)},
				fdb:   []netlink.Neigh{learned(6, 7, 50, 1), learned(6, 7, 51, 20), learned(6, 7, 52, 40), receives(6, 53)},
				members: map[int32][]*nl.BridgeVlanInfo{
					proxy: members(nl.BridgeVlanInfo{Vid: 1, Flags: pvid | untagged}, nl.BridgeVlanInfo{Vid: 10}, nl.BridgeVlanInfo{Vid: 20}),
					6:     members(nl.BridgeVlanInfo{Vid: 10, Flags: pvid | untagged}, nl.BridgeVlanInfo{Vid: 20}),
				},
			},
			interfaces: []string{"2", "6 10", "8 20"},
			behind:     []string{"50", "51 20", "53 10"},
		},
		{
			name: "an interface that is gone has no stack",
			t:    tables{links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(1, 0, 0)}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.t.on(proxy)
			var interfaces, behind []string
			for _, i := range got.Interfaces {
				interfaces = append(interfaces, describe(i.Place))
			}
			for _, p := range got.Behind {
				behind = append(behind, describe(p))
			}
			if d := cmp.Diff(tt.interfaces, interfaces); d != "" {
				t.Error("interfaces", d)
			}
			slices.Sort(behind)
			if d := cmp.Diff(tt.behind, behind); d != "" {
				t.Error("behind", d)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	tag := []Tag{{unix.ETH_P_8021Q, 42}}
	s := Stack{
		Interfaces: []Interface{{Place: Place{mac(2), nil}}, {Place: Place{mac(2), tag}}, {Place: Place{mac(2), nil}}},
		Behind:     []Place{{mac(50), tag}},
	}
	want := []Place{{mac(2), nil}, {mac(2), tag}, {mac(50), tag}}
	if d := cmp.Diff(want, s.Places()); d != "" {
		t.Error(d)
	}
}

// describe writes a place as the last byte of its MAC and its tags.
func describe(p Place) string {
	words := []string{fmt.Sprint(p.MAC[5])}
	for _, t := range p.Tags {
		words = append(words, fmt.Sprint(t.ID))
		if t.Protocol != unix.ETH_P_8021Q {
			words = append(words, fmt.Sprintf("%#x", t.Protocol))
		}
	}
	return strings.Join(words, " ")
}
