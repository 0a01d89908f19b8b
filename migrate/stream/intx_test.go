// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// board is the interrupt hardware of a machine as it is in a stream.
type board struct {
	ich9    bool
	counts  []uint32          // irq_count of the root bus
	config  map[int]byte      // configuration space of the south bridge
	chip    map[int]byte      // ICH9: chip configuration
	sci     uint32            // ICH9: level of the ACPI interrupt
	table   map[int]uint64    // I/O APIC redirection
	irr     uint32            // I/O APIC
	pic     [2]pic            // i8259s
	ltim    bool              // first i8259 is level-triggered as a whole
	devices map[string][]int  // pins asserted, by path
	virtio  map[string][]byte // lump of a virtio device, by path
	noAPIC  bool
	noPIC   bool
}

type pic struct{ lastIRR, irr, imr, elcr byte }

func u32s(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

func (b *board) stream() []byte {
	s := toDevices()
	s.device(1, "PCIBUS", "PCIBUS", 1, fieldOf{name: "nirq", typ: "int32 equal", data: u32s(0)})
	s.device(2, "PCIBUS", "PCIBUS", 0,
		fieldOf{name: "nirq", typ: "int32 equal", data: u32s(uint32(len(b.counts)))},
		fieldOf{name: "irq_count", typ: "int32", data: u32s(b.counts...), len: len(b.counts)})
	south := pciFields()
	for at, v := range b.config {
		south[1].data[at] = v
	}
	if b.ich9 {
		chip := make([]byte, 16<<10)
		for at, v := range b.chip {
			chip[at] = v
		}
		south = append(south, fieldOf{name: "chip_config", typ: "uint8", data: chip, len: len(chip)},
			fieldOf{name: "sci_level", typ: "uint32", data: u32s(b.sci)})
		s.device(3, "0000:00:1f.0/ICH9LPC", "ICH9LPC", 0, south...)
	} else {
		s.device(3, "0000:00:01.0/PIIX3", "PIIX3", 0, south...)
	}
	if !b.noPIC {
		for i, p := range b.pic {
			fields := []fieldOf{
				{name: "last_irr", typ: "uint8", data: []byte{p.lastIRR}},
				{name: "irr", typ: "uint8", data: []byte{p.irr}},
				{name: "imr", typ: "uint8", data: []byte{p.imr}},
				{name: "elcr", typ: "uint8", data: []byte{p.elcr}},
			}
			if i == 0 && b.ltim {
				fields = append(fields, fieldOf{name: "ltim", typ: "uint8", data: []byte{1}})
			}
			s.device(uint32(4+i), "i8259", "i8259", uint32(i), fields...)
		}
	}
	if !b.noAPIC {
		table := make([]byte, 24*8)
		for at, v := range b.table {
			binary.BigEndian.PutUint64(table[8*at:], v)
		}
		s.device(6, "ioapic", "ioapic", 0, fieldOf{name: "irr", typ: "uint32", data: u32s(b.irr)},
			fieldOf{name: "ioredtbl", typ: "uint64", data: table, len: 24})
	}
	id := uint32(10)
	for path, pins := range b.devices {
		s.device(id, path+"/nic", "nic", 0, pciFields(pins...)...)
		id++
	}
	for path, lump := range b.virtio {
		s.device(id, path+"/virtio-net", "virtio-net", 0, fieldOf{name: "virtio", typ: "virtio", data: lump})
		id++
	}
	return s.end()
}

// latched is what matters of a board afterwards.
type latched struct {
	Counts []uint32
	IRR    uint32
	PIC    [2][2]byte // last_irr and irr
}

func latchedIn(t *testing.T, out []byte) latched {
	t.Helper()
	buf := out[len(toDevices().Bytes()):]
	m, err := parseMachine(buf, 0)
	if err != nil {
		t.Fatal(err)
	}
	var l latched
	for _, d := range m.devices {
		irr, _ := d.find("irr")
		switch d.name {
		case "PCIBUS":
			counts, _ := d.find("irq_count")
			for ; len(counts) > 0; counts = counts[4:] {
				l.Counts = append(l.Counts, binary.BigEndian.Uint32(counts))
			}
		case "ioapic":
			l.IRR = binary.BigEndian.Uint32(irr)
		case "i8259":
			last, _ := d.find("last_irr")
			l.PIC[d.instance] = [2]byte{last[0], irr[0]}
		}
	}
	return l
}

func virtioLump(express bool, pin int) []byte {
	size := 256
	if express {
		size = 4096
	}
	lump := make([]byte, 4+size+16+100)
	lump[3] = 2
	config := lump[4:]
	config[0x06], config[0x34] = 0x10, 0x40
	config[0x40], config[0x41] = 0x11, 0x50 // MSI-X, then
	config[0x50], config[0x51] = 0x09, 0x40 // vendor, and round in a circle
	if express {
		config[0x51], config[0x60] = 0x60, 0x10
	}
	if pin >= 0 {
		lump[4+size+4*pin+3] = 1
	}
	return lump
}

const levelTriggered = 1 << 15

func TestInterruptLines(t *testing.T) {
	// PIIX3: A and B to 10, C and D to 11. Slot 2 INTA is B.
	piix := map[int]byte{0x60: 10, 0x61: 10, 0x62: 11, 0x63: 11}
	level := [2]pic{{0x04, 0x04, 0, 0}, {0x04, 0x04, 0, 0x0c}} // 10 pending through the cascade
	none := [2][2]byte{}
	for _, tt := range []struct {
		name  string
		board board
		drop  []string
		lines []Line
		want  latched
	}{
		{
			"level-triggered line of the only holder falls everywhere",
			board{counts: []uint32{0, 1, 0, 0}, config: piix, table: map[int]uint64{10: levelTriggered}, irr: 1 << 10, pic: level,
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}},
			latched{[]uint32{0, 0, 0, 0}, 0, none},
		}, {
			"line which another device holds too stays up",
			board{counts: []uint32{0, 2, 0, 0}, config: piix, table: map[int]uint64{10: levelTriggered}, irr: 1 << 10, pic: level,
				devices: map[string][]int{"0000:00:02.0": {0}, "0000:00:06.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, nil}},
			latched{[]uint32{0, 1, 0, 0}, 1 << 10, [2][2]byte{{4, 4}, {4, 4}}},
		}, {
			"another line routed to the same interrupt keeps it up",
			board{counts: []uint32{1, 1, 0, 0}, config: piix, table: map[int]uint64{10: levelTriggered}, irr: 1 << 10, pic: level,
				devices: map[string][]int{"0000:00:02.0": {0}, "0000:00:05.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, nil}},
			latched{[]uint32{1, 0, 0, 0}, 1 << 10, [2][2]byte{{4, 4}, {4, 4}}},
		}, {
			"two dropped devices on one line lower it together",
			board{counts: []uint32{0, 2, 0, 0}, config: piix, table: map[int]uint64{10: levelTriggered}, irr: 1<<10 | 1<<4, pic: level,
				devices: map[string][]int{"0000:00:02.0": {0}, "0000:00:06.0": {0}}},
			[]string{"0000:00:02.0", "0000:00:06.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}, {"0000:00:06.0", "INTA", 1, []int{10}}},
			latched{[]uint32{0, 0, 0, 0}, 1 << 4, none},
		}, {
			"edge that was latched stays, its wire falls",
			board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 5}, irr: 1 << 5, pic: [2]pic{{lastIRR: 0x20, irr: 0x20}, {}},
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{5}}},
			latched{[]uint32{0, 0, 0, 0}, 1 << 5, [2][2]byte{{0, 0x20}, {}}},
		}, {
			"i8259 switched to level as a whole",
			board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 5}, pic: [2]pic{{lastIRR: 0x20, irr: 0x20}, {}}, ltim: true,
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{5}}},
			latched{[]uint32{0, 0, 0, 0}, 0, none},
		}, {
			"cascade stays up for another input of the slave",
			board{counts: []uint32{0, 1, 0, 0}, config: piix, pic: [2]pic{{0x04, 0x04, 0, 0}, {0x14, 0x14, 0, 0x1c}},
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}},
			latched{[]uint32{0, 0, 0, 0}, 0, [2][2]byte{{4, 4}, {0x10, 0x10}}},
		}, {
			"masked input of the slave does not keep the cascade up",
			board{counts: []uint32{0, 1, 0, 0}, config: piix, pic: [2]pic{{0x04, 0x04, 0, 0}, {0x14, 0x14, 0x10, 0x1c}},
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}},
			latched{[]uint32{0, 0, 0, 0}, 0, [2][2]byte{{0, 0}, {0x10, 0x10}}},
		}, {
			"PIRQ that is routed nowhere",
			board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 0x80}, irr: 1 << 3,
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, nil}},
			latched{[]uint32{0, 0, 0, 0}, 1 << 3, none},
		}, {
			"interrupt 0 is input 2 of the I/O APIC",
			board{counts: []uint32{0, 1, 0, 0}, config: map[int]byte{0x61: 0}, table: map[int]uint64{2: levelTriggered}, irr: 1<<2 | 1,
				pic: [2]pic{{lastIRR: 1}, {}}, devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{0}}},
			latched{[]uint32{0, 0, 0, 0}, 1, none},
		}, {
			"every pin counts, rotated by the slot",
			board{counts: []uint32{1, 0, 1, 1}, config: map[int]byte{0x60: 0x80, 0x61: 0x80, 0x62: 0x80, 0x63: 0x80},
				devices: map[string][]int{"0000:00:03.0": {0, 1, 2}}},
			[]string{"0000:00:03.0"},
			[]Line{{"0000:00:03.0", "INTA", 2, nil}, {"0000:00:03.0", "INTB", 3, nil}, {"0000:00:03.0", "INTC", 0, nil}},
			latched{[]uint32{0, 0, 0, 0}, 0, none},
		}, {
			"behind two bridges the pin is rotated twice",
			// INTA of slot 1: INTB at the bridge in slot 2: INTD at the bridge in slot 4: PIRQ C.
			board{counts: []uint32{0, 0, 1, 0}, config: piix, devices: map[string][]int{"0000:00:04.0:02.0:01.0": {0}}},
			[]string{"0000:00:04.0:02.0:01.0"},
			[]Line{{"0000:00:04.0:02.0:01.0", "INTA", 2, []int{11}}},
			latched{[]uint32{0, 0, 0, 0}, 0, none},
		}, {
			"a device that holds nothing changes nothing",
			board{counts: []uint32{0, 1, 0, 0}, config: piix, irr: 1 << 10, table: map[int]uint64{10: levelTriggered},
				devices: map[string][]int{"0000:00:02.0": {}, "0000:00:06.0": {0}}},
			[]string{"0000:00:02.0"}, nil,
			latched{[]uint32{0, 1, 0, 0}, 1 << 10, none},
		}, {
			"conventional virtio device",
			board{counts: []uint32{0, 1, 0, 0}, config: piix, table: map[int]uint64{10: levelTriggered}, irr: 1 << 10,
				virtio: map[string][]byte{"0000:00:02.0": virtioLump(false, 0)}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}},
			latched{[]uint32{0, 0, 0, 0}, 0, none},
		}, {
			"express virtio device behind a root port",
			board{ich9: true, counts: []uint32{0, 0, 0, 0, 1, 0, 0, 0}, config: map[int]byte{0x68: 0x80}, table: map[int]uint64{20: levelTriggered}, irr: 1 << 20,
				virtio: map[string][]byte{"0000:00:04.0:00.0": virtioLump(true, 0)}},
			[]string{"0000:00:04.0:00.0"},
			[]Line{{"0000:00:04.0:00.0", "INTA", 4, []int{20}}},
			latched{make([]uint32, 8), 0, none},
		}, {
			"ICH9: both the own input and the ISA interrupt fall",
			board{ich9: true, counts: []uint32{0, 0, 0, 0, 0, 0, 1, 0}, config: map[int]byte{0x6a: 11}, pic: [2]pic{{}, {8, 8, 0, 8}},
				table: map[int]uint64{22: levelTriggered, 11: levelTriggered}, irr: 1<<22 | 1<<11,
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 6, []int{22, 11}}},
			latched{make([]uint32, 8), 0, none},
		}, {
			"ICH9: the ACPI interrupt keeps what it shares",
			board{ich9: true, sci: 1, counts: []uint32{0, 0, 0, 0, 0, 0, 1, 0}, config: map[int]byte{0x6a: 9}, pic: [2]pic{{}, {2, 2, 0, 2}},
				table: map[int]uint64{22: levelTriggered, 9: levelTriggered}, irr: 1<<22 | 1<<9,
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 6, []int{22}}},
			latched{make([]uint32, 8), 1 << 9, [2][2]byte{{}, {2, 2}}},
		}, {
			"ICH9: slots from 25 are routed by the chip configuration",
			board{ich9: true, counts: []uint32{0, 0, 0, 1, 0, 0, 0, 0}, config: map[int]byte{0x63: 0x80},
				chip:  map[int]byte{0x3150: 0x10, 0x3151: 0x32}, // D25IR: A, B, C, D
				table: map[int]uint64{19: levelTriggered}, irr: 1 << 19,
				devices: map[string][]int{"0000:00:19.0": {3}}},
			[]string{"0000:00:19.0"},
			[]Line{{"0000:00:19.0", "INTD", 3, []int{19}}},
			latched{make([]uint32, 8), 0, none},
		}, {
			"machine without i8259s",
			board{noPIC: true, counts: []uint32{0, 1, 0, 0}, config: piix, table: map[int]uint64{10: levelTriggered}, irr: 1 << 10,
				devices: map[string][]int{"0000:00:02.0": {0}}},
			[]string{"0000:00:02.0"},
			[]Line{{"0000:00:02.0", "INTA", 1, []int{10}}},
			latched{[]uint32{0, 0, 0, 0}, 0, none},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, rep, err := relayBytes(tt.board.stream(), Options{Drop: paths(t, tt.drop...)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.lines, rep.Lines); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, latchedIn(t, out)); diff != "" {
				t.Errorf("latched (-want +got):\n%s", diff)
			}
		})
	}
}

