// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/capture"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
	"github.com/umbra-vm/umbra/image"
)

// Guests and peers of connections, with and without messages to the peers.
var (
	hastenImage  = buildStreams("hasten", "hasten = \"on\"\n")
	patientImage = buildStreams("patient", "")
)

func buildStreams(name, role string) func() (*image.Bundle, error) {
	return build(name, rig.GuestOptions{
		Drivers: []string{"e1000", "8139cp", "virtio_net"}, NoWitness: true, Streams: true, Role: role,
	})
}

// TestHasten moves a guest that has a Linux guest for its peer. If the role is set to,
// it tells the peer what did not arrive, and the peer sends that before its own timer
// would have had it do so. If not, it tells nothing.
func TestHasten(t *testing.T) {
	for _, tc := range []struct {
		name   string
		bundle func() (*image.Bundle, error)
		ipv6   bool
		told   bool
	}{
		{"IPv4", hastenImage, false, true},
		{"IPv6", hastenImage, true, true},
		{"not unless it is set", patientImage, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := startPair(t, tc.bundle, tc.ipv6)
			// A peer whose segment was on its way when the guest left has to wait, but it
			// need not have been.
			found := false
			for i := 0; i < 20 && !found; i++ {
				p.trace.Take()
				p.move([]rig.NIC{virtioAt5, rtl8139At2}[i%2])
				p.lossless(p.recovered(i + 1))
				events := p.goOn()
				if tc.told {
					found = hastened(t, events)
					continue
				}
				found = waited(events)
				for _, e := range events {
					if e.Unreachable {
						t.Errorf("the peer was told that it did not reach the guest: %+v", e)
					}
				}
			}
			if !found {
				t.Error("in no move a peer had to wait")
			}
			if text := p.pair.Failed(); text != "" {
				t.Error(text)
			}
		})
	}
}

// pairGuest is a guest under test with its peer.
type pairGuest struct {
	*guest
	pair  *rig.Pair
	trace *capture.Trace
}

func startPair(t *testing.T, bundle func() (*image.Bundle, error), ipv6 bool) *pairGuest {
	t.Helper()
	if testing.Short() {
		t.Skip("a VM test")
	}
	b, err := bundle()
	if err != nil {
		t.Fatalf("build the image: %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(vmtest.Context(t), 2*patience, errors.New("the test hangs"))
	t.Cleanup(cancel)
	p := &pairGuest{guest: &guest{t: t, ctx: ctx, rec: new(recorder)}, trace: new(capture.Trace)}
	opts := testbed.Options{Dir: vmtest.Dir(t), Taps: []vswitch.Tap{p.trace}}
	if ipv6 {
		opts.IPv6 = new(testbed.IPv6)
	}
	if p.bed, err = testbed.Open(ctx, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.bed.Close() })
	p.pair, err = rig.StartPair(ctx, rig.Options{Bundle: b, Bed: p.bed, Dir: opts.Dir, OnLine: p.rec.line}, e1000At2, ipv6)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.rec.console(keptLines))
	}
	p.Rig = p.pair.Rig
	t.Cleanup(func() {
		if t.Failed() {
			p.dump()
		}
		p.pair.Close()
	})
	return p
}

// goOn waits until all connections go on after a move, and returns what was on the wire.
func (p *pairGuest) goOn() (events []capture.Event) {
	p.t.Helper()
	p.until("all connections go on", func() error {
		more, overflow := p.trace.Take()
		if overflow > 0 {
			return fmt.Errorf("%d segments too many for the capture", overflow)
		}
		events = append(events, more...)
		_, err := p.pair.Outage(events)
		return err
	})
	return events
}

// attempt is one segment of one direction of a connection.
type attempt struct {
	src, dst netip.AddrPort
	seq      uint32
}

// attempts are when each segment with something in it was sent.
func attempts(events []capture.Event) map[attempt][]time.Time {
	sent := make(map[attempt][]time.Time)
	for _, e := range events {
		if e.Payload > 0 && !e.Unreachable {
			a := attempt{e.Src, e.Dst, e.Seq}
			sent[a] = append(sent[a], e.At)
		}
	}
	return sent
}

// waits is how many attempts make a wait that has been doubled: the first, one by the
// timer of tail loss (RFC 8985), and two by that of retransmission.
const waits = 4

// waited reports whether anybody on the wire had to wait so.
func waited(events []capture.Event) bool {
	for _, at := range attempts(events) {
		if len(at) >= waits {
			return true
		}
	}
	return false
}

// hastened reports whether a peer that was told of a segment has sent it again before its
// timer had it do so: this runs out when twice the time between the two attempts before
// has passed since the last. On a crowded machine that time may have been too long; so what
// counts is three quarters of it.
func hastened(t *testing.T, events []capture.Event) bool {
	t.Helper()
	sent := attempts(events)
	for _, e := range events {
		if !e.Unreachable {
			continue
		}
		at := sent[attempt{e.Src, e.Dst, e.Seq}]
		before := 0
		for before < len(at) && at[before].Before(e.At) {
			before++
		}
		if before < waits || before == len(at) {
			continue
		}
		last, again := at[before-1].Sub(at[before-2]), at[before].Sub(at[before-1])
		t.Logf("%s → %s: sent %d times, the last two %s apart, told, and sent again after %s", e.Src, e.Dst, before, last, again)
		if again < last*3/2 {
			return true
		}
	}
	return false
}
