// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAssign(t *testing.T) {
	const (
		macA, macB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
		slot2      = "0000:00:02.0"
		slot5      = "0000:00:05.0"
	)
	e1000 := func(addr, mac string) Identity { return Identity{addr, "8086:100e", mac, false} }
	rtl := func(addr, mac string) Identity { return Identity{addr, "10ec:8139", mac, false} }
	role := func(name string, m Match, last Identity) Seat {
		return Seat{Role: Role{Name: name, Class: "net", Match: m}, Last: last}
	}
	any := Match{}
	wears := func(s Seat, mac string) Seat {
		s.MAC = mac
		return s
	}

	for _, tc := range []struct {
		rule    string
		seats   []Seat
		devices []Identity
		want    map[string]int
	}{
		{"a role without rules takes the first device in bus order",
			[]Seat{role("net0", any, Identity{})}, []Identity{rtl(slot2, macB), e1000(slot5, macA)}, map[string]int{"net0": 0}},
		{"no device leaves the role vacant",
			[]Seat{role("net0", any, e1000(slot2, macA))}, nil, map[string]int{}},
		{"the same MAC wins over the same address",
			[]Seat{role("net0", any, e1000(slot2, macA))}, []Identity{rtl(slot2, macB), rtl(slot5, macA)}, map[string]int{"net0": 1}},
		{"the same address wins over the same ids",
			[]Seat{role("net0", any, e1000(slot5, macA))}, []Identity{e1000(slot2, macB), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"the same ids win over bus order",
			[]Seat{role("net0", any, e1000("0000:00:09.0", macA))}, []Identity{rtl(slot2, macB), e1000(slot5, macB)}, map[string]int{"net0": 1}},
		{"a MAC is compared without regard to case",
			[]Seat{role("net0", Match{MAC: "52:54:00:00:00:0B"}, Identity{})}, []Identity{rtl(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a rule that fits no device leaves the role vacant",
			[]Seat{role("net0", Match{Address: slot5}, e1000(slot2, macA))}, []Identity{e1000(slot2, macA)}, map[string]int{}},
		{"all rules of a role must hold",
			[]Seat{role("net0", Match{Address: slot2, IDs: "10ec:8139"}, Identity{})}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{}},
		{"a role with rules chooses before an earlier role without",
			[]Seat{role("net0", any, Identity{}), role("net1", Match{IDs: "8086:100e"}, Identity{})},
			[]Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1, "net1": 0}},
		{"likeness of a later role comes before bus order for an earlier one",
			[]Seat{role("net0", any, Identity{}), role("net1", any, e1000(slot2, macA))},
			[]Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1, "net1": 0}},
		{"one device serves one role",
			[]Seat{role("net0", any, Identity{}), role("net1", any, Identity{})},
			[]Identity{e1000(slot2, macA)}, map[string]int{"net0": 0}},
		{"the role's own MAC wins over its last device's, and over its place",
			[]Seat{wears(role("net0", any, e1000(slot2, macA)), macB)}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a role that never had a device takes the one with its own MAC, not the first",
			[]Seat{wears(role("net0", any, Identity{}), macB)}, []Identity{rtl(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a rule of a role is not broken for the MAC that the role has",
			[]Seat{wears(role("net0", Match{Address: slot2}, Identity{}), macB)}, []Identity{rtl(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 0}},
		{"a device whose address is configured is taken there whatever it is, and nowhere else",
			[]Seat{role("net0", Match{Address: slot5}, e1000(slot2, macA))}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a device whose ids are configured is taken wherever it is",
			[]Seat{role("net0", Match{IDs: "10ec:8139"}, e1000(slot2, macA))}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"of two roles whose rules accept a device the one whose last is more like it takes it",
			[]Seat{role("net0", Match{IDs: "10ec:8139"}, rtl(slot2, macA)), role("net1", Match{Address: slot5}, e1000(slot5, macA))},
			[]Identity{rtl(slot5, macB)}, map[string]int{"net1": 0}},
		{"roles without rules and without a past take devices in the order of both",
			[]Seat{role("net0", any, Identity{}), role("net1", any, Identity{}), role("net2", any, Identity{})},
			[]Identity{rtl(slot2, macB), e1000(slot5, macA)}, map[string]int{"net0": 0, "net1": 1}},
		{"two roles that changed places follow their MACs",
			[]Seat{role("net0", any, e1000(slot2, macA)), role("net1", any, e1000(slot5, macB))},
			[]Identity{rtl(slot2, macB), rtl(slot5, macA)}, map[string]int{"net0": 1, "net1": 0}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if d := cmp.Diff(tc.want, Assign(tc.seats, tc.devices).Device); d != "" {
				t.Error("assignment (-want +got):\n" + d)
			}
		})
	}
}

func TestAssignStandby(t *testing.T) {
	const (
		macA, macB, macC = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
		slot2, slot3     = "0000:00:02.0", "0000:00:03.0"
		slot5, slot6     = "0000:00:05.0", "0000:00:06.0"
	)
	e1000 := func(addr, mac string) Identity { return Identity{addr, "8086:100e", mac, false} }
	virtio := func(addr, mac string) Identity { return Identity{addr, "1af4:1000", mac, true} }
	seat := func(name string, s Standby) Seat {
		return Seat{Role: Role{Name: name, Class: "net", Standby: s}}
	}
	on := func(s Seat, dev, standby Identity) Seat {
		s.Device, s.Standby, s.Last, s.MAC = dev, standby, dev, dev.MAC
		return s
	}
	only := func(s Seat, m Match) Seat {
		s.Role.Match = m
		return s
	}
	var (
		none   Identity
		byMAC  Standby
		byAny  = Standby{Pair: PairAny}
		never  = Standby{Pair: PairNone}
		byRule = Standby{Match: Match{Address: slot6}}
		net0   = seat("net0", byMAC)
		net1   = seat("net1", byMAC)
	)
	type m = map[string]int

	for _, tc := range []struct {
		rule            string
		seats           []Seat
		devices         []Identity
		device, standby m
	}{
		{"of two with one MAC the paravirtual one stands by, whatever their order",
			[]Seat{net0}, []Identity{virtio(slot2, macA), e1000(slot3, macA)}, m{"net0": 1}, m{"net0": 0}},
		{"a paravirtual one that is alone is the role's device",
			[]Seat{net0}, []Identity{virtio(slot2, macA)}, m{"net0": 0}, m{}},
		{"with another MAC it is a device like any other",
			[]Seat{net0}, []Identity{virtio(slot2, macB), e1000(slot3, macA)}, m{"net0": 0}, m{}},
		{"with the role's own MAC it stands by for a device that has another and is like the last",
			[]Seat{func() Seat { s := net0; s.Last, s.MAC = e1000(slot2, macB), macA; return s }()},
			[]Identity{virtio(slot5, macA), e1000(slot2, macC)}, m{"net0": 1}, m{"net0": 0}},
		{"with another MAC it stands by if any may",
			[]Seat{seat("net0", byAny)}, []Identity{virtio(slot2, macB), e1000(slot3, macA)}, m{"net0": 1}, m{"net0": 0}},
		{"with another MAC it stands by if a rule says so",
			[]Seat{seat("net0", byRule)}, []Identity{virtio(slot5, macC), virtio(slot6, macB), e1000(slot3, macA)}, m{"net0": 0}, m{"net0": 1}},
		{"a rule for standbys does not make one of a device that is none",
			[]Seat{seat("net0", byRule)}, []Identity{e1000(slot3, macA), e1000(slot6, macA)}, m{"net0": 0}, m{}},
		{"a rule and equal MACs may both be asked for",
			[]Seat{seat("net0", Standby{Pair: PairMAC, Match: Match{Address: slot6}})},
			[]Identity{e1000(slot3, macA), virtio(slot5, macA), virtio(slot6, macB)}, m{"net0": 0}, m{}},
		{"a role without standbys leaves it alone",
			[]Seat{seat("net0", never)}, []Identity{virtio(slot2, macA), e1000(slot3, macA)}, m{"net0": 0}, m{}},
		{"two roles find their standbys by MAC",
			[]Seat{net0, net1}, []Identity{virtio(slot2, macB), virtio(slot3, macA), e1000(slot5, macA), e1000(slot6, macB)},
			m{"net0": 2, "net1": 3}, m{"net0": 1, "net1": 0}},
		{"two roles that take any take them in order",
			[]Seat{seat("net0", byAny), seat("net1", byAny)},
			[]Identity{e1000(slot2, macA), e1000(slot3, macB), virtio(slot5, macC), virtio(slot6, macC)},
			m{"net0": 0, "net1": 1}, m{"net0": 2, "net1": 3}},
		{"one that is told by its MAC is not any other's",
			[]Seat{seat("net0", byAny), net1}, []Identity{e1000(slot2, macA), e1000(slot3, macB), virtio(slot5, macB)},
			m{"net0": 0, "net1": 1}, m{"net1": 2}},
		{"one that appears later stands by",
			[]Seat{on(net0, e1000(slot2, macA), none)}, []Identity{virtio(slot5, macA)}, m{}, m{"net0": 0}},
		{"one that appears later with the role's MAC stands by for a device that has another",
			[]Seat{func() Seat { s := on(net0, e1000(slot2, macB), none); s.MAC = macA; return s }()},
			[]Identity{virtio(slot5, macA)}, m{}, m{"net0": 0}},
		{"a role has one standby",
			[]Seat{on(net0, e1000(slot2, macA), virtio(slot5, macA))}, []Identity{virtio(slot6, macA)}, m{}, m{}},
		{"a standby that has gone leaves its place to another",
			[]Seat{on(net0, e1000(slot2, macA), none)}, []Identity{virtio(slot6, macA)}, m{}, m{"net0": 0}},
		{"a device that appears beside a role's paravirtual one takes the role",
			[]Seat{on(net0, virtio(slot5, macA), none)}, []Identity{e1000(slot2, macA)}, m{"net0": 0}, m{}},
		{"not so if they do not belong together",
			[]Seat{on(net0, virtio(slot5, macA), none)}, []Identity{e1000(slot2, macB)}, m{}, m{}},
		{"not so if the role has a rule against it",
			[]Seat{only(on(net0, virtio(slot5, macA), none), Match{Address: slot5})}, []Identity{e1000(slot2, macA)}, m{}, m{}},
		{"a role on its standby takes a device with whatever MAC",
			[]Seat{on(net0, virtio(slot5, macA), virtio(slot5, macA))}, []Identity{e1000(slot2, macB)}, m{"net0": 0}, m{}},
		{"a role on its standby takes a paravirtual device too",
			[]Seat{on(net0, virtio(slot5, macA), virtio(slot5, macA))}, []Identity{virtio(slot2, macB)}, m{"net0": 0}, m{}},
		{"a role whose device is paravirtual has a standby as any",
			[]Seat{on(net0, virtio(slot2, macA), none)}, []Identity{virtio(slot5, macA)}, m{}, m{"net0": 0}},
		{"of two paravirtual ones the first is the device",
			[]Seat{net0}, []Identity{virtio(slot2, macA), virtio(slot5, macA)}, m{"net0": 0}, m{"net0": 1}},
		{"a role that has nothing chooses before one that is on its standby",
			[]Seat{on(net0, virtio(slot5, macA), virtio(slot5, macA)), net1}, []Identity{e1000(slot2, macB)}, m{"net1": 0}, m{}},
		{"but the device with its own MAC is not for one that has nothing, though that had one like it at the address",
			[]Seat{on(net0, virtio(slot5, macA), virtio(slot5, macA)), func() Seat { s := net1; s.Last, s.MAC = e1000(slot2, macB), macB; return s }()},
			[]Identity{e1000(slot2, macA)}, m{"net0": 0}, m{}},
		{"a standby of one role is not the device of another that is vacant",
			[]Seat{on(net0, e1000(slot2, macA), none), net1}, []Identity{virtio(slot5, macA)}, m{}, m{"net0": 0}},
		{"unless that one has a rule for it",
			[]Seat{on(net0, e1000(slot2, macA), none), only(net1, Match{Address: slot5})}, []Identity{virtio(slot5, macA)}, m{"net1": 0}, m{}},
		{"a vacant role comes before the standby of one that takes any",
			[]Seat{on(seat("net0", byAny), e1000(slot2, macA), none), net1}, []Identity{virtio(slot5, macB)}, m{"net1": 0}, m{}},
		{"what no device has a use for is nobody's standby",
			[]Seat{seat("net0", byAny)}, nil, m{}, m{}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if d := cmp.Diff(Assignment{tc.device, tc.standby}, Assign(tc.seats, tc.devices)); d != "" {
				t.Error("assignment (-want +got):\n" + d)
			}
		})
	}
}
