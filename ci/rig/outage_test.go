// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package rig

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/streams"
	"github.com/umbra-vm/umbra/ci/testbed/capture"
)

// wire is a capture that is written by hand. Each event is a second after the last.
type wire struct {
	at     time.Time
	events []capture.Event
}

func (w *wire) say(port string, src, dst netip.AddrPort, seq, ack uint32, payload int) time.Time {
	w.at = w.at.Add(time.Second)
	w.events = append(w.events, capture.Event{At: w.at, Port: port, Src: src, Dst: dst, Seq: seq, Ack: ack, Payload: payload})
	return w.at
}

func TestOutage(t *testing.T) {
	guest, peer := netip.MustParseAddr("10.99.0.11"), netip.MustParseAddr("10.99.0.10")
	w := &wire{at: time.Unix(1000, 0)}
	g, p := make(map[uint16]netip.AddrPort), make(map[uint16]netip.AddrPort)
	want := make(map[string]time.Time)
	kinds := streams.Kinds()
	// Sequence numbers that are about to begin anew.
	seq, ack := ^uint32(0)-50, ^uint32(0)-20
	for _, k := range kinds {
		g[k.Port], p[k.Port] = netip.AddrPortFrom(guest, 40000+k.Port), netip.AddrPortFrom(peer, k.Port)
		w.say("old", g[k.Port], p[k.Port], seq, ack, 64)
		w.say("peer", p[k.Port], g[k.Port], ack, seq, 64)
	}
	left := w.at.Add(-time.Second)
	w.say("peer", p[7102], g[7102], ack, seq, 64) // into the void
	check := func(when string, wantErr error) {
		t.Helper()
		if _, err := outage(w.events, "new"); !errors.Is(err, wantErr) {
			t.Errorf("%s: %v, want %v", when, err, wantErr)
		}
	}
	check("while the guest is away", ErrNotOnWire)
	var released time.Time
	for _, k := range kinds {
		// What was held: the acknowledgement of what had come before the move.
		at := w.say("new", g[k.Port], p[k.Port], seq, ack+32, 64)
		if released.IsZero() {
			released = at
		}
	}
	for _, k := range kinds {
		check("before all go on", ErrStill)
		if k.FromGuest {
			want[k.Name] = w.say("peer", p[k.Port], g[k.Port], ack, seq+64, 0)
		}
		if k.ToGuest {
			w.say("peer", p[k.Port], g[k.Port], ack+32, seq+64, 64)
			want[k.Name] = w.say("new", g[k.Port], p[k.Port], seq+64, ack+96, 0)
		}
	}
	o, err := outage(w.events, "new")
	if err != nil {
		t.Fatal(err)
	}
	if !o.Left.Equal(left) || !o.Released.Equal(released) {
		t.Errorf("left at %s and released at %s, want %s and %s", o.Left, o.Released, left, released)
	}
	for _, k := range kinds {
		if !o.Again[k.Name].Equal(want[k.Name]) {
			t.Errorf("%s goes on at %s, want %s", k.Name, o.Again[k.Name], want[k.Name])
		}
	}
}
