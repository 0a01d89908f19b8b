// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Address
	}{
		{"0000:00:02.0", Address{Device: 2}},
		{"0001:ff:1f.7", Address{1, 0xff, 0x1f, 7}},
		{"10000:e0:06.0", Address{0x10000, 0xe0, 6, 0}},
	} {
		got, err := ParseAddress(tt.text)
		if err != nil || got != tt.want || got.String() != tt.text {
			t.Errorf("ParseAddress(%q) = %v, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{
		"", "00:02.0", "0000:00:02", "0000:00:20.0", "0000:00:02.8", "000:00:02.0", "0000:0:02.0",
		"0000:00:2.0", "0000:00:02.00", "0000:00:02.0 ", "000g:00:02.0", "0000:00:+2.0", "virtio0",
	} {
		if a, err := ParseAddress(text); err == nil {
			t.Errorf("ParseAddress(%q) = %v, want an error", text, a)
		}
	}
}

func TestAddressOrder(t *testing.T) {
	want := []string{"0000:00:02.0", "0000:00:02.1", "0000:00:10.0", "0000:01:00.0", "0001:00:00.0", "10000:00:00.0"}
	var addresses []Address
	for _, text := range want {
		a, err := ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		addresses = append([]Address{a}, addresses...)
	}
	slices.SortFunc(addresses, Address.Compare)
	for i, a := range addresses {
		if a.String() != want[i] {
			t.Errorf("place %d: %v, want %s", i, a, want[i])
		}
	}
}

// header returns configuration space of n bytes with the given ones set.
func header(n int, set map[int]byte) []byte {
	b := make([]byte, n)
	for i, v := range set {
		b[i] = v
	}
	return b
}

func ones(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func TestParseConfig(t *testing.T) {
	// A list of an unknown capability at 40, MSI at 50, MSI-X at 60.
	list := map[int]byte{0x06: 0x10, 0x34: 0x40, 0x40: 0x01, 0x41: 0x50, 0x50: capMSI, 0x51: 0x60, 0x60: capMSIX}
	with := func(i int, v byte) map[int]byte {
		m := map[int]byte{i: v}
		for i, v := range list {
			if _, ok := m[i]; !ok {
				m[i] = v
			}
		}
		return m
	}
	for _, tt := range []struct {
		rule string
		b    []byte
		ok   func(Config) bool
	}{
		{"ids and class are little-endian", header(64, map[int]byte{0: 0x86, 1: 0x80, 2: 0x0e, 3: 0x10, 8: 3, 11: 2, 0x2c: 0xf4, 0x2d: 0x1a, 0x2f: 0x11}),
			func(c Config) bool {
				return c.IDs == IDs{0x8086, 0x100e, 0x1af4, 0x1100, 3} && c.Class == 0x020000 && !c.Complete
			}},
		{"the multi-function bit is not part of the header type", header(64, map[int]byte{0x0e: 0x80, 0x24: 1}),
			func(c Config) bool { return c.HeaderType == 0 && c.BARs[5] == 1 }},
		{"a bridge has two BARs and no subsystem", header(64, map[int]byte{0x0e: 1, 0x14: 1, 0x18: 9, 0x2c: 9}),
			func(c Config) bool { return c.BARs == [6]uint32{0, 1} && c.IDs.SubsystemVendor == 0 }},
		{"all ones is absent", ones(256), func(c Config) bool { return c.Absent && !c.MSI && !c.Starting }},
		{"ones in the ids alone is not", header(64, map[int]byte{0: 0xff, 1: 0xff, 2: 0xff, 3: 0xff}),
			func(c Config) bool { return !c.Absent }},
		{"vendor 0001 is a request to wait", append([]byte{1, 0}, ones(62)...),
			func(c Config) bool { return c.Starting && !c.Absent }},
		{"no message interrupts are enabled", header(256, list), func(c Config) bool { return c.Complete && !c.MSI }},
		{"MSI is bit 0", header(256, with(0x52, 1)), func(c Config) bool { return c.MSI }},
		{"MSI-X is bit 15", header(256, with(0x63, 0x80)), func(c Config) bool { return c.MSI }},
		{"a masked MSI-X is not enabled", header(256, with(0x63, 0x40)), func(c Config) bool { return !c.MSI }},
		{"without a list nothing is looked for", header(256, map[int]byte{0x34: 0x40, 0x40: capMSI, 0x42: 1}), func(c Config) bool { return !c.MSI }},
		{"a list that leads into the header ends", header(256, with(0x51, 0x04)), func(c Config) bool { return !c.MSI }},
		{"a list that is a loop ends", header(256, with(0x51, 0x40)), func(c Config) bool { return !c.MSI }},
		{"the last entry may stand at the end", header(256, map[int]byte{0x06: 0x10, 0x34: 0xfc, 0xfc: capMSI, 0xfe: 1}), func(c Config) bool { return c.MSI }},
		{"extended space is not looked at", append(header(256, list), ones(16)...), func(c Config) bool { return c.Complete && !c.MSI }},
	} {
		c, err := ParseConfig(tt.b)
		if err != nil || !tt.ok(c) {
			t.Errorf("%s: %+v, error %v", tt.rule, c, err)
		}
	}
	if _, err := ParseConfig(make([]byte, 63)); !errors.Is(err, ErrShort) {
		t.Errorf("a header that was cut off: %v", err)
	}
}

func TestParseResources(t *testing.T) {
	const rest = "0x0 0x0 0x0\n0x0 0x0 0x0\n0x0 0x0 0x0\n0x0 0x0 0x0\n"
	got, err := ParseResources(strings.NewReader("0x00000000febc0000 0x00000000febdffff 0x0000000000040200\n" +
		"0x000000000000c000 0x000000000000c03f 0x0000000000040101\n" + rest + "not looked at\n"))
	want := [6]Resource{{0xfebc0000, 0xfebdffff, 0x40200}, {0xc000, 0xc03f, 0x40101}}
	if err != nil || got != want {
		t.Errorf("%+v, error %v", got, err)
	}
	for _, tt := range []struct {
		rule, text string
		err        error
	}{
		{"a file that ends early", "0x0 0x0 0x0\n", io.ErrUnexpectedEOF},
		{"a line of two numbers", "0x0 0x0\n" + rest, nil},
		{"a line without numbers", "a b c\n" + rest, nil},
		{"a number of more than 64 bits", "0x10000000000000000 0x0 0x0\n" + rest, nil},
	} {
		if _, err := ParseResources(strings.NewReader(tt.text)); err == nil || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v", tt.rule, err)
		}
	}
}

func TestCompare(t *testing.T) {
	ids := IDs{0x8086, 0x100e, 0x1af4, 0x1100, 3}
	// An e1000 under QEMU, driven.
	belief := Belief{
		IDs:       ids,
		Resources: [6]Resource{{0xfebc0000, 0xfebdffff, 0x40200}, {0xc000, 0xc03f, 0x40101}},
		Enabled:   true,
	}
	config := Config{IDs: ids, Command: 0x107, BARs: [6]uint32{0xfebc0000, 0xc001}, Complete: true}
	type pair struct {
		b *Belief
		c *Config
	}
	for _, tt := range []struct {
		rule   string
		change func(pair)
		want   Verdict
	}{
		{"nothing has changed", func(pair) {}, Alive},
		{"a driver may enable memory alone", func(p pair) { p.c.Command = CommandMemory }, Alive},
		{"a driver may enable I/O alone", func(p pair) { p.c.Command = CommandIO }, Alive},
		{"a device that is driven answers somewhere", func(p pair) { p.c.Command = 0x104 }, Reset},
		{"a device that nobody drives need not answer", func(p pair) { p.b.Enabled, p.c.Command = false, 0 }, Alive},
		{"an enabled device without BARs need not answer", func(p pair) {
			p.b.Resources, p.c.BARs, p.c.Command = [6]Resource{}, [6]uint32{}, 0
		}, Alive},
		{"a BAR without its address is a reset", func(p pair) { p.c.BARs[0] = 0 }, Reset},
		{"an I/O BAR without its address is a reset", func(p pair) { p.c.BARs[1] = 1 }, Reset},
		{"a BAR at another address is a reset", func(p pair) { p.c.BARs[0] = 0xfea00000 }, Reset},
		{"the type bits of a BAR are not its address", func(p pair) { p.c.BARs[0] |= 0xf; p.c.BARs[1] |= 3 }, Alive},
		{"a BAR the kernel could not place does not count", func(p pair) {
			p.b.Resources[0] = Resource{0, 0x1ffff, 0x40200 | resourceUnset}
			p.c.BARs[0] = 0xffe00000
		}, Alive},
		{"a BAR without an address does not count", func(p pair) {
			p.b.Resources[0], p.c.BARs[0] = Resource{0, 0x1ffff, 0x40200}, 0x10
		}, Alive},
		{"the fixed ports of legacy IDE do not count", func(p pair) {
			p.b.Resources[0], p.c.BARs[0] = Resource{0x1f0, 0x1f7, 0x110}, 0
		}, Alive},
		{"a 64-bit BAR has two halves", func(p pair) {
			p.b.Resources[4] = Resource{0xfe_0000_4000, 0xfe_0000_7fff, 0x14220c}
			p.c.BARs[4], p.c.BARs[5] = 0x400c, 0xfe
		}, Alive},
		{"the upper half counts", func(p pair) {
			p.b.Resources[4] = Resource{0xfe_0000_4000, 0xfe_0000_7fff, 0x14220c}
			p.c.BARs[4] = 0x400c
		}, Reset},
		{"a 64-bit BAR in the last register has no upper half", func(p pair) {
			p.b.Resources[5], p.c.BARs[5] = Resource{0x4000, 0x7fff, 0x14220c}, 0x400c
		}, Alive},
		{"message interrupts that are on", func(p pair) { p.b.MSI, p.c.MSI = true, true }, Alive},
		{"message interrupts that were lost are a reset", func(p pair) { p.b.MSI = true }, Reset},
		{"message interrupts that could not be read do not count", func(p pair) { p.b.MSI, p.c.Complete = true, false }, Alive},
		{"all ones is absent, whatever the kernel believes", func(p pair) { p.c.Absent, p.b.Virtual = true, true }, Absent},
		{"another vendor is a replacement", func(p pair) { p.c.IDs.Vendor++ }, Replaced},
		{"another device is a replacement", func(p pair) { p.c.IDs.Device++ }, Replaced},
		{"another subsystem vendor is a replacement", func(p pair) { p.c.IDs.SubsystemVendor++ }, Replaced},
		{"another subsystem is a replacement", func(p pair) { p.c.IDs.SubsystemDevice++ }, Replaced},
		{"another revision is a replacement", func(p pair) { p.c.IDs.Revision++ }, Replaced},
		{"a replacement comes before a reset", func(p pair) { p.c.IDs.Device++; p.c.BARs[0] = 0 }, Replaced},
		{"the class is not compared", func(p pair) { p.c.Class = 0xffffff }, Alive},
		{"the subsystem of a bridge is not in its header", func(p pair) {
			p.c.HeaderType, p.c.IDs.SubsystemVendor, p.c.IDs.SubsystemDevice = headerTypeBridge, 0, 0
		}, Alive},
		{"the windows of a bridge are not BARs", func(p pair) {
			p.c.HeaderType, p.c.IDs.SubsystemVendor, p.c.IDs.SubsystemDevice = headerTypeBridge, 0, 0
			p.b.Resources[2] = Resource{0x1000, 0x1fff, 0x200}
		}, Alive},
		{"a virtual function reads fixed ids and BARs", func(p pair) {
			p.b.Virtual = true
			p.c.IDs.Vendor, p.c.IDs.Device, p.c.BARs, p.c.Command = 0xffff, 0xffff, [6]uint32{}, 0
		}, Alive},
		{"a virtual function of another revision is a replacement", func(p pair) { p.b.Virtual = true; p.c.IDs.Revision++ }, Replaced},
		{"a suspended device gets its registers back when it wakes up", func(p pair) {
			p.b.Suspended = true
			p.c.BARs, p.c.Command = [6]uint32{}, 0
		}, Alive},
		{"a suspended device keeps its ids", func(p pair) { p.b.Suspended = true; p.c.IDs.Device++ }, Replaced},
	} {
		b, c := belief, config
		tt.change(pair{&b, &c})
		v, reason := Compare(b, c)
		if v != tt.want || (reason == "") != (v == Alive) {
			t.Errorf("%s: %v, reason %q, want %v", tt.rule, v, reason, tt.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(header(256, map[int]byte{0x06: 0x10, 0x34: 0x40, 0x40: capMSI, 0x41: 0x40, 0x52: 1}))
	f.Add(header(64, map[int]byte{0x0e: 1}))
	f.Add(ones(256))
	f.Add(append([]byte{1, 0}, ones(300)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		if c.Absent && c.Starting || c.MSI && !c.Complete {
			t.Errorf("contradiction in %+v", c)
		}
		// What a function says is what a kernel that has just read it believes.
		belief := Belief{IDs: c.IDs, MSI: c.MSI}
		if v, reason := Compare(belief, c); !c.Absent && v != Alive {
			t.Errorf("%+v is %v to itself: %s", c, v, reason)
		}
	})
}

func TestParseModalias(t *testing.T) {
	ids := IDs{Vendor: 0x8086, Device: 0x100e, SubsystemVendor: 0x1af4, SubsystemDevice: 0x1100}
	good := Modalias(ids, 0x020001)
	if got, class, ok := ParseModalias(good); !ok || got != ids || class != 0x020001 {
		t.Errorf("ParseModalias(%q) = %+v, %#x, %v; want what it was made of", good, got, class, ok)
	}
	for _, bad := range []string{
		"", "pci:", good[:len(good)-1], good + "0", strings.ToLower(good), "usb" + good[3:],
		strings.Replace(good, "v00008086", "v00018086", 1), strings.Replace(good, "sv", "vs", 1),
		"virtio:d00000001v00001AF4", strings.Replace(good, "bc02", "bc0x", 1),
	} {
		if ids, class, ok := ParseModalias(bad); ok {
			t.Errorf("ParseModalias(%q) = %+v, %#x, want that it is none", bad, ids, class)
		}
	}
}

func FuzzParseModalias(f *testing.F) {
	f.Add(Modalias(IDs{Vendor: 1, Device: 2}, 3))
	f.Fuzz(func(t *testing.T, text string) {
		if ids, class, ok := ParseModalias(text); ok && Modalias(ids, class) != text {
			t.Errorf("%q is %+v of class %#x, whose modalias is %q", text, ids, class, Modalias(ids, class))
		}
	})
}

func FuzzParseResources(f *testing.F) {
	f.Add(strings.Repeat("0x00000000febc0000 0x00000000febdffff 0x0000000000040200\n", 7))
	f.Add("0x0 0x0\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseResources(strings.NewReader(text)); err == nil && len(strings.Fields(text)) < 6*3 {
			t.Errorf("six resources from %q", text)
		}
	})
}
