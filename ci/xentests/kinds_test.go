// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"context"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/xenlab"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestKinds boots the image as the kinds of guests that know that they are Xen's, on an
// unpatched Xen, with a paravirtual NIC in use; moves it live and by a file; and has the
// toolstack reboot it and shut it down.
func TestKinds(t *testing.T) {
	t.Parallel()
	for _, kind := range []image.XenKind{image.XenPV, image.XenPVH} {
		t.Run(string(kind), func(t *testing.T) { testKind(t, kind) })
	}
}

func testKind(t *testing.T, kind image.XenKind) {
	t.Parallel()
	l := open(t, stockXen)
	h := l.host("xen-A", paravirtual)
	l.start(h, xenlab.DomainOptions{Kind: kind, MAC: "52:54:00:75:6e:01"})
	l.serves("xen_netfront", "")

	l.migrateAs(h, l.next(nil), "")
	l.goesOn()
	l.restoreAs(l.next(nil))
	l.goesOn()
	l.suspended()

	before := l.status().Boottime
	if err := l.guest.Reboot(l.ctx); err != nil {
		t.Fatal(err)
	}
	for after := before; after >= before; after = l.status().Boottime {
		l.pause("the guest to boot again")
	}
	l.say("booted again")
	if err := l.guest.Stop(l.ctx); err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; {
		l.pause("the domain to go")
		_, err := h.Run(l.ctx, "xl domid "+l.guest.Name)
		gone = err != nil
	}
	l.say("shut down")
}

// goesOn waits until the guest's witness has gone on where the guest is now.
func (l *lab) goesOn() {
	l.t.Helper()
	l.traffic()
	tls, err := timelines(l.ctx, l.guest)
	if err != nil {
		l.t.Fatal(err)
	}
	l.say("it goes on after %d recoveries; longest gap seen by the peer: %v",
		len(tls)-1, l.bed.Witness.Snapshot().FromGuest.LongestGap.Round(time.Millisecond))
}

// status waits for the agent's answer.
func (l *lab) status() (st ctl.Status) {
	l.t.Helper()
	for err := l.ask(&st); err != nil; err = l.ask(&st) {
		l.pause("the agent's answer, after " + err.Error())
	}
	return st
}

func (l *lab) ask(st *ctl.Status) error {
	ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
	defer cancel()
	return call(ctx, l.guest, ctl.CmdStatus, nil, st)
}

// pause is a moment of waiting for something.
func (l *lab) pause(what string) {
	l.t.Helper()
	select {
	case <-l.ctx.Done():
		l.t.Fatalf("waiting for %s: %v", what, context.Cause(l.ctx))
	case <-time.After(poll):
	}
}
