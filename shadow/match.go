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
	// Paravirtual says that the hypervisor moves the device to another host by itself:
	// it can stand by for one that is left behind.
	Paravirtual bool
}

func (id Identity) none() bool { return id.Address == "" }

func (m Match) empty() bool { return m == Match{} }

func (m Match) accepts(id Identity) bool {
	same := func(rule, have string) bool { return rule == "" || strings.EqualFold(rule, have) }
	return same(m.MAC, id.MAC) && same(m.Address, id.Address) && same(m.IDs, id.IDs)
}

// Seat is a role with what it has. A device without an address is none.
type Seat struct {
	Role Role
	// MAC is the role's own, which may be another than its last device's: a host that
	// knows it gives it to a virtual function. It is "" if it is not known yet.
	MAC     string
	Last    Identity // of the device that it had last
	Device  Identity // that it has: its standby, while that carries
	Standby Identity
}

// carried reports whether the role has a standby in place of a device.
func (s Seat) carried() bool { return !s.Standby.none() && s.Device.Address == s.Standby.Address }

// Assignment says which of the free devices becomes what, by the role's name. A role
// that is given a device and has one already keeps that as its standby.
type Assignment struct {
	Device  map[string]int
	Standby map[string]int
}

// Assign decides which free device takes which role, and which one stands by for it.
// It is a pure function of its arguments: roles in the order of the config, devices in
// bus order. A configured rule is never broken: a role whose rules fit no device
// stays vacant. Among the devices that a role's rules accept, one with the role's own MAC
// wins, if it is no paravirtual one, then the one most like its last device: same MAC,
// then same address, then same ids, then the first in bus order. Roles with rules choose before roles without, and
// likenesses of all roles are compared before anybody takes "the first".
//
// A device that stands by for one role is no other role's device, unless that has a
// rule for it. Of two devices of which the one can stand by for the other, the role takes
// the other; so does a role that has the one already. See [Standby] for what can.
func Assign(seats []Seat, devices []Identity) Assignment {
	a := Assignment{make(map[string]int), make(map[string]int)}
	taken := make(map[int]bool)
	var devs, standbys []pair
	for r, s := range seats {
		for d := range devices {
			if rank, ok := rankOf(seats, r, devices, d); ok {
				devs = append(devs, pair{s.Role.Name, r, d, rank})
			}
		}
	}
	choose(devs, taken, a.Device)
	for r, s := range seats {
		dev := s.Device
		if i, ok := a.Device[s.Role.Name]; ok && dev.none() {
			dev = devices[i]
		} else if ok { // what it had stands by
			continue
		}
		if dev.none() || !s.Standby.none() {
			continue
		}
		for d, id := range devices {
			if s.Role.Standby.accepts(id, dev, s.MAC) {
				standbys = append(standbys, pair{s.Role.Name, r, d, s.Role.Standby.rank()})
			}
		}
	}
	choose(standbys, taken, a.Standby)
	return a
}

// pair is a device that a role could have; one with a smaller rank is chosen earlier.
type pair struct {
	name      string
	role, dev int
	rank      int
}

// choose gives each role the first device that nobody has taken before.
func choose(pairs []pair, taken map[int]bool, out map[string]int) {
	slices.SortStableFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.role, b.role), cmp.Compare(a.dev, b.dev))
	})
	for _, p := range pairs {
		if _, done := out[p.name]; done || taken[p.dev] {
			continue
		}
		out[p.name] = p.dev
		taken[p.dev] = true
	}
}

// What makes a role choose later than its likeness to a device says.
const (
	rankServed  = 5   // it has a standby, or what can be one
	rankNoRules = 10  // others have rules
	rankSpare   = 100 // the device can stand by for another that is free
)

// rankOf says how soon a role chooses a free device; false if it never does.
func rankOf(seats []Seat, r int, devices []Identity, d int) (rank int, ok bool) {
	s, id := seats[r], devices[d]
	if !s.Role.Match.accepts(id) {
		return 0, false
	}
	rank = likeness(s, id)
	switch {
	case s.Device.none():
	case s.carried(), s.Standby.none() && !id.Paravirtual && s.Role.Standby.accepts(s.Device, id, ""):
		if rank > sameMAC { // its own device waits for no other role
			rank += rankServed
		}
	default:
		return 0, false
	}
	if s.Role.Match.empty() {
		rank += rankNoRules
		for t := range seats {
			if t != r && seats[t].claims(id, devices) {
				return 0, false
			}
		}
	}
	if s.spares(id, devices) {
		rank += rankSpare
	}
	return rank, true
}

// spares reports whether id can stand by for another free device that the role accepts.
func (s Seat) spares(id Identity, devices []Identity) bool {
	return slices.ContainsFunc(devices, func(other Identity) bool {
		return !other.Paravirtual && s.Role.Match.accepts(other) && s.Role.Standby.accepts(id, other, "")
	})
}

// claims reports whether id is this role's standby and not just any that is left.
func (s Seat) claims(id Identity, devices []Identity) bool {
	switch {
	case !s.Role.Standby.names() || !s.Standby.none():
		return false
	case s.Device.none():
		return s.spares(id, devices)
	}
	return s.Role.Standby.accepts(id, s.Device, s.MAC)
}

// sameMAC is the likeness of a device that has the MAC of the role's last one.
const sameMAC = 1

// likeness ranks a device by what it has in common with the role and its last device. A
// paravirtual one with the role's MAC may be meant to stand by: it has to be like the last.
func likeness(s Seat, id Identity) int {
	switch {
	case is(s.MAC, id.MAC) && !id.Paravirtual:
		return 0
	case is(s.Last.MAC, id.MAC):
		return sameMAC
	case is(s.Last.Address, id.Address):
		return 2
	case is(s.Last.IDs, id.IDs):
		return 3
	}
	return 4
}

func is(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// Pairing says by what a device and its standby are known to belong together.
type Pairing string

// The pairings. The empty value means PairMAC, and PairAny where there are rules.
const (
	PairMAC  Pairing = "mac"  // the standby has the device's MAC, or the role's
	PairAny  Pairing = "any"  // any that is left over
	PairNone Pairing = "none" // the role has no standby
)

// Standby says which paravirtual device stands by for a role. Equal MACs are how Linux's
// net_failover pairs (Documentation/networking/net_failover.rst), and how hypervisors
// set both devices up.
type Standby struct {
	Pair  Pairing
	Match Match // what the standby has to be like
}

func (s Standby) pairing() Pairing {
	if s.Pair == "" && s.Match.empty() {
		return PairMAC
	}
	return cmp.Or(s.Pair, PairAny)
}

// names reports whether the standby is told from others.
func (s Standby) names() bool {
	return s.pairing() == PairMAC || s.pairing() == PairAny && !s.Match.empty()
}

// rank orders roles that want the same standby.
func (s Standby) rank() int {
	if s.names() {
		return 0
	}
	return 1
}

// accepts reports whether id may stand by for dev, in a role that has the MAC mac.
func (s Standby) accepts(id, dev Identity, mac string) bool {
	if !id.Paravirtual || id.Address == dev.Address || !s.Match.accepts(id) {
		return false
	}
	switch s.pairing() {
	case PairMAC:
		return is(id.MAC, dev.MAC) || is(id.MAC, mac)
	case PairAny:
		return true
	}
	return false
}
