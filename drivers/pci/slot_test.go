// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import "testing"

// port returns configuration space of a root port whose slot is hot-plug capable,
// empty and without power, as QEMU has it after a reset, with bytes changed. The PCI
// Express capability is at 54, slot control at 6c.
func port(set map[int]byte) []byte {
	b := header(ConfigSize, map[int]byte{
		0x06: 0x10, 0x0e: headerTypeBridge, 0x34: 0x54,
		0x54: capExpress, 0x56: 0x42, 0x57: 0x01, // root port, slot implemented
		0x62: 0x10,             // the link reports that it is active
		0x68: 0x7b, 0x6a: 0x02, // all but a latch sensor
		0x6c: 0xc0, 0x6d: 0x07, 0x66: 0x04, // off, indicators too
	})
	for i, v := range set {
		b[i] = v
	}
	return b
}

func TestParseSlot(t *testing.T) {
	for _, tt := range []struct {
		rule string
		b    []byte
		ok   bool
	}{
		{"a root port with a slot", port(nil), true},
		{"a downstream port of a switch with a slot", port(map[int]byte{0x56: 0x62}), true},
		{"an upstream port has none", port(map[int]byte{0x56: 0x52}), false},
		{"a bridge to PCI has none", port(map[int]byte{0x56: 0x72}), false},
		{"a port whose device is soldered has none", port(map[int]byte{0x57: 0}), false},
		{"a card says nothing of a slot", port(map[int]byte{0x0e: 0}), false},
		{"a bridge without the capability", port(map[int]byte{0x54: capMSI}), false},
		{"without a capability list", port(map[int]byte{0x06: 0}), false},
		{"a capability that runs over the end", port(map[int]byte{0x34: 0xf0, 0xf0: capExpress, 0xf2: 0x42, 0xf3: 0x01}), false},
		{"a port that is gone", ones(ConfigSize), false},
		{"the header alone", port(nil)[:HeaderSize], false},
		{"nothing", nil, false},
	} {
		s, ok := ParseSlot(tt.b)
		if ok != tt.ok || !ok && s != (Slot{}) || ok && s.Offset != 0x6c {
			t.Errorf("%s: %+v, %t", tt.rule, s, ok)
		}
	}
}

func TestSlot(t *testing.T) {
	for _, tt := range []struct {
		rule      string
		set       map[int]byte
		dark, lit bool
	}{
		{"power is given where there is none and no card", nil, true, false},
		{"a slot that has power is not given any", map[int]byte{0x6d: 0x03}, false, false},
		{"a slot that has it and blinks was given it to be looked at", map[int]byte{0x6d: 0x02}, false, true},
		{"a card that is there and off is somebody's wish", map[int]byte{0x6e: 0x40}, false, false},
		{"and one that blinks is about to be pulled or used", map[int]byte{0x6d: 0x02, 0x6e: 0x40}, false, false},
		{"nor is power given to a slot that blinks: somebody is about to use it", map[int]byte{0x6d: 0x06}, false, false},
		{"a link that is up is a card", map[int]byte{0x67: 0x20}, false, false},
		{"a link that is not reported does not count", map[int]byte{0x62: 0, 0x67: 0x20}, true, false},
		{"a port without a power controller", map[int]byte{0x68: 0x79}, false, false},
		{"a slot that is not for hot-plug", map[int]byte{0x68: 0x3b}, false, false},
		{"an open latch", map[int]byte{0x68: 0x7f, 0x6e: 0x20}, false, false},
		{"a closed latch", map[int]byte{0x68: 0x7f}, true, false},
		{"the bit of a latch that nobody senses", map[int]byte{0x6e: 0x20}, true, false},
		{"a power fault", map[int]byte{0x6e: 0x02}, false, false},
		{"a slot that is locked", map[int]byte{0x6e: 0x80}, false, false},
		{"a link that somebody has disabled", map[int]byte{0x64: 0x10}, false, false},
		{"events that nobody has answered do not count", map[int]byte{0x6e: 0x1d, 0x6f: 0x01}, true, false},
		{"what is without an indicator does not say that it is lit", map[int]byte{0x68: 0x6b, 0x6d: 0x02}, false, false},
	} {
		s, ok := ParseSlot(port(tt.set))
		if !ok || s.Dark() != tt.dark || s.Lit() != tt.lit {
			t.Errorf("%s: %+v, dark %t, lit %t", tt.rule, s, s.Dark(), s.Lit())
		}
	}
}

func TestSlotControl(t *testing.T) {
	for _, tt := range []struct {
		rule           string
		set            map[int]byte
		on, inUse, off uint16
	}{
		{"power and its indicator change", nil, 0x02c0, 0x01c0, 0x07c0},
		{"interrupts and the attention indicator stay", map[int]byte{0x6c: 0x71, 0x6d: 0x17}, 0x1271, 0x1171, 0x1771},
		{"the lock is not toggled", map[int]byte{0x6d: 0x0f}, 0x02c0, 0x01c0, 0x07c0},
		{"an indicator that is not there is not written to", map[int]byte{0x68: 0x6b, 0x6d: 0x04}, 0x00c0, 0x00c0, 0x04c0},
	} {
		s, _ := ParseSlot(port(tt.set))
		if s.On() != tt.on || s.InUse() != tt.inUse || s.Off() != tt.off {
			t.Errorf("%s: on %04x, in use %04x, off %04x; want %04x, %04x, %04x", tt.rule, s.On(), s.InUse(), s.Off(), tt.on, tt.inUse, tt.off)
		}
	}
}

func FuzzParseSlot(f *testing.F) {
	f.Add(port(nil))
	f.Add(port(map[int]byte{0x34: 0xf0, 0xf0: capExpress}))
	f.Add(port(map[int]byte{0x55: 0x54}))
	f.Add(ones(ConfigSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := ParseSlot(b)
		if !ok {
			return
		}
		if s.Offset < HeaderSize || s.Offset+2 > ConfigSize || s.Offset%4 != 0 {
			t.Errorf("slot control at %#x", s.Offset)
		}
		if s.Dark() && (s.Powered() || s.Occupied() || !s.Controlled()) || s.Dark() && s.Lit() {
			t.Errorf("contradiction in %+v", s)
		}
		// What is given power can be found again, and taken back.
		if on := s; s.Dark() {
			if on.Control = s.On(); on.Dark() || !on.Powered() || on.Off() != s.Off() {
				t.Errorf("%+v becomes %+v", s, on)
			}
		}
	})
}
