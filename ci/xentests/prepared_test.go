// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/witness"
	"github.com/umbra-vm/umbra/ci/xenlab"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestPrepared moves a PV guest by the way that the toolstack prepares: the guest gives its
// device back, is moved, and is given another one, by "xl migrate" and "xl pci-attach" and
// by "xl restore" with the device in the configuration.
func TestPrepared(t *testing.T) {
	t.Parallel()
	l := open(t, patchedXen)
	h := l.host("xen-A", "e1000e", "rtl8139", "e1000")
	l.start(h, prepared)
	l.serves("e1000e", "")

	l.giveBack(0)
	l.holds()
	l.migrateAs(h, l.next(nil), "")
	l.give(1, 0)
	l.serves("8139cp", "")

	l.giveBack(1)
	l.restoreAs(l.next(passed(2, 0))) // one with DMA of 32 bits
	l.serves("e1000", "")
	l.told("generation=3 cause=restored devices=new")
	l.unharmed()
}

// prepared is a PV guest with the first device of its host, which may leave it.
var prepared = xenlab.DomainOptions{Kind: image.XenPV, PCI: passed(0, 0), Leaves: true, Plug: true}

// TestPreparedOnStock is what the patch for the pirqs of such a guest is measured by: its
// kernel does not survive.
func TestPreparedOnStock(t *testing.T) {
	t.Parallel()
	l := open(t, stockXen)
	h := l.host("xen-A", "e1000e")
	opts := prepared
	opts.Leaves = false
	l.mortal = true
	l.start(h, opts)
	l.giveBack(0)
	l.restoreAs(l.next(nil))
	for !l.printed.contains(l.guest.Name, "xen_irq_resume") {
		l.pause("the guest's kernel to die")
	}
}

// TestFrontEnd moves a guest from a device to a host where it has a paravirtual NIC only,
// and from there to one where it has a device only. The paravirtual NIC has the device's MAC
// and is there from the beginning: it carries what is sent while there is no device. An HVM
// guest that may have one is not moved with a device in use.
func TestFrontEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		opts   xenlab.DomainOptions
		from   string // the model of the device that it leaves; one with a line to interrupt by is the harder one
		driver string
		to     string // and of the other one
		then   string
		slot   int
	}{
		{"pv", prepared, "e1000e", "e1000e", "rtl8139", "8139cp", 0},
		{"hvm", xenlab.DomainOptions{Aware: true, Leaves: true, Plug: true}, "rtl8139", "8139cp", "e1000e", "e1000e", 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := open(t, patchedXen)
			h := l.host("xen-A", tt.from, tt.to, paravirtual)
			opts := tt.opts
			opts.PCI = passed(0, tt.slot)
			opts.MAC = h.VM.Machine.NICs[0].MAC
			l.start(h, opts)
			l.serves(tt.driver, "vif-0")
			if opts.Aware {
				there := l.guest.DomainOptions
				there.Name, there.PCI = "nowhere", passed(1, tt.slot)
				if said := l.umbra(h).ends(3, there, ""); !strings.Contains(said, "xen_nopv") {
					t.Errorf("umbra migrate --xen with the device in use: %s", said)
				}
			}

			l.giveBack(0)
			l.onStandby()
			l.migrateAs(h, l.next(nil), "")
			l.onStandby()

			opts = l.next(passed(1, tt.slot))
			opts.MAC = ""
			l.restoreAs(opts)
			l.serves(tt.then, "")
			l.suspended()
		})
	}
}

// suspended is unharmed for a guest that has been suspended with a NIC in use that is
// paravirtual, or a PV guest's: its kernel drops what that has, before it is stopped or as soon
// as it runs again. And dom0's bridge drops what comes before the next vif is one of its
// ports. Datagrams are promised to nobody then.
func (l *lab) suspended() {
	l.t.Helper()
	l.judge(func(v witness.Verdict) error {
		v.UDPOut.Missing = 0
		return v.Err()
	})
}

// giveBack tells the guest that its device goes, as "umbra migrate --unplug" does, and has
// it unplugged.
func (l *lab) giveBack(n int) {
	l.t.Helper()
	l.say("telling the guest that %s goes", xenlab.Device(n))
	if err := l.tell(l.role().Device); err != nil {
		l.t.Fatal(err)
	}
	if err := l.guest.Detach(l.ctx, passed(n, 0)[0]); err != nil {
		l.t.Fatal(err)
	}
	l.say("detached")
}

// give plugs a device into the guest.
func (l *lab) give(n, slot int) {
	l.t.Helper()
	if err := l.guest.Attach(l.ctx, passed(n, slot)[0]); err != nil {
		l.t.Fatal(err)
	}
	l.say("attached %s", xenlab.Device(n))
}

// within is how long the guest leaves a device alone that it has been told of.
const within = 5 * time.Minute

func (l *lab) tell(address string) error {
	ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
	defer cancel()
	return call(ctx, l.guest, ctl.CmdUnplug, ctl.Unplug{Device: address, Within: within.Nanoseconds()}, nil)
}

// serves waits until the role has a device with this driver, and this standby, and until
// traffic has gone on.
func (l *lab) serves(driver, standby string) {
	l.t.Helper()
	l.until("is served by "+driver, func(r ctl.RoleStatus) bool {
		return r.Mode == ctl.ModePassive && r.Driver == driver && r.Standby == standby && !r.OnStandby
	})
	l.traffic()
	l.say("longest gap seen by the peer: %v", l.bed.Witness.Snapshot().FromGuest.LongestGap.Round(time.Millisecond))
}

func (l *lab) onStandby() {
	l.t.Helper()
	l.until("is on its standby", func(r ctl.RoleStatus) bool { return r.Mode == ctl.ModePassive && r.OnStandby })
	l.traffic()
}

// holds waits until the role is in active mode, with no device.
func (l *lab) holds() {
	l.t.Helper()
	l.until("has no device", func(r ctl.RoleStatus) bool { return r.Mode == ctl.ModeActive && r.Device == "" })
}

// until waits until the role is as it has to be.
func (l *lab) until(what string, is func(ctl.RoleStatus) bool) {
	l.t.Helper()
	for {
		r := l.role()
		if is(r) {
			l.say("the role %s: %+v", what, r)
			return
		}
		l.pause("a role that " + what)
	}
}

// role is the guest's role as its agent sees it.
func (l *lab) role() ctl.RoleStatus {
	l.t.Helper()
	for _, r := range l.status().Roles {
		if r.Name == rig.Role {
			return r
		}
	}
	l.t.Fatalf("the guest has no role %s", rig.Role)
	panic("unreachable")
}
