// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivertest

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// A Function is a PCI function as it comes out of the box.
type Function struct {
	Address string
	IDs     pci.IDs
	Class   uint32
	BARs    []BAR // at most six; a BAR64 takes two
	MSI     bool  // it has MSI-X, and its driver uses it
	Bridge  bool
	// Slot makes a bridge a PCI Express port with a hot-plug slot, whose power is
	// on or off. It says that the slot is empty, whatever is behind the bridge: as
	// one does whose state has come from another machine.
	Slot   Slot
	Behind string // address of the bridge it is behind; "" on the root bus
	// Child is the device a driver of the function makes; none if Bus is empty.
	Child Child
}

// Slot is the slot below a bridge.
type Slot int

// The kinds of slots.
const (
	NoSlot  Slot = iota
	SlotOff      // nothing behind the bridge answers
	SlotOn
)

// A BAR is the kind of a base address register.
type BAR int

// The kinds of BARs, each 4 KiB in memory or 32 bytes in I/O space.
const (
	NoBAR   BAR = iota
	IO          // I/O space
	Memory      // 32-bit memory
	BAR64       // 64-bit memory: takes the next register too
	HighBAR     // a 64-bit one that the kernel puts above 4 GiB
)

// A Child is a device of another bus below a function.
type Child struct {
	Bus            string
	Modalias       string
	Vendor, Device uint16
}

// Virtio is the child of a virtio function of a device type: 1 is a network
// card, 2 a block device (Virtual I/O Device Specification 1.2, 5).
func Virtio(device uint16) Child {
	return Child{
		Bus:      "virtio",
		Modalias: fmt.Sprintf("virtio:d%08Xv00001AF4", device),
		Vendor:   0x1af4,
		Device:   device,
	}
}

// Modalias returns the modalias the kernel gives to the function.
func (f Function) Modalias() string { return pci.Modalias(f.IDs, f.Class) }

// function is a Function in its slot.
type function struct {
	Function
	config []byte
}

const (
	cfgCommand = 0x04
	cfgBAR     = 0x10
	capMSIX    = 0x40 // where newFunction puts the capability
	capExpress = 0x50

	// SlotControl is where the slot control register of a bridge with a Slot is.
	SlotControl = capExpress + 0x18
)

// Bits of SlotControl.
const (
	indicatorOff = 3 << 8
	indicatorOn  = 1 << 8
	powerOff     = 1 << 10
)

func newFunction(f Function) *function {
	c := make([]byte, pci.ConfigSize)
	put16 := binary.LittleEndian.PutUint16
	put16(c[0x00:], f.IDs.Vendor)
	put16(c[0x02:], f.IDs.Device)
	c[0x08] = f.IDs.Revision
	c[0x09], c[0x0a], c[0x0b] = byte(f.Class), byte(f.Class>>8), byte(f.Class>>16)
	if f.Bridge {
		c[0x0e] = 1
	} else {
		put16(c[0x2c:], f.IDs.SubsystemVendor)
		put16(c[0x2e:], f.IDs.SubsystemDevice)
	}
	if f.MSI {
		c[0x06] = 0x10 // there is a capability list
		c[0x34] = capMSIX
		c[capMSIX] = 0x11
	}
	if f.Slot != NoSlot {
		c[0x06] = 0x10
		c[0x34] = capExpress
		c[capExpress] = 0x10
		put16(c[capExpress+2:], 1<<8|4<<4|2) // a root port with a slot
		c[capExpress+0x14] = 0x53            // button, power controller and indicator; hot-plug
		control := uint16(indicatorOn)
		if f.Slot == SlotOff {
			control = indicatorOff | powerOff
		}
		put16(c[SlotControl:], control)
	}
	i := 0
	for _, b := range f.BARs {
		c[cfgBAR+4*i] = b.typeBits()
		i++
		if b == BAR64 || b == HighBAR {
			i++
		}
	}
	f.BARs = slices.Clone(f.BARs)
	return &function{Function: f, config: c}
}

// typeBits are the low bits of the register, which cannot be written (PCI 3.0,
// 6.2.5.1).
func (b BAR) typeBits() byte {
	switch b {
	case IO:
		return 0x1
	case BAR64, HighBAR:
		return 0xc // 64-bit, prefetchable
	}
	return 0
}

// assign gives addresses to the BARs, as the kernel does with a new function,
// and returns the content of the sysfs file "resource".
func (f *function) assign(next *[2]uint64) string {
	type resource struct{ start, end, flags uint64 }
	var res [7]resource // the BARs and the ROM
	i := 0
	for _, b := range f.BARs {
		r := &res[i]
		switch b {
		case IO:
			*r = resource{next[0], next[0] + 0x1f, 0x40101}
			next[0] += 0x20
		case Memory, BAR64:
			*r = resource{next[1], next[1] + 0xfff, 0x40200}
			next[1] += 0x1000
		case HighBAR:
			*r = resource{next[1] + 0xfe<<32, next[1] + 0xfe<<32 + 0xfff, 0x40200}
			next[1] += 0x1000
		}
		reg := f.config[cfgBAR+4*i:]
		binary.LittleEndian.PutUint32(reg, uint32(r.start)|uint32(b.typeBits()))
		i++
		if b == BAR64 || b == HighBAR {
			r.flags |= 0x10200c
			binary.LittleEndian.PutUint32(reg[4:], uint32(r.start>>32))
			i++
		}
	}
	// The kernel gives the ROM an address and leaves its register alone.
	res[6] = resource{next[1], next[1] + 0x7ff, 0x46200}
	var text string
	for _, r := range res {
		text += fmt.Sprintf("0x%016x 0x%016x 0x%016x\n", r.start, r.end, r.flags)
	}
	return text
}

// powered reports whether what is behind the function has power.
func (f *function) powered() bool {
	return f.Slot == NoSlot || binary.LittleEndian.Uint16(f.config[SlotControl:])&powerOff == 0
}

// enable is what a driver does to the function when it takes it and when it
// lets go.
func (f *function) enable(on bool) {
	var command, control uint16
	if on {
		command = pci.CommandIO | pci.CommandMemory
		control = 1 << 15
	}
	binary.LittleEndian.PutUint16(f.config[cfgCommand:], command)
	if f.MSI {
		binary.LittleEndian.PutUint16(f.config[capMSIX+2:], control)
	}
}
