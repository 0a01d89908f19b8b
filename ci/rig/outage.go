// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package rig

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/umbra-vm/umbra/ci/streams"
	"github.com/umbra-vm/umbra/ci/testbed/capture"
)

// An Outage is a move as the wire between a guest and its peer saw it.
type Outage struct {
	Left     time.Time // the guest's last segment on its old NIC
	Released time.Time // its first on the new one: what was held has begun to leave
	// Again is, by the name of a streams.Kind, when its connection went on: the receiver
	// had acknowledged something that was sent after Released, and where one side asks
	// and the other answers, both had.
	Again map[string]time.Time
}

// What an Outage may lack.
var (
	ErrNotOnWire = errors.New("the guest has sent nothing on its new NIC")
	ErrStill     = errors.New("a connection stands still")
)

// Outage reads what was on the wire during the last move and since. It returns
// ErrNotOnWire or ErrStill as long as not everything is over.
func (p *Pair) Outage(events []capture.Event) (Outage, error) {
	ports := p.Bed.Switch.Ports() // the guest's is the newest
	return outage(events, ports[len(ports)-1].Name())
}

func outage(events []capture.Event, port string) (o Outage, err error) {
	first := slices.IndexFunc(events, func(e capture.Event) bool { return e.Port == port && !e.Unreachable })
	if first < 0 {
		return o, ErrNotOnWire
	}
	o.Released = events[first].At
	for _, e := range events[:first] {
		if e.Src.Addr() == events[first].Src.Addr() && !e.Unreachable {
			o.Left = e.At
		}
	}
	o.Again = make(map[string]time.Time)
	for _, k := range streams.Kinds() {
		var ways []func(capture.Event) (sender, receiver uint16)
		if k.FromGuest {
			ways = append(ways, func(e capture.Event) (uint16, uint16) { return e.Dst.Port(), e.Src.Port() })
		}
		if k.ToGuest {
			ways = append(ways, func(e capture.Event) (uint16, uint16) { return e.Src.Port(), e.Dst.Port() })
		}
		for _, ends := range ways {
			at, ok := goesOn(events, o.Released, k.Port, ends)
			if !ok {
				return o, fmt.Errorf("%w: %s", ErrStill, k.Name)
			}
			if at.After(o.Again[k.Name]) {
				o.Again[k.Name] = at
			}
		}
	}
	return o, nil
}

// goesOn is when a receiver first acknowledges more than before by what was sent after
// released: an acknowledgement that was held is of what had come before. ends tells of a
// segment the port that is port if the sender of data has sent it, and the one that is if
// the receiver has.
func goesOn(events []capture.Event, released time.Time, port uint16, ends func(capture.Event) (sender, receiver uint16)) (at time.Time, ok bool) {
	var acked uint32
	known := false
	var sent []capture.Event
	for _, e := range events {
		sender, receiver := ends(e)
		switch {
		case e.Unreachable:
		case sender == port && e.Payload > 0 && !e.At.Before(released):
			sent = append(sent, e)
		case receiver == port && (!known || capture.After(e.Ack, acked)):
			news := func(s capture.Event) bool { return capture.After(s.End(), acked) && capture.After(e.Ack, s.Seq) }
			if known && slices.ContainsFunc(sent, news) {
				return e.At, true
			}
			acked, known = e.Ack, true
		}
	}
	return time.Time{}, false
}
