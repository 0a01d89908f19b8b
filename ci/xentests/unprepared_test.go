// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"errors"
	"testing"

	"github.com/umbra-vm/umbra/ci/xenlab"
)

// TestOneMove is what fits into minutes: one host, one move, on each Xen that is there.
func TestOneMove(t *testing.T) {
	t.Parallel()
	for _, x := range []xen{stockXen, patchedXen} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			l := open(t, x)
			h := l.host("xen-A", "e1000e", "rtl8139")
			l.create(h, passed(0, 5))
			l.restore(passed(1, 6))
			if x.patched {
				l.told("generation=2 cause=restored devices=new")
				l.notified()
			}
			l.unharmed()
		})
	}
}

// TestUnprepared moves an HVM guest between the NICs of one host by "xl save" and
// "xl restore" of an unpatched Xen. Its device stays attached, and in use, until the
// domain is stopped, and nothing in the guest is asked or told before. It is also what
// the patches are measured by: "xl migrate" is refused. And a device whose interrupt is a
// line may not be left for one in another slot: the line stays raised, which docs/xen.md
// has the reason for. Nor may the emulated e1000e follow an e1000 in its slot: what the old
// driver writes, before it is known to be the wrong one, makes QEMU 7.2 abort
// (e1000e_intrmgr_on_throttling_timer of hw/net/e1000e_core.c).
func TestUnprepared(t *testing.T) {
	t.Parallel()
	l := open(t, stockXen)
	h := l.host("xen-A", "e1000e", "rtl8139", "e1000")
	l.create(h, passed(0, 5))
	l.fails(h, passed(1, 6)) // at once: the source may not leave its device
	l.restore(passed(1, 6))  // e1000e, by MSI-X, to rtl8139 in another slot
	l.restore(passed(2, 6))  // to e1000 in the same slot
	l.restore(passed(1, 6))  // and back
	l.restore(passed(0, 6))  // to e1000e
	l.unharmed()
}

// TestMigrate is the same on a patched Xen, by "xl migrate", and by "xl save" into the
// same slot, where the guest has only what the patches tell it.
func TestMigrate(t *testing.T) {
	t.Parallel()
	l := open(t, patchedXen)
	h := l.host("xen-A", "e1000e", "rtl8139", "e1000")
	l.create(h, passed(0, 5))
	l.told("generation=1 cause=created devices=new")
	l.migrate(h, passed(1, 6), "")
	l.told("generation=2 cause=migrated devices=new")
	l.notified()
	l.restore(passed(2, 6))
	l.told("generation=3 cause=restored devices=new")
	l.notified()
	l.migrate(h, passed(1, 5), "") // its interrupt is a line, which is left in another slot
	l.restore(passed(0, 5))        // and back, to e1000e in the same
	l.unharmed()
}

// TestMigrateLive sends most of the guest's memory before it is stopped, while its device
// goes on to write into it. Before, it comes back from a migration that has failed.
func TestMigrateLive(t *testing.T) {
	t.Parallel()
	l := open(t, patchedXen)
	h := l.host("xen-A", "e1000e", "rtl8139")
	l.create(h, passed(0, 5))
	l.fails(h, passed(0, 6)) // at the destination, when the guest is stopped: the device is not free
	l.told("generation=1 cause=resumed devices=kept")
	l.migrate(h, passed(1, 6), "--live")
	l.told("generation=2 cause=migrated devices=new")
	l.notified()
	l.unharmed()
}

// TestTwoHosts migrates between two hosts with a patched Xen: the stream of the domain
// goes from one dom0 to the other. It is not parallel to other tests: it has two hosts itself.
func TestTwoHosts(t *testing.T) {
	l := open(t, patchedXen)
	hosts := l.hosts(site{"xen-A", []string{"e1000e"}}, site{"xen-B", []string{"rtl8139"}})
	a, b := hosts[0], hosts[1]
	l.create(a, passed(0, 5))
	l.migrate(b, passed(0, 6), "")
	l.told("generation=2 cause=migrated devices=new")
	l.notified()
	l.unharmed()
}

// fails asserts that "xl migrate" with these devices does not move the guest, which goes
// on where it is, with the device that it has.
func (l *lab) fails(to *xenlab.Host, pci []xenlab.Passed) {
	l.t.Helper()
	opts := l.guest.DomainOptions
	opts.Name, opts.PCI = "nowhere", pci
	l.say("migrating the guest to %s with %v, which has to fail", to.Name, pci)
	if _, err := l.guest.Migrate(l.ctx, to, opts, "", l.show("xl")); !errors.Is(err, xenlab.ErrCommand) {
		l.t.Fatalf("xl migrate: %v, want a failure", err)
	}
	l.traffic()
	tls, err := timelines(l.ctx, l.guest)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(tls) > 1 {
		l.t.Errorf("the guest has recovered %d times from a migration that failed", len(tls)-1)
	}
	l.say("the guest goes on")
}
