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
	e1000 := func(addr, mac string) Identity { return Identity{addr, "8086:100e", mac} }
	rtl := func(addr, mac string) Identity { return Identity{addr, "10ec:8139", mac} }
	role := func(name string, m Match, last Identity) Vacancy {
		return Vacancy{Role: Role{Name: name, Class: "net", Match: m}, Last: last}
	}
	any := Match{}
	wears := func(v Vacancy, mac string) Vacancy {
		v.MAC = mac
		return v
	}

	for _, tc := range []struct {
		rule    string
		vacant  []Vacancy
		devices []Identity
		want    map[string]int
	}{
		{"a role without rules takes the first device in bus order",
			[]Vacancy{role("net0", any, Identity{})}, []Identity{rtl(slot2, macB), e1000(slot5, macA)}, map[string]int{"net0": 0}},
		{"no device leaves the role vacant",
			[]Vacancy{role("net0", any, e1000(slot2, macA))}, nil, map[string]int{}},
		{"the same MAC wins over the same address",
			[]Vacancy{role("net0", any, e1000(slot2, macA))}, []Identity{rtl(slot2, macB), rtl(slot5, macA)}, map[string]int{"net0": 1}},
		{"the same address wins over the same ids",
			[]Vacancy{role("net0", any, e1000(slot5, macA))}, []Identity{e1000(slot2, macB), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"the same ids win over bus order",
			[]Vacancy{role("net0", any, e1000("0000:00:09.0", macA))}, []Identity{rtl(slot2, macB), e1000(slot5, macB)}, map[string]int{"net0": 1}},
		{"a MAC is compared without regard to case",
			[]Vacancy{role("net0", Match{MAC: "52:54:00:00:00:0B"}, Identity{})}, []Identity{rtl(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a rule that fits no device leaves the role vacant",
			[]Vacancy{role("net0", Match{Address: slot5}, e1000(slot2, macA))}, []Identity{e1000(slot2, macA)}, map[string]int{}},
		{"all rules of a role must hold",
			[]Vacancy{role("net0", Match{Address: slot2, IDs: "10ec:8139"}, Identity{})}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{}},
		{"a role with rules chooses before an earlier role without",
			[]Vacancy{role("net0", any, Identity{}), role("net1", Match{IDs: "8086:100e"}, Identity{})},
			[]Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1, "net1": 0}},
		{"likeness of a later role comes before bus order for an earlier one",
			[]Vacancy{role("net0", any, Identity{}), role("net1", any, e1000(slot2, macA))},
			[]Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1, "net1": 0}},
		{"one device serves one role",
			[]Vacancy{role("net0", any, Identity{}), role("net1", any, Identity{})},
			[]Identity{e1000(slot2, macA)}, map[string]int{"net0": 0}},
		{"the role's own MAC wins over its last device's, and over its place",
			[]Vacancy{wears(role("net0", any, e1000(slot2, macA)), macB)}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a role that never had a device takes the one with its own MAC, not the first",
			[]Vacancy{wears(role("net0", any, Identity{}), macB)}, []Identity{rtl(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a rule of a role is not broken for the MAC that the role has",
			[]Vacancy{wears(role("net0", Match{Address: slot2}, Identity{}), macB)}, []Identity{rtl(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 0}},
		{"a device whose address is configured is taken there whatever it is, and nowhere else",
			[]Vacancy{role("net0", Match{Address: slot5}, e1000(slot2, macA))}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"a device whose ids are configured is taken wherever it is",
			[]Vacancy{role("net0", Match{IDs: "10ec:8139"}, e1000(slot2, macA))}, []Identity{e1000(slot2, macA), rtl(slot5, macB)}, map[string]int{"net0": 1}},
		{"of two roles whose rules accept a device the one whose last is more like it takes it",
			[]Vacancy{role("net0", Match{IDs: "10ec:8139"}, rtl(slot2, macA)), role("net1", Match{Address: slot5}, e1000(slot5, macA))},
			[]Identity{rtl(slot5, macB)}, map[string]int{"net1": 0}},
		{"roles without rules and without a past take devices in the order of both",
			[]Vacancy{role("net0", any, Identity{}), role("net1", any, Identity{}), role("net2", any, Identity{})},
			[]Identity{rtl(slot2, macB), e1000(slot5, macA)}, map[string]int{"net0": 0, "net1": 1}},
		{"two roles that changed places follow their MACs",
			[]Vacancy{role("net0", any, e1000(slot2, macA)), role("net1", any, e1000(slot5, macB))},
			[]Identity{rtl(slot2, macB), rtl(slot5, macA)}, map[string]int{"net0": 1, "net1": 0}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if d := cmp.Diff(tc.want, Assign(tc.vacant, tc.devices)); d != "" {
				t.Error("assignment (-want +got):\n" + d)
			}
		})
	}
}
