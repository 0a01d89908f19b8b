// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzRelay holds the relay to its promises whatever the source sends: no panic,
// no more memory than allowed, typed errors; and what it does pass is itself a
// stream in which nothing is left of the dropped device.
func FuzzRelay(f *testing.F) {
	f.Add(small())
	f.Add((&board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 10}, devices: map[string][]int{"0000:00:02.0": {0}}}).stream())
	f.Add((&board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 10}, virtio: map[string][]byte{"0000:00:02.0": virtioLump(true, 0)}}).stream())
	for _, in := range captured(f) {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		opts := Options{Drop: []Path{slot2}, MaxDeviceState: 1 << 20}
		committed := false
		opts.Commit = func() error { committed = true; return nil }
		out, rep, err := relayBytes(in, opts)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || committed {
				t.Fatalf("committed: %v, error %v", committed, err)
			}
			return
		}
		for _, s := range rep.Kept {
			if slot2.owns(s.Name) {
				t.Errorf("section %q was kept", s.Name)
			}
		}
		again, rep2, err := relayBytes(out, Options{MaxDeviceState: 2 << 20})
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("what was passed is not passed again: %v", err)
		}
		if len(rep2.Kept) != len(rep.Kept) || rep2.Pages != rep.Pages || rep2.ZeroPages != rep.ZeroPages {
			t.Errorf("passed %+v, then %+v", rep, rep2)
		}
	})
}

// FuzzMachine is FuzzRelay without what comes before device state, so that the
// fuzzer spends its time on the part whose sizes come from a description.
func FuzzMachine(f *testing.F) {
	for _, in := range [][]byte{
		toDevices().device(1, "timer", "timer", 0, fieldOf{name: "ticks", typ: "int64", data: make([]byte, 8)}).end(),
		(&board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 10}, devices: map[string][]int{"0000:00:02.0": {0}}}).stream(),
		(&board{ich9: true, counts: []uint32{0, 0, 0, 0, 0, 0, 1, 0}, config: map[int]byte{0x6a: 9}, devices: map[string][]int{"0000:00:02.0": {0}}}).stream(),
	} {
		f.Add(in[len(toDevices().Bytes()):])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := parseMachine(in, 0)
		if err != nil {
			if m != nil {
				t.Fatal("a machine and an error")
			}
			return
		}
		total := 0
		for _, d := range m.devices {
			total += len(d.raw)
			for _, s := range d.spans {
				total -= len(s.data)
			}
		}
		if total < 0 {
			t.Fatal("fields are larger than their devices")
		}
		if m.drop([]Path{slot2}) == nil {
			m.releaseLines([]Path{slot2})
		}
	})
}

func FuzzParsePath(f *testing.F) {
	f.Add("0000:00:02.0")
	f.Add("0000:00:03.0:1f.7")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePath(s); err == nil && p.String() != s {
			t.Errorf("%q became %q", s, p)
		}
	})
}
