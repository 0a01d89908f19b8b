// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package matrix moves guests from every NIC of QEMU to every other one, in the
// same slot and in another, on both machine types, under traffic, and keeps a
// table of what it cost.
//
// It knows NICs, hosts and witnesses. It must never know what a shadow does, and
// judges by what the witnesses say.
package matrix

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image/machine"
)

// A Model is a NIC of QEMU and the driver that a guest has for it.
type Model struct {
	Device string // QEMU's name
	Driver string // the kernel's
	// Copies says that the driver copies a frame on transmission and frees it at
	// once, so that what is in its ring is in no socket buffer any more.
	Copies bool
	// Forgets says that the driver forgets the frames in its ring, without freeing
	// them, if none has been completed for 4 s: tulip's "Out-of-sync dirty pointer"
	// (drivers/net/ethernet/dec/tulip/interrupt.c).
	Forgets bool
}

// forgetful is how long one that Forgets has not, in ms.
const forgetful = 4000

// Models are the NICs that QEMU 7.2 has for a PC and whose driver is a module of
// Debian's kernel.
var Models = []Model{
	{"e1000", "e1000", false, false},
	{"e1000e", "e1000e", false, false},
	{"rtl8139", "8139cp", false, false},
	{"pcnet", "pcnet32", false, false},
	{"ne2k_pci", "ne2k-pci", true, false},
	{"tulip", "tulip", false, true},
	{"i82557b", "e100", false, false},
	{"vmxnet3", "vmxnet3", false, false},
	{"virtio-net-pci", "virtio_net", false, false},
}

// model returns the Model of a device of QEMU.
func model(device string) Model {
	i := slices.IndexFunc(Models, func(m Model) bool { return m.Device == device })
	if i < 0 {
		return Model{Device: device, Driver: device}
	}
	return Models[i]
}

// A Setup is the kind of machine that pairs are moved on.
type Setup struct {
	Type machine.Type `json:"type"`
	// Other says that the new NIC is in another slot than the old one. On
	// machine.Q35 every slot is a root port of its own.
	Other bool `json:"other_slot"`
}

// Setups are all there are.
var Setups = []Setup{{machine.PC, false}, {machine.PC, true}, {machine.Q35, false}, {machine.Q35, true}}

func (s Setup) String() string {
	where := "same slot"
	if s.Other {
		where = "other slot"
	}
	return fmt.Sprintf("%s, %s", s.Type, where)
}

// slot is where the n-th NIC of a guest is.
func (s Setup) slot(n int) string {
	if s.Other && n%2 == 1 {
		return "5"
	}
	return "2"
}

// nic is the n-th NIC of a guest.
func (s Setup) nic(device string, n int) rig.NIC { return rig.NIC{Model: device, Slot: s.slot(n)} }

// A Pair is one move.
type Pair struct {
	Setup
	From string `json:"from"` // devices of QEMU
	To   string `json:"to"`
	// First says that the guest has booted on From and makes this move only: a boot may
	// leave less prepared for a move than the recovery from one does.
	First bool `json:"first,omitempty"`
}

func (p Pair) String() string {
	which := ""
	if p.First {
		which = ", first move"
	}
	return fmt.Sprintf("%s → %s (%s%s)", p.From, p.To, p.Setup, which)
}

// Pairs returns every ordered pair of unlike NICs for a setup.
func Pairs(s Setup) []Pair {
	var out []Pair
	for _, from := range Models {
		for _, to := range Models {
			if from != to {
				out = append(out, Pair{Setup: s, From: from.Device, To: to.Device})
			}
		}
	}
	return out
}

// firstStep is how far, in Models, the first move of a guest goes.
const firstStep = 4

// FirstMoves returns a first move from every NIC, and to every NIC, with the setups by
// turns.
func FirstMoves() []Pair {
	var out []Pair
	for i, m := range Models {
		to := Models[(i+firstStep)%len(Models)]
		out = append(out, Pair{Setup: Setups[i%len(Setups)], From: m.Device, To: to.Device, First: true})
	}
	return out
}