func paths(t *testing.T, list ...string) []Path {
	t.Helper()
	var out []Path
	for _, s := range list {
		p, err := ParsePath(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestInterruptLineThatCannotBeLowered(t *testing.T) {
	held := map[string][]int{"0000:00:02.0": {0}}
	for _, tt := range []struct {
		name string
		in   []byte
		drop string
		want error
		text string
	}{
		{"irq_count says that nobody holds the line", (&board{counts: make([]uint32, 4), devices: held}).stream(),
			"0000:00:02.0", ErrMalformed, "irq_count is 0"},
		{"bus with another number of inputs", (&board{counts: make([]uint32, 5), devices: held}).stream(),
			"0000:00:02.0", ErrInterrupt, "no bus with 4 interrupt inputs"},
		{"no interrupt controller", (&board{counts: []uint32{0, 1, 0, 0}, devices: held, noAPIC: true, noPIC: true}).stream(),
			"0000:00:02.0", ErrInterrupt, "no interrupt controller"},
		{"device below an expander bridge", (&board{counts: []uint32{0, 1, 0, 0}, devices: map[string][]int{"0000:80:02.0": {0}}}).stream(),
			"0000:80:02.0", ErrInterrupt, "first root bus"},
		{"unknown south bridge", toDevices().device(1, "0000:00:02.0/nic", "nic", 0, pciFields(0)...).end(),
			"0000:00:02.0", ErrInterrupt, "neither a PIIX3 nor an ICH9"},
		{"level that is neither 0 nor 1", func() []byte {
			f := pciFields(0)
			f[2].data[3] = 2
			return toDevices().device(1, "0000:00:02.0/nic", "nic", 0, f...).end()
		}(), "0000:00:02.0", ErrMalformed, "level 2 of interrupt pin 0"},
		{"virtio state that is too short", (&board{virtio: map[string][]byte{"0000:00:02.0": make([]byte, 100)}}).stream(),
			"0000:00:02.0", ErrInterrupt, "no known PCI device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _, err := relayBytes(tt.in, Options{Drop: paths(t, tt.drop)})
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			checkError(t, err, tt.want, tt.text)
			if !bytes.Equal(out, toDevices().Bytes()) {
				t.Error("device state was forwarded")
			}
			if _, _, err := relayBytes(tt.in, Options{Drop: paths(t, tt.drop), KeepLines: true}); err != nil {
				t.Errorf("with KeepLines: %v", err)
			}
		})
	}
}
