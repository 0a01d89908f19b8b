// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import "encoding/binary"

// Where the test firmware keeps its 32-bit counters in guest memory.
const (
	counterBase = 0x500

	counterLoops    = 0 // rounds of the main loop
	counterPIC      = 1 // interrupts from the NIC through the i8259s
	counterMoved    = 2 // 1 once the NIC in slot 2 is another one
	counterAPIC     = 3 // interrupts from the NIC through the I/O APIC
	counterSpurious = 4 // any other interrupt
	counters        = 5
)

// firmware is a 64 KiB ROM image for qemu -bios: a guest that needs neither
// disk nor kernel. It runs in real mode and never stops:
//
//	set up the i8259s and the I/O APIC, with the NIC's inputs level-triggered
//	and masked; if assert, make the e1000 in slot 2 raise its interrupt line;
//	for ever:
//	    count; write into the next page of the second MiB
//	    if the NIC in slot 2 is no longer an e1000, for the first time:
//	        say 'M' on the serial port, unmask its inputs, allow interrupts
//
// A line that is still asserted when the guest has moved then shows as
// interrupts counted without end, because no handler here could silence it.
func firmware(machine string, assert bool) []byte {
	const (
		ioapic = 0xfec00000
		lapic  = 0xfee00000
		nicBAR = 0xe1000000

		vectorPIC  = 0x28 // slave; plus input - 8
		vectorAPIC = 0x40
	)
	a := newAssembler()

	a.code(0xfa)                                           // cli
	a.code(0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0) // xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax
	a.code(0xbc, 0x00, 0x70)                               // mov sp,0x7000
	a.code(0x2e, 0x66, 0x0f, 0x01, 0x16).addr16("gdtr")    // lgdt cs:[gdtr]
	a.code(0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0) // cr0 |= protected mode
	a.code(0xbb, 0x08, 0x00, 0x8e, 0xe3)                   // mov bx,8; mov fs,bx: 4 GiB limit
	a.code(0x24, 0xfe, 0x0f, 0x22, 0xc0)                   // cr0 &^= protected mode
	a.code(0x31, 0xff, 0xb9, 0x00, 0x01)                   // xor di,di; mov cx,256
	a.label("vectors")                                     //
	a.code(0xc7, 0x05).addr16("spurious")                  // mov word [di],spurious
	a.code(0xc7, 0x45, 0x02, 0x00, 0xf0)                   // mov word [di+2],0xf000
	a.code(0x83, 0xc7, 0x04, 0xe2).rel8("vectors")         // add di,4; loop vectors
	for irq := 10; irq <= 11; irq++ {                      //
		vector := 4 * (vectorPIC + irq - 8)           //
		a.code(0xc7, 0x06).word(vector).addr16("pic") // mov word [4*vector],pic
	} //
	a.code(0xc7, 0x06).word(4 * vectorAPIC).addr16("apic") // mov word [4*vector],apic

	for _, w := range [][2]int{ // i8259: vectors 0x20 and 0x28, all but the cascade masked
		{0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, vectorPIC}, {0x21, 0x04}, {0xa1, 0x02},
		{0x21, 0x01}, {0xa1, 0x01}, {0x21, 0xfb}, {0xa1, 0xff}, {0x4d1, 0x0c /* 10, 11: level */},
	} {
		a.outb(w[0], w[1])
	}

	// PIRQ A, B, E, F to ISA interrupt 10; C, D, G, H to 11.
	const pirqRoutes = 0x0b0b0a0a
	inputs := []int{10}
	if machine == "q35" {
		a.pciWrite(0x1f, 0x60, pirqRoutes)
		a.pciWrite(0x1f, 0x68, pirqRoutes)
		inputs = []int{22, 11}
	} else {
		a.pciWrite(1, 0x60, pirqRoutes)
	}
	const level, masked = 1 << 15, 1 << 16
	redirect := func(input, flags int) {
		a.poke(ioapic, uint32(0x10+2*input))
		a.poke(ioapic+0x10, uint32(vectorAPIC|level|flags))
	}
	for _, in := range inputs {
		redirect(in, masked)
	}
	a.poke(lapic+0xf0, 0x1ff)  // software enable
	a.poke(lapic+0x350, 0x700) // LINT0: interrupts of the i8259s

	a.pciWrite(4, 0x18, 0x00010100) // a bridge in slot 4, if any, leads to bus 1
	if assert {
		a.pciWrite(2, 0x10, nicBAR)
		a.pciWrite(2, 0x04, 0x0002) // memory space
		a.poke(nicBAR+0xd0, 0x4)    // interrupt mask set: link status change
		a.poke(nicBAR+0xc8, 0x4)    // interrupt cause set: the same
	}

	a.code(0x66, 0xbe).long(0x100000)                             // mov esi,1 MiB
	a.label("loop")                                               //
	a.count(counterLoops)                                         //
	a.code(0x66, 0xa1).word(counterBase)                          // mov eax,[loops]
	a.code(0x64, 0x67, 0x66, 0x89, 0x06)                          // mov fs:[esi],eax
	a.code(0x66, 0x81, 0xc6).long(0x1000)                         // add esi,4096
	a.code(0x66, 0x81, 0xe6).long(0x1fffff)                       // and esi,2 MiB - 1
	a.code(0x66, 0x81, 0xce).long(0x100000)                       // or esi,1 MiB
	a.code(0x80, 0x3e).word(counterBase + 4*counterMoved).code(0) // cmp byte [moved],0
	a.code(0x75).rel8("loop")                                     // jne loop
	a.pciSelect(2, 0)                                             //
	a.code(0xba).word(0xcfc).code(0x66, 0xed)                     // mov dx,0xcfc; in eax,dx
	a.code(0x66, 0x3d).long(0x100e8086)                           // cmp eax,e1000
	a.code(0x74).rel8("loop")                                     // je loop
	a.count(counterMoved)                                         //
	a.outb(0x3f8, 'M')                                            //
	a.outb(0xa1, 0xf3)                                            // unmask 10, 11
	for _, in := range inputs {                                   //
		redirect(in, 0) //
	} //
	a.code(0xfb, 0xe9).rel16("loop") // sti; jmp loop

	a.label("pic")
	a.count(counterPIC)
	a.code(0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf) // push ax; end of interrupt; pop ax; iret
	a.label("apic")
	a.count(counterAPIC)
	a.poke(lapic+0xb0, 0) // end of interrupt
	a.code(0xcf)          // iret
	a.label("spurious")
	a.count(counterSpurious)
	a.code(0xcf) // iret

	a.label("gdt")
	a.code(0, 0, 0, 0, 0, 0, 0, 0)
	a.code(0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0) // data, base 0, 4 GiB
	a.label("gdtr")
	a.word(15).addr16("gdt").word(0xf)

	return a.rom()
}