// AllPairs returns the pairs of all setups, and the first moves.
func AllPairs() []Pair {
	var all []Pair
	for _, s := range Setups {
		all = append(all, Pairs(s)...)
	}
	return append(all, FirstMoves()...)
}

// Trails puts pairs in an order in which each begins where the last one ended, so
// that one guest can make many moves. It needs one trail for all pairs of a setup,
// and more for what is left of them after an interruption. Pairs of different
// setups are not mixed. A first move is a trail of its own.
func Trails(pairs []Pair) [][]Pair {
	var firsts [][]Pair
	left := make(map[Setup]map[string][]Pair)
	for _, p := range pairs {
		if p.First {
			firsts = append(firsts, []Pair{p})
			continue
		}
		if left[p.Setup] == nil {
			left[p.Setup] = make(map[string][]Pair)
		}
		left[p.Setup][p.From] = append(left[p.Setup][p.From], p)
	}
	var trails [][]Pair
	for _, s := range Setups {
		for trail := longest(left[s]); len(trail) > 0; trail = longest(left[s]) {
			trails = append(trails, trail)
		}
	}
	return append(trails, firsts...)
}

// longest takes a trail out of the pairs left: from a NIC that more pairs leave than
// reach, or from any, on as long as there is a way, with the round trips that
// begin on it woven in (Hierholzer).
func longest(left map[string][]Pair) []Pair {
	start := begin(left)
	if start == "" {
		return nil
	}
	trail := walk(left, start)
	for i := 0; i <= len(trail); i++ {
		at := start
		if i > 0 {
			at = trail[i-1].To
		}
		// What can be walked from a NIC on the trail and comes back to it.
		if round := roundTrip(left, at); len(round) > 0 {
			trail = slices.Insert(trail, i, round...)
			i--
		}
	}
	return trail
}

func begin(left map[string][]Pair) string {
	excess := make(map[string]int)
	for from, ps := range left {
		excess[from] += len(ps)
		for _, p := range ps {
			excess[p.To]--
		}
	}
	best := ""
	for _, m := range Models {
		if len(left[m.Device]) > 0 && (best == "" || excess[m.Device] > excess[best]) {
			best = m.Device
		}
	}
	return best
}

func walk(left map[string][]Pair, at string) []Pair {
	var trail []Pair
	for len(left[at]) > 0 {
		p := left[at][0]
		left[at] = left[at][1:]
		trail = append(trail, p)
		at = p.To
	}
	return trail
}

// roundTrip walks from a NIC, and keeps what comes back to it; the rest is put
// back.
func roundTrip(left map[string][]Pair, at string) []Pair {
	round := walk(left, at)
	for len(round) > 0 && round[len(round)-1].To != at {
		p := round[len(round)-1]
		round = round[:len(round)-1]
		left[p.From] = append(left[p.From], p)
	}
	return round
}

// Sample returns a trail that leaves and reaches every NIC once. There are many; n
// counts them, with the setups by turns.
func Sample(n int) []Pair {
	// A step that has no factor in common with the number of NICs visits all.
	var steps []int
	for step := 1; step < len(Models); step++ {
		if gcd(step, len(Models)) == 1 {
			steps = append(steps, step)
		}
	}
	s := Setups[n%len(Setups)]
	step := steps[n/len(Setups)%len(steps)]
	var trail []Pair
	for i, at := 0, 0; i < len(Models); i++ {
		next := (at + step) % len(Models)
		trail = append(trail, Pair{Setup: s, From: Models[at].Device, To: Models[next].Device})
		at = next
	}
	return trail
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// comparePairs orders pairs as the table shows them, first moves last.
func comparePairs(a, b Pair) int {
	rank := func(device string) int {
		return slices.IndexFunc(Models, func(m Model) bool { return m.Device == device })
	}
	kind := func(p Pair) int { return slices.Index([]bool{false, true}, p.First) }
	return cmp.Or(
		cmp.Compare(kind(a), kind(b)),
		cmp.Compare(slices.Index(Setups, a.Setup), slices.Index(Setups, b.Setup)),
		cmp.Compare(rank(a.From), rank(b.From)),
		cmp.Compare(rank(a.To), rank(b.To)),
	)
}
