// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"cmp"
	"slices"
	"strings"
)

// Match says which device may take a role. Rules that are set must all hold;
// a Match without rules accepts any device of the class.
type Match struct {
	MAC     string // permanent MAC address, any case
	Address string // bus address, e.g. "0000:00:02.0"
	IDs     string // "vendor:device" in hex, e.g. "8086:100e"
}

// Identity is what the match rules compare.
type Identity struct {
	Address string
	IDs     string
	MAC     string
}

func (m Match) empty() bool { return m == Match{} }

func (m Match) accepts(id Identity) bool {
	same := func(rule, have string) bool { return rule == "" || strings.EqualFold(rule, have) }
	return same(m.MAC, id.MAC) && same(m.Address, id.Address) && same(m.IDs, id.IDs)
}

// Vacancy is a role that needs a device, the identity of the device it had last, and
// the MAC that the role itself has, which may be another: a host that knows it gives it
// to a virtual function.
type Vacancy struct {
	Role Role
	Last Identity
	MAC  string
}

// Assign decides which free device takes which vacant role. It is a pure
// function of its arguments: roles in the order of the config, devices in bus
// order. A configured rule is never broken: a role whose rules fit no device
// stays vacant. Among the devices that a role's rules accept, the one with the
// role's own MAC wins, then the one most like its last device: same MAC, then
// same address, then same ids, then the first in bus order. Roles with rules choose before roles without, and
// likenesses of all roles are compared before anybody takes "the first".
// The result maps role names to indices into devices.
func Assign(vacant []Vacancy, devices []Identity) map[string]int {
	type pair struct {
		role, dev int
		rank      int // smaller chooses earlier
	}
	var pairs []pair
	for r, v := range vacant {
		for d, id := range devices {
			if !v.Role.Match.accepts(id) {
				continue
			}
			rank := likeness(v, id)
			if v.Role.Match.empty() {
				rank += 10
			}
			pairs = append(pairs, pair{r, d, rank})
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.role, b.role), cmp.Compare(a.dev, b.dev))
	})
	out := make(map[string]int)
	taken := make(map[int]bool)
	for _, p := range pairs {
		name := vacant[p.role].Role.Name
		if _, done := out[name]; done || taken[p.dev] {
			continue
		}
		out[name] = p.dev
		taken[p.dev] = true
	}
	return out
}

func likeness(v Vacancy, id Identity) int {
	is := func(a, b string) bool { return a != "" && strings.EqualFold(a, b) }
	switch {
	case is(v.MAC, id.MAC):
		return 0
	case is(v.Last.MAC, id.MAC):
		return 1
	case is(v.Last.Address, id.Address):
		return 2
	case is(v.Last.IDs, id.IDs):
		return 3
	}
	return 4
}
