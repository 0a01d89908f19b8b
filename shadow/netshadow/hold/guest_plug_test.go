// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package hold_test

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
)

// TestGuestPlug holds frames on a bond whose port is dead and releases them to
// another, while a sender goes on without pause.
func TestGuestPlug(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newField(t)
	bond, tap := newBond(t, dying)
	defer tap.Close()
	p := newPlug(t)
	ctx := testContext(t)

	if _, err := p.Stats(ctx, bond.Attrs().Index); !errors.Is(err, hold.ErrNotPlugged) {
		t.Errorf("stats before: %v, want ErrNotPlugged", err)
	}
	before := rootQdisc(t, bond)

	const size = 120
	count := sendUntilStopped(t, bond.Attrs().Index, size)
	time.Sleep(50 * time.Millisecond)
	kill(t, dying)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index, Proxy: bond.Attrs().Index})
	if err := p.Hold(ctx, bond.Attrs().Index, 16<<20); err != nil {
		t.Fatal(err)
	}
	setActive(t, bond, "tap-test")
	linkDown(t, dying)
	if err := netlink.LinkSetNoMaster(dying); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if st, err := p.Stats(ctx, bond.Attrs().Index); err != nil || st.Frames == 0 {
		t.Errorf("while held: %+v, %v", st, err)
	}
	linkDown(t, living)
	if err := netlink.LinkSetMaster(living, bond); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkSetNoMaster(living)
	linkUp(t, living)
	if err := h.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	harvested := take(t, h)
	send(t, living.Attrs().Index, harvested)
	setActive(t, bond, living.Attrs().Name)
	out := capture(t, living.Attrs().Index, unix.ETH_P_ALL)
	res, err := p.Release(ctx, bond.Attrs().Index, living.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	disarm(t, h)
	tail := take(t, h)
	send(t, living.Attrs().Index, tail)
	time.Sleep(50 * time.Millisecond)
	n := count()
	t.Logf("harvested %d, released %+v, after %d, sent %d", len(harvested), res, len(tail), n)
	if res.Held == 0 || res.Drops != 0 || res.PortDrops != 0 {
		t.Errorf("released %+v", res)
	}
	if len(tail) != 0 {
		t.Errorf("%d frames were refused while the plug was removed, and overtaken", len(tail))
	}
	if after := rootQdisc(t, bond); after != before {
		t.Errorf("root queueing discipline is %q, was %q", after, before)
	}

	wantEach(t, c, 0, n)
	wantAscending(t, out)
	if len(harvested) > 0 {
		wantHarvested(t, harvested, number(t, harvested[0].Data))
	}
}

// TestGuestExchange proves that no frame is lost while the plug is put on and taken
// off under a sender that never pauses, and that none is overtaken while it is taken off.
func TestGuestExchange(t *testing.T) {
	living, seen := nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newField(t)
	bond, tap := newBond(t, living)
	defer tap.Close()
	p := newPlug(t)
	ctx := testContext(t)
	arm(t, h, harvest.Target{Proxy: bond.Attrs().Index})
	count := sendUntilStopped(t, bond.Attrs().Index, 100)
	caught := 0
	resend := func() int {
		t.Helper()
		if err := h.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		frames := take(t, h)
		send(t, living.Attrs().Index, frames)
		return len(frames)
	}
	for range 20 {
		if err := p.Hold(ctx, bond.Attrs().Index, 1<<20); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
		caught += resend()
		if _, err := p.Release(ctx, bond.Attrs().Index, living.Attrs().Index); err != nil {
			t.Fatal(err)
		}
		if n := resend(); n > 0 {
			t.Errorf("%d frames were refused while the plug was removed, and overtaken", n)
		}
	}
	n := count()
	disarm(t, h)
	t.Logf("%d of %d frames were caught while the plug was put on", caught, n)
	wantEach(t, c, 0, n)
}