// assembler puts the firmware together. Its code runs at 0xf000:0.
type assembler struct {
	bytes  []byte
	labels map[string]int
	fixups []fixup
}

type fixup struct {
	at    int
	size  int  // bytes
	rel   bool // to the byte after it
	label string
}

func newAssembler() *assembler { return &assembler{labels: make(map[string]int)} }

func (a *assembler) code(b ...byte) *assembler { a.bytes = append(a.bytes, b...); return a }

func (a *assembler) word(v int) *assembler {
	a.bytes = binary.LittleEndian.AppendUint16(a.bytes, uint16(v))
	return a
}

func (a *assembler) long(v uint32) *assembler {
	a.bytes = binary.LittleEndian.AppendUint32(a.bytes, v)
	return a
}

func (a *assembler) label(name string) { a.labels[name] = len(a.bytes) }

func (a *assembler) ref(f fixup) *assembler {
	f.at = len(a.bytes)
	a.fixups = append(a.fixups, f)
	return a.code(make([]byte, f.size)...)
}

func (a *assembler) addr16(label string) *assembler { return a.ref(fixup{size: 2, label: label}) }
func (a *assembler) rel8(label string) *assembler {
	return a.ref(fixup{size: 1, rel: true, label: label})
}
func (a *assembler) rel16(label string) *assembler {
	return a.ref(fixup{size: 2, rel: true, label: label})
}

// outb: mov dx,port; mov al,v; out dx,al
func (a *assembler) outb(port, v int) { a.code(0xba).word(port).code(0xb0, byte(v), 0xee) }

// outl: mov dx,port; mov eax,v; out dx,eax
func (a *assembler) outl(port int, v uint32) {
	a.code(0xba).word(port).code(0x66, 0xb8).long(v).code(0x66, 0xef)
}

func (a *assembler) pciSelect(slot, reg int) { a.outl(0xcf8, uint32(1<<31|slot<<11|reg)) }

func (a *assembler) pciWrite(slot, reg int, v uint32) {
	a.pciSelect(slot, reg)
	a.outl(0xcfc, v)
}

// poke: mov dword fs:[addr],v
func (a *assembler) poke(addr, v uint32) {
	a.code(0x64, 0x67, 0x66, 0xc7, 0x05).long(addr).long(v)
}

// count: inc dword [counter]
func (a *assembler) count(n int) { a.code(0x66, 0xff, 0x06).word(counterBase + 4*n) }

// rom returns the image, with the jump that the processor starts at.
func (a *assembler) rom() []byte {
	for _, f := range a.fixups {
		v := a.labels[f.label]
		if f.rel {
			v -= f.at + f.size
		}
		switch f.size {
		case 1:
			if v != int(int8(v)) {
				panic("firmware: " + f.label + " is too far away")
			}
			a.bytes[f.at] = byte(v)
		case 2:
			binary.LittleEndian.PutUint16(a.bytes[f.at:], uint16(v))
		}
	}
	rom := make([]byte, 64<<10)
	copy(rom, a.bytes)
	copy(rom[0xfff0:], []byte{0xea, 0x00, 0x00, 0x00, 0xf0}) // jmp 0xf000:0
	return rom
}
