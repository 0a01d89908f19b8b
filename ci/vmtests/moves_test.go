// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestMoves is the main job: a guest goes from one kind of NIC to the next,
// and nobody who talks to it can tell from what arrives.
func TestMoves(t *testing.T) {
	for _, tc := range []struct {
		name  string
		typ   machine.Type
		first rig.NIC
		then  []rig.NIC
	}{
		{"to every kind and back: other model in the same slot, other bus family in another slot", machine.PC,
			e1000At2, []rig.NIC{rtl8139At2, virtioAt5, e1000At2}},
		{"virtio leaves a slot that is taken at once", machine.PC, virtioAt2, []rig.NIC{rtl8139At2}},
		{"a fresh virtio device in the slot of the old one", machine.PC, virtioAt2, []rig.NIC{virtioAt2}},
		{"a device that receives for its own MAC only", machine.PC, e1000At2, []rig.NIC{ne2kAt2}},
		{"a device that takes its own MAC back when it is opened", machine.PC, e1000At2, []rig.NIC{vmxnet3At2}},
		{"a fresh device of the same model in the same slot is not the old one", machine.PC, e1000At2, []rig.NIC{e1000At2}},
		{"PCI Express: to virtio in another slot", machine.Q35, e1000eAt2, []rig.NIC{virtioAt5}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, tc.first, func(o *setup) { o.Type = tc.typ })
			g.traffic()
			for i, nic := range tc.then {
				g.move(nic)
				tl := g.recovered(i + 1)
				g.lossless(tl)
				// The identity check may be faster than the hypervisor's word.
				if tl.Cause != ctl.CauseMigration && tl.Cause != "identity check" {
					t.Errorf("cause of move %d is %q", i+1, tl.Cause)
				}
				g.traffic()
			}
			g.unharmed()
		})
	}
}

// TestFirstMove moves a guest that booted on a device whose driver looks at its link by
// itself: it takes the dead one for a pulled cable, and the kernel empties the queue before
// anybody knows of the move. What keeps those frames is in force once the guest is settled.
func TestFirstMove(t *testing.T) {
	g := start(t, fullImage, rig.NIC{Model: "i82557b", Slot: "2"})
	if _, err := g.Host.WaitConsole(g.ctx, rig.Settled); err != nil {
		t.Fatal(err)
	}
	g.traffic()
	g.move(e1000At2)
	g.lossless(g.recovered(1))
	g.traffic()
	g.unharmed()
}

// TestControl moves a guest without the shadow: the witness must see that.
func TestControl(t *testing.T) {
	g := start(t, fullImage, e1000At2, cmdline("umbra.shadow=off"))
	g.traffic()
	g.move(rtl8139At2)
	g.waitPassive(1)
	// A connection that hangs is harm too, and is not waited for any longer.
	ctx, cancel := context.WithTimeout(g.ctx, 30*time.Second)
	defer cancel()
	v, err := g.bed.Witness.Final(ctx)
	g.fair(g.bed)
	if err == nil && v.Err() == nil {
		t.Errorf("without the shadow nothing is lost: the witness sees nothing, or the shadow is not needed: %+v", v)
	}
	t.Logf("without the shadow: %v; %v", err, v.Err())
}
