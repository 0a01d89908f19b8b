// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"slices"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// A passage is a move of the guest before it takes place.
type passage struct {
	// leaves are the addresses of what stays behind, nil if that is not known; unplug those
	// of what is unplugged before.
	leaves, unplug []string
	devices        []Identity // all that the destination has for roles of a class
	drivable       []bool     // which of them have a driver in the image
	// occupied says whether the destination has anything at an address.
	occupied func(address string) bool
	later    bool // other devices are plugged in after the move
}

// An outlook is what becomes of one seat in a passage.
type outlook struct {
	verdict string
	device  int // of the destination's, -1 for none
	standby int
	// missed is the device that the role would have if it had a driver, -1 for none.
	missed int
}

// lookOut says what becomes of seats. keeps reports whether the driver of a seat's device
// could not let go of it, were another found in its place. It is a pure function of its
// arguments, and decides by Assign.
func lookOut(seats []Seat, p passage, keeps func(seat int) bool) []outlook {
	out := make([]outlook, len(seats))
	there := make([]Seat, len(seats))
	moved := make(map[string]bool)
	for i, s := range seats {
		there[i] = p.arrive(s, moved)
	}
	var able, all []int
	for i, id := range p.devices {
		if !moved[id.Address] {
			all = append(all, i)
			if p.drivable[i] {
				able = append(able, i)
			}
		}
	}
	real, ideal := p.assign(there, able), p.assign(there, all)
	for i, s := range there {
		o := outlook{verdict: ctl.VerdictTaken, device: pick(real.Device, s), standby: pick(real.Standby, s), missed: -1}
		if m := pick(ideal.Device, s); m >= 0 && !p.drivable[m] {
			o.missed = m
		}
		if o.standby < 0 {
			o.standby = p.at(s.Standby)
		}
		had := seats[i].Device
		switch {
		case !had.none() && !p.moves(had) && p.occupied(had.Address) && !slices.Contains(p.unplug, had.Address) && keeps(i):
			o.verdict = ctl.VerdictKept
		case o.device >= 0:
		case s.carried():
			o.verdict, o.device = ctl.VerdictStandby, p.at(s.Device)
		case !s.Device.none():
			o.verdict, o.device = ctl.VerdictStays, p.at(s.Device)
		case p.later:
			o.verdict = ctl.VerdictLater
		case o.missed >= 0:
			o.verdict = ctl.VerdictNoDriver
		default:
			o.verdict = ctl.VerdictNoDevice
		}
		out[i] = o
	}
	return out
}

// arrive is the seat as the destination finds it, before it has been given anything.
// What is moved with the guest is added to moved.
func (p passage) arrive(s Seat, moved map[string]bool) Seat {
	if !p.moves(s.Standby) {
		s.Standby = Identity{}
	}
	if !p.moves(s.Device) {
		if !s.Device.none() && !s.carried() {
			s.Last = s.Device
		}
		s.Device = s.Standby
	}
	moved[s.Device.Address], moved[s.Standby.Address] = true, true
	return s
}

// moves reports whether the hypervisor moves a device with the guest: it can do so if
// the destination has the same in the same place.
func (p passage) moves(id Identity) bool {
	if id.none() || slices.Contains(p.leaves, id.Address) || slices.Contains(p.unplug, id.Address) {
		return false
	}
	i := p.at(id)
	return i >= 0 && is(p.devices[i].IDs, id.IDs) && (p.leaves != nil || id.Paravirtual)
}

// at is the index of the destination's device that has the address of id, -1 if none has.
func (p passage) at(id Identity) int {
	if id.none() {
		return -1
	}
	return slices.IndexFunc(p.devices, func(d Identity) bool { return d.Address == id.Address })
}

// assign is Assign on some of the devices, by their indices among all.
func (p passage) assign(seats []Seat, which []int) Assignment {
	ids := make([]Identity, len(which))
	for i, d := range which {
		ids[i] = p.devices[d]
	}
	a := Assign(seats, ids)
	for _, chosen := range []map[string]int{a.Device, a.Standby} {
		for name, i := range chosen {
			chosen[name] = which[i]
		}
	}
	return a
}

func pick(chosen map[string]int, s Seat) int {
	if i, ok := chosen[s.Role.Name]; ok {
		return i
	}
	return -1
}
