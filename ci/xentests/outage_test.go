// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/xenlab"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestOutage measures what a device in use adds to the outage of a move, in one run: the
// move of a guest with it, as its peer sees it, and that of the same guest without a device,
// by its agent's silence, together with what the new device's driver takes until it has a
// link, when it is loaded anew in a guest that has nothing else to do.
func TestOutage(t *testing.T) {
	t.Parallel()
	l := open(t, stockXen)
	h := l.host("xen-A", "e1000e", "rtl8139")
	l.create(h, passed(0, 5))
	l.restore(passed(1, 6))
	outage := l.bed.Witness.Snapshot().FromGuest.LongestGap
	l.unharmed()

	l.silence() // it leaves its device
	for l.status().Roles[0].Device != "" {
		l.pause("the guest to notice that its device has gone")
	}
	without := l.silence()
	l.give(1, 6)
	l.until("has the device again", func(r ctl.RoleStatus) bool { return r.Mode == ctl.ModePassive && r.Device != "" })
	driver := untilLink(t, l.reload())
	if without <= 0 || driver <= 0 {
		t.Fatalf("silent for %v without a device, %v until the new one had a link", without, driver)
	}
	t.Logf("outage %.1f s; without a device %.1f s, and the driver's probe, open and link %.1f s: %.2f times that",
		outage.Seconds(), without.Seconds(), driver.Seconds(), outage.Seconds()/(without+driver).Seconds())
}

// reload has the role's driver loaded anew.
func (l *lab) reload() (tl ctl.Timeline) {
	l.t.Helper()
	if err := call(l.ctx, l.guest, ctl.CmdReload, ctl.RoleArgs{Role: rig.Role}, &tl); err != nil {
		l.t.Fatal(err)
	}
	return tl
}

// untilLink is what the driver of the new device took, from the scan that found it.
func untilLink(t *testing.T, tl ctl.Timeline) time.Duration {
	t.Helper()
	found, ok := tl.Stamp(ctl.StampScanned)
	up, linked := tl.Stamp(ctl.StampLink)
	if !ok || !linked {
		t.Fatalf("the recovery had no scan or no link: %v", tl.Stamps)
	}
	return time.Duration(up - found)
}

// silence moves the guest, without a device, which it can be given later, and returns for
// how long its agent did not answer.
func (l *lab) silence() time.Duration {
	l.t.Helper()
	opts := l.next(nil)
	opts.Plug = true
	here, there := l.guest, &xenlab.Domain{DomainOptions: opts, Host: l.guest.Host}
	l.say("moving the guest without a device")
	ctx, arrived := context.WithCancel(l.ctx) // of the questions
	defer arrived()
	var last, first time.Time
	var g errgroup.Group
	g.Go(func() error {
		for answers(ctx, here) == nil {
			last = time.Now()
		}
		return nil
	})
	g.Go(func() error {
		defer arrived()
		for ctx.Err() == nil {
			if answers(ctx, there) == nil {
				first = time.Now()
				return nil
			}
		}
		return errors.New("the guest does not answer where it went")
	})
	d, _, err := here.Restore(l.ctx, there.DomainOptions)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := g.Wait(); err != nil {
		l.t.Fatal(err)
	}
	l.guest = d
	l.watch()
	l.say("its agent was silent for %v", first.Sub(last).Round(time.Millisecond))
	return first.Sub(last)
}

// answers asks the agent something, and takes its time.
func answers(ctx context.Context, d *xenlab.Domain) error {
	_, err := timelines(ctx, d)
	select {
	case <-ctx.Done():
	case <-time.After(poll / 4):
	}
	return err
}
