// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"
)

// FuzzRelay feeds the relay whatever the fuzzer makes of little streams.
func FuzzRelay(f *testing.F) {
	f.Add((&board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 10}, devices: map[string][]int{"0000:00:02.0": {0}}}).stream())
	f.Add((&board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 10}, virtio: map[string][]byte{"0000:00:02.0": virtioLump(false, 0)}}).stream())
	b := newStream().configuration("pc").ramStart().blocks(blockSize{"pc.ram", 0x4000}, blockSize{"0000:00:02.0/nic.rom", 0x1000}).eos()
	b.ramPart(typeSectionPart).zero("pc.ram", 0).zero("", 0x1000).zero("0000:00:02.0/nic.rom", 0).page("pc.ram", 0x2000, 9).eos()
	f.Add(b.ramPart(typeSectionEnd).eos().device(4, "0000:00:02.0/nic", "nic", 0, pciFields()...).end())
	f.Fuzz(holdsPromises)
}

// FuzzCaptured feeds the relay captured streams with bytes changed, cut out or
// put in. edits is a sequence of five bytes each: three of position, an
// operation, a value.
func FuzzCaptured(f *testing.F) {
	var streams [][]byte
	all := captured(f)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		streams = append(streams, all[name])
	}
	for i, s := range streams {
		f.Add(uint8(i), []byte{})
		end := bytes.LastIndex(s, []byte{typeEOF, typeVMDescription})
		first := bytes.IndexByte(s, typeSectionFull)
		for _, pos := range []int{4, 9, 30, first, first + 1, end - 40, end, end + 3, end + 200, len(s) - 3} {
			for op := range byte(4) {
				f.Add(uint8(i), []byte{byte(pos >> 16), byte(pos >> 8), byte(pos), op, 0x10})
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		s := bytes.Clone(streams[int(which)%len(streams)])
		for ; len(edits) >= 5; edits = edits[5:] {
			pos := (int(edits[0])<<16 | int(edits[1])<<8 | int(edits[2])) % len(s)
			v := edits[4]
			switch edits[3] % 4 {
			case 0:
				s[pos] = v
			case 1:
				s[pos] ^= v
			case 2:
				s = slices.Delete(s, pos, min(pos+int(v), len(s)-1))
			case 3:
				s = slices.Insert(s, pos, v)
			}
		}
		holdsPromises(t, s)
	})
}

// holdsPromises holds the relay to what it promises whatever the source sends:
// no panic, typed errors, no end mark after one; and what it does pass is itself
// a stream, in which nothing is left of the dropped device.
func holdsPromises(t *testing.T, in []byte) {
	committed := false
	out, rep, err := relayBytes(in, Options{
		Drop:           []Path{slot2},
		MaxDeviceState: 1 << 20,
		Commit:         func() error { committed = true; return nil },
	})
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
	again, rep2, err := relayBytes(out, Options{MaxDeviceState: 1 << 20})
	if err != nil || !bytes.Equal(out, again) {
		t.Fatalf("what was passed is not passed again: %v", err)
	}
	if len(rep2.Kept) != len(rep.Kept) || rep2.Pages != rep.Pages || rep2.ZeroPages != rep.ZeroPages {
		t.Errorf("passed %+v, then %+v", rep, rep2)
	}
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
