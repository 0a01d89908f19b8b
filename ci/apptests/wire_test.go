// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/umbra-vm/umbra/ci/testbed/capture"
)

// A connection is what the wire has shown of one from the client's guest to the
// server's.
type connection struct{ to, back capture.Flow }

// connections are by the client's port and the server's.
type connections map[[2]uint16]connection

func (c connection) open() bool {
	return c.to.SYN > 0 && c.back.SYN > 0 && c.to.FIN+c.back.FIN+c.to.RST+c.back.RST == 0
}

// bytes is how much data went over the connection. Of iperf3's each carries data one
// way only.
func (c connection) bytes() uint64 { return c.to.Bytes + c.back.Bytes }

func (c connection) String() string {
	return fmt.Sprintf("%s-%s: %d SYN, %d FIN, %d RST", c.to.Src, c.to.Dst, c.to.SYN+c.back.SYN, c.to.FIN+c.back.FIN, c.to.RST+c.back.RST)
}

// pairUp returns the connections between the two guests.
func pairUp(flows []capture.Flow) connections {
	all := make(connections)
	for _, f := range flows {
		if key := [2]uint16{f.Src.Port(), f.Dst.Port()}; f.Src.Addr() == clientAddr && f.Dst.Addr() == serverAddr {
			c := all[key]
			c.to = f
			all[key] = c
		}
		if key := [2]uint16{f.Dst.Port(), f.Src.Port()}; f.Src.Addr() == serverAddr && f.Dst.Addr() == clientAddr {
			c := all[key]
			c.back = f
			all[key] = c
		}
	}
	return all
}

// inUse counts, by the server's port, the connections that are open and over which data
// has gone.
func (all connections) inUse() map[uint16]int {
	n := make(map[uint16]int)
	for key, c := range all {
		if c.open() && c.bytes() > 0 {
			n[key[1]]++
		}
	}
	return n
}

// goOn counts, by the server's port, those of before that are open and on which, since
// from, both ends have been heard and more data has gone.
func (all connections) goOn(before, from connections) map[uint16]int {
	n := make(map[uint16]int)
	for key, c := range before {
		was, is := from[key], all[key]
		heard := is.to.Segments > was.to.Segments && is.back.Segments > was.back.Segments
		if c.open() && is.open() && heard && is.bytes() > was.bytes() {
			n[key[1]]++
		}
	}
	return n
}

// changes tells which connections were opened, ended or reset since before.
func (all connections) changes(before connections) (said []string) {
	for _, key := range slices.SortedFunc(maps.Keys(all), func(a, b [2]uint16) int { return slices.Compare(a[:], b[:]) }) {
		now := all[key]
		was, known := before[key]
		switch {
		case !known:
			said = append(said, fmt.Sprintf("a new connection: %v", now))
		case was.open() && !now.open(), was.to.SYN+was.back.SYN != now.to.SYN+now.back.SYN:
			said = append(said, fmt.Sprintf("%v; before the moves it was %v", now, was))
		}
	}
	return said
}

// enough reports whether there are as many as wanted on every port. More than wanted are
// those on which, by their custom, nothing is said.
func enough(have, want map[uint16]int) bool {
	for port, n := range want {
		if have[port] < n {
			return false
		}
	}
	return true
}

// flow is one that has been opened, with something on it.
func flow(src, dst netip.AddrPort, change func(*capture.Flow)) capture.Flow {
	f := capture.Flow{Src: src, Dst: dst, Segments: 10, Bytes: 100, SYN: 1}
	if change != nil {
		change(&f)
	}
	return f
}

// TestWire holds what is read from the wire in the VM tests: that what these look for is
// seen if it is there.
func TestWire(t *testing.T) {
	client, server := netip.AddrPortFrom(clientAddr, 40000), netip.AddrPortFrom(serverAddr, 80)
	more := func(f *capture.Flow) { f.Segments, f.Bytes = f.Segments+5, f.Bytes+50 }
	only := func(f *capture.Flow) { f.Segments += 5 }
	both := func(to, back func(*capture.Flow)) connections {
		return pairUp([]capture.Flow{flow(client, server, to), flow(server, client, back)})
	}
	before := both(nil, nil)
	one := map[uint16]int{80: 1}
	for _, tc := range []struct {
		rule    string
		now     connections
		inUse   map[uint16]int
		goOn    map[uint16]int
		changes int
	}{
		{"a connection with data both ways goes on", both(more, more), one, one, 0},
		{"so does one with data one way, acknowledged", both(more, only), one, one, 0},
		{"one on which nothing was said stands still", both(nil, nil), one, nil, 0},
		{"one that only one end repeats itself on stands still", both(more, nil), one, nil, 0},
		{"one that is kept alive and carries nothing stands still", both(only, only), one, nil, 0},
		{"an end of a connection is seen", both(more, func(f *capture.Flow) { more(f); f.FIN++ }), nil, nil, 1},
		{"a reset is seen", both(func(f *capture.Flow) { more(f); f.RST++ }, more), nil, nil, 1},
		{"a handshake anew on the same ports is seen", both(func(f *capture.Flow) { more(f); f.SYN++ }, more), one, one, 1},
		{"a new connection is seen, and is none of those before", pairUp([]capture.Flow{
			flow(client, server, nil), flow(server, client, nil),
			flow(netip.AddrPortFrom(clientAddr, 40001), server, more), flow(server, netip.AddrPortFrom(clientAddr, 40001), more),
		}), map[uint16]int{80: 2}, nil, 1},
		{"a handshake without an answer is no connection in use", pairUp([]capture.Flow{
			flow(client, server, nil), flow(server, client, nil),
			flow(netip.AddrPortFrom(clientAddr, 40001), server, nil),
		}), one, nil, 1},
		{"what is between others is not looked at", pairUp([]capture.Flow{
			flow(client, server, more), flow(server, client, more), flow(netip.MustParseAddrPort("10.99.0.1:9"), server, more),
		}), one, one, 0},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if diff := cmp.Diff(tc.inUse, tc.now.inUse(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("in use, by port (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.goOn, tc.now.goOn(before, before), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("go on, by port (-want +got):\n%s", diff)
			}
			if got := tc.now.changes(before); len(got) != tc.changes {
				t.Errorf("changes are %q, want %d", got, tc.changes)
			}
		})
	}
}
