// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

func TestLookOut(t *testing.T) {
	const macA, macB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
	e1000 := func(addr, mac string) Identity { return Identity{addr, "8086:100e", mac, false} }
	rtl := func(addr, mac string) Identity { return Identity{addr, "10ec:8139", mac, false} }
	odd := func(addr, mac string) Identity { return Identity{addr, "dead:beef", mac, false} }
	virtio := func(addr, mac string) Identity { return Identity{addr, "1af4:1000", mac, true} }
	seat := func(name string, m Match, dev, standby Identity) Seat {
		return Seat{Role: Role{Name: name, Class: "net", Match: m}, MAC: dev.MAC, Device: dev, Standby: standby}
	}
	net0 := func(dev Identity) []Seat { return []Seat{seat("net0", Match{}, dev, Identity{})} }
	is := func(verdict string, device int) outlook { return outlook{verdict, device, -1, -1} }

	for _, tt := range []struct {
		rule    string
		seats   []Seat
		devices []Identity // odd ones have no driver
		leaves  []string
		unplug  []string
		keeps   bool
		later   bool
		want    []outlook
	}{
		{rule: "a device with a driver takes the role",
			seats: net0(e1000(slot2, macA)), devices: []Identity{rtl(slot5, macB)}, want: []outlook{is(ctl.VerdictTaken, 0)}},
		{rule: "no device is a refusal",
			seats: net0(e1000(slot2, macA)), want: []outlook{is(ctl.VerdictNoDevice, -1)}},
		{rule: "so is one without a driver, which is named",
			seats: net0(e1000(slot2, macA)), devices: []Identity{odd(slot2, macB)}, want: []outlook{{ctl.VerdictNoDriver, -1, -1, 0}}},
		{rule: "beside one without a driver, one that has one takes the role",
			seats: net0(e1000(slot2, macA)), devices: []Identity{odd(slot2, macA), rtl(slot5, macB)}, want: []outlook{{ctl.VerdictTaken, 1, -1, 0}}},
		{rule: "a rule that fits nothing is a refusal, whatever is there",
			seats:   []Seat{seat("net0", Match{IDs: "8086:100e"}, e1000(slot2, macA), Identity{})},
			devices: []Identity{rtl(slot2, macA)}, want: []outlook{is(ctl.VerdictNoDevice, -1)}},
		{rule: "of two roles the one whose device has no driver is refused, and the other is not",
			seats:   []Seat{seat("net0", Match{}, e1000(slot2, macA), Identity{}), seat("net1", Match{}, e1000(slot5, macB), Identity{})},
			devices: []Identity{rtl(slot2, macA), odd(slot5, macB)},
			want:    []outlook{is(ctl.VerdictTaken, 0), {ctl.VerdictNoDriver, -1, -1, 1}}},
		{rule: "what was the device is the last one: likeness decides as after the move",
			seats:   []Seat{seat("net0", Match{}, e1000(slot5, ""), Identity{})},
			devices: []Identity{rtl(slot2, macB), rtl(slot5, macB)}, want: []outlook{is(ctl.VerdictTaken, 1)}},
		{rule: "a paravirtual device is moved with the guest to a host that has it too",
			seats: net0(virtio(slot2, macA)), devices: []Identity{virtio(slot2, macA)}, want: []outlook{is(ctl.VerdictStays, 0)}},
		{rule: "one that the move leaves behind is not",
			seats: net0(virtio(slot2, macA)), devices: []Identity{virtio(slot2, macA)}, leaves: []string{slot2},
			want: []outlook{is(ctl.VerdictTaken, 0)}},
		{rule: "one that the host has elsewhere is another device",
			seats: net0(virtio(slot2, macA)), devices: []Identity{virtio(slot5, macA)}, want: []outlook{is(ctl.VerdictTaken, 0)}},
		{rule: "an emulated device is moved if the move is known to leave nothing behind",
			seats: net0(e1000(slot2, macA)), devices: []Identity{e1000(slot2, macA)}, leaves: []string{},
			want: []outlook{is(ctl.VerdictStays, 0)}},
		{rule: "but not one that is unplugged before",
			seats: net0(e1000(slot2, macA)), devices: []Identity{e1000(slot2, macA)}, leaves: []string{}, unplug: []string{slot2},
			want: []outlook{is(ctl.VerdictTaken, 0)}},
		{rule: "without a device the standby carries",
			seats:   []Seat{seat("net0", Match{}, e1000(slot2, macA), virtio(slot5, macA))},
			devices: []Identity{virtio(slot5, macA)}, want: []outlook{{ctl.VerdictStandby, 0, 0, -1}}},
		{rule: "also beside a device without a driver, which is told",
			seats:   []Seat{seat("net0", Match{}, e1000(slot2, macA), virtio(slot5, macA))},
			devices: []Identity{odd(slot2, macA), virtio(slot5, macA)}, want: []outlook{{ctl.VerdictStandby, 1, 1, 0}}},
		{rule: "a device takes the role beside its standby",
			seats:   []Seat{seat("net0", Match{}, e1000(slot2, macA), virtio(slot5, macA))},
			devices: []Identity{rtl(slot2, macB), virtio(slot5, macA)}, want: []outlook{{ctl.VerdictTaken, 0, 1, -1}}},
		{rule: "a role that is on its standby gets the device of the next host",
			seats:   []Seat{seat("net0", Match{}, virtio(slot5, macA), virtio(slot5, macA))},
			devices: []Identity{rtl(slot2, macA), virtio(slot5, macA)}, want: []outlook{{ctl.VerdictTaken, 0, 1, -1}}},
		{rule: "a standby that the next host lacks is none",
			seats:   []Seat{seat("net0", Match{}, e1000(slot2, macA), virtio(slot5, macA))},
			devices: []Identity{odd(slot2, macA)}, want: []outlook{{ctl.VerdictNoDriver, -1, -1, 0}}},
		{rule: "a standby that only the next host has stands by there",
			seats:   net0(e1000(slot2, macA)),
			devices: []Identity{rtl(slot2, macA), virtio(slot5, macA)}, want: []outlook{{ctl.VerdictTaken, 0, 1, -1}}},
		{rule: "a driver that cannot let go of a device whose place is taken is a refusal",
			seats: net0(virtio(slot2, macA)), devices: []Identity{rtl(slot2, macA)}, keeps: true, want: []outlook{is(ctl.VerdictKept, 0)}},
		{rule: "unless its place is empty",
			seats: net0(virtio(slot2, macA)), devices: []Identity{rtl(slot5, macA)}, keeps: true, want: []outlook{is(ctl.VerdictTaken, 0)}},
		{rule: "or it is unplugged before",
			seats: net0(virtio(slot2, macA)), devices: []Identity{rtl(slot2, macA)}, keeps: true, unplug: []string{slot2},
			want: []outlook{is(ctl.VerdictTaken, 0)}},
		{rule: "or it is moved with the guest",
			seats: net0(virtio(slot2, macA)), devices: []Identity{virtio(slot2, macA)}, keeps: true, want: []outlook{is(ctl.VerdictStays, 0)}},
		{rule: "what is plugged in later may take what nothing else does",
			seats: net0(e1000(slot2, macA)), later: true, want: []outlook{is(ctl.VerdictLater, -1)}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			p := passage{devices: tt.devices, leaves: tt.leaves, unplug: tt.unplug, later: tt.later}
			for _, d := range tt.devices {
				p.drivable = append(p.drivable, d.IDs != "dead:beef")
			}
			p.occupied = func(a string) bool {
				return slices.ContainsFunc(tt.devices, func(d Identity) bool { return d.Address == a })
			}
			if got := lookOut(tt.seats, p, func(int) bool { return tt.keeps }); !slices.Equal(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// What is told before a move is what a recovery then does.
func TestLookOutDecidesAsARecoveryDoes(t *testing.T) {
	seats := []Seat{
		{Role: Role{Name: "net0"}, Device: Identity{slot2, "8086:100e", "52:54:00:00:00:0a", false}},
		{Role: Role{Name: "net1"}, Device: Identity{slot5, "8086:100e", "52:54:00:00:00:0b", false}},
	}
	var lost []Seat
	for _, s := range seats {
		s.Last, s.Device = s.Device, Identity{}
		lost = append(lost, s)
	}
	ids, macs := []string{"8086:100e", "10ec:8139"}, []string{"", "52:54:00:00:00:0a", "52:54:00:00:00:0b"}
	for n := range 36 {
		devices := []Identity{
			{slot2, ids[n%2], macs[n/2%3], false},
			{[]string{slot5, "0000:00:09.0"}[n/6%2], ids[n/12%2], macs[n/3%3], false},
		}
		p := passage{devices: devices, drivable: []bool{true, true}, occupied: func(string) bool { return true }}
		want := Assign(lost, devices)
		for i, o := range lookOut(seats, p, func(int) bool { return false }) {
			if w := pick(want.Device, seats[i]); o.device != w {
				t.Errorf("%v: role %d is told device %d, and gets %d", devices, i, o.device, w)
			}
		}
	}
}