func TestGuestPlugSuccessor(t *testing.T) {
	dying, seen := nic(t, "e1000"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	ctx := testContext(t)
	index := dying.Attrs().Index
	first, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Hold(ctx, index, 1<<20); err != nil {
		t.Fatal(err)
	}
	const size, n = 100, 40
	transmit(t, index, 0, n, size)
	first.Close()

	second, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Hold(ctx, index, 2<<20); err != nil {
		t.Fatalf("hold what a predecessor holds: %v", err)
	}
	transmit(t, index, n, 2*n, size)
	quiet(t, c)
	res, err := second.Release(ctx, index, 0)
	if err != nil || res.Held != 2*n {
		t.Errorf("release: %+v, %v, want %d held", res, err, 2*n)
	}
	wantNumbers(t, receive(t, c, 2*n), 0)
	if _, err := second.Release(ctx, index, 0); !errors.Is(err, hold.ErrNotPlugged) {
		t.Errorf("release again: %v, want ErrNotPlugged", err)
	}
}

func TestGuestPlugLimit(t *testing.T) {
	dying := nic(t, "e1000")
	ctx := testContext(t)
	index := dying.Attrs().Index
	p := newPlug(t)
	const size = 100
	if err := p.Hold(ctx, index, 10*size); err != nil {
		t.Fatal(err)
	}
	fd := applicationSocket(t)
	defer unix.Close(fd)
	for n := range 25 { // fails from the tenth on
		unix.Sendto(fd, numberedFrame(n, size), 0, &unix.SockaddrLinklayer{Ifindex: index})
	}
	res, err := p.Release(ctx, index, 0)
	if err != nil || res.Held != 10 || res.Bytes != 10*size || res.Drops != 15 {
		t.Errorf("release: %+v, %v, want 10 held, 15 dropped", res, err)
	}
}

// TestGuestPlugBurst holds more than the port's queue takes at once. What that queue
// refuses is harvested.
func TestGuestPlugBurst(t *testing.T) {
	living, seen := nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newField(t)
	bond, tap := newBond(t, living)
	defer tap.Close()
	ctx := testContext(t)
	p := newPlug(t)
	fifo := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: living.Attrs().Index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "pfifo_fast",
	}
	if err := netlink.QdiscAdd(fifo); err != nil {
		t.Fatal(err)
	}
	defer netlink.QdiscDel(fifo)
	if err := p.Hold(ctx, bond.Attrs().Index, 64<<20); err != nil {
		t.Fatal(err)
	}
	const size, held = 64, 6000
	transmit(t, bond.Attrs().Index, 0, held, size)
	out := capture(t, living.Attrs().Index, unix.ETH_P_ALL)
	arm(t, h, harvest.Target{Proxy: bond.Attrs().Index})
	if err := h.Aim(harvest.Target{Proxy: bond.Attrs().Index, Port: living.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	res, err := p.Release(ctx, bond.Attrs().Index, living.Attrs().Index)
	if err != nil || res.Held != held || res.Drops != 0 {
		t.Errorf("release: %+v, %v, want %d held", res, err, held)
	}
	disarm(t, h)
	frames := take(t, h)
	if len(frames) != res.PortDrops {
		t.Errorf("harvested %d frames of %d that the port refused", len(frames), res.PortDrops)
	}
	send(t, living.Attrs().Index, frames)
	t.Logf("%d refused by the port", res.PortDrops)
	wantEach(t, c, 0, held)
	wantAscending(t, out)
}

// TestGuestPlugImpatientQueue releases frames to a slow port whose fq_codel drops what
// has waited: none is lost to a harvester that stays until the queue has settled.
func TestGuestPlugImpatientQueue(t *testing.T) {
	living, seen := nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newField(t)
	bond, tap := newBond(t, living)
	defer tap.Close()
	ctx := testContext(t)
	p := newPlug(t)
	index := living.Attrs().Index
	slow := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT},
		Rate:       100_000, Buffer: 10_000, Limit: 1 << 20, // bytes a second, ticks, bytes
	}
	if err := netlink.QdiscAdd(slow); err != nil {
		t.Fatal(err)
	}
	defer netlink.QdiscDel(slow)
	codel := netlink.NewFqCodel(netlink.QdiscAttrs{LinkIndex: index, Handle: 0x20000, Parent: 0x10001})
	codel.Target, codel.Interval = 1000, 10_000 // µs
	if err := netlink.QdiscAdd(codel); err != nil {
		t.Fatal(err)
	}
	if err := p.Hold(ctx, bond.Attrs().Index, 64<<20); err != nil {
		t.Fatal(err)
	}
	const size, held = 64, 500
	transmit(t, bond.Attrs().Index, 0, held, size)
	arm(t, h, harvest.Target{Proxy: bond.Attrs().Index, Port: index})
	if _, err := p.Release(ctx, bond.Attrs().Index, index); err != nil {
		t.Fatal(err)
	}
	if err := p.Settle(ctx, index); err != nil {
		t.Fatal(err)
	}
	disarm(t, h)
	frames := take(t, h)
	if len(frames) == 0 {
		t.Error("the queue dropped nothing: the test shows nothing")
	}
	t.Logf("%d waited too long", len(frames))
	send(t, index, frames)
	wantEach(t, c, 0, held)
}

func TestGuestRootBusy(t *testing.T) {
	dying := nic(t, "e1000")
	q := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dying.Attrs().Index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "pfifo_fast",
	}
	if err := netlink.QdiscAdd(q); err != nil {
		t.Fatal(err)
	}
	defer netlink.QdiscDel(q)
	p := newPlug(t)
	if err := p.Hold(testContext(t), dying.Attrs().Index, 1<<20); !errors.Is(err, hold.ErrRootBusy) {
		t.Errorf("hold: %v, want ErrRootBusy", err)
	}
	if root := rootQdisc(t, dying); root != "pfifo_fast 1:" {
		t.Errorf("root queueing discipline is now %q", root)
	}
}

func TestGuestTap(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	bond, tap := newBond(t, dying)
	defer tap.Close()
	r, err := hold.NewTapReader(testLogger(t), tap, hold.Limits{Bytes: 1 << 20, Frames: 100})
	if err != nil {
		t.Fatal(err)
	}
	setActive(t, bond, "tap-test")
	const size, sent, kept = 100, 130, 100
	transmit(t, bond.Attrs().Index, 0, sent, size)
	got := r.Take()
	if total := r.Collected(); total.Frames != kept || total.Drops != sent-kept || len(got) != kept {
		t.Errorf("took %d frames, collected %+v", len(got), total)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	send(t, living.Attrs().Index, got)
	wantNumbers(t, receive(t, c, len(got)), 0)
}

func TestGuestSenderWithoutInterface(t *testing.T) {
	_, tap := newBond(t, nic(t, "e1000"))
	l, err := netlink.LinkByName("tap-test")
	if err != nil {
		t.Fatal(err)
	}
	s, err := hold.NewSender(l.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tap.Close()
	frames := []frame.Frame{{Data: numberedFrame(0, 100)}, {Data: numberedFrame(1, 100)}, {Data: numberedFrame(2, 100)}}
	res, err := s.Send(testContext(t), frames)
	var op *hold.OpError
	if !errors.As(err, &op) || len(res.Rest) != 3 || res.Frames != 0 {
		t.Errorf("send on an interface that is gone: %+v, %v", res, err)
	}
}
