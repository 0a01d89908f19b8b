// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import "fmt"

// A Verdict is what became of a device the kernel believes in.
type Verdict int

// The verdicts. The zero Verdict says nothing.
const (
	Unknown  Verdict = iota
	Alive            // the device the kernel programmed
	Absent           // nothing answers at the address
	Replaced         // another model answers
	Reset            // a device of the same model that nobody has programmed yet
)

func (v Verdict) String() string {
	switch v {
	case Alive:
		return "alive"
	case Absent:
		return "absent"
	case Replaced:
		return "replaced"
	case Reset:
		return "reset"
	}
	return "unknown"
}

// A Belief is the kernel's view of a function: what it read or wrote when it
// set the function up. ReadBelief takes it from sysfs.
type Belief struct {
	IDs       IDs
	Resources [6]Resource // of the BARs, in their order
	// Enabled: a driver holds the function enabled (pci_enable_device).
	Enabled bool
	// MSI: message interrupts are allocated for it.
	MSI bool
	// Virtual: an SR-IOV virtual function of a device that this kernel also
	// drives. Its ids and BARs read as fixed values (SR-IOV 1.1, 3.4.1).
	Virtual bool
	// Suspended: the kernel put it into a low-power state, and restores all
	// registers when it wakes it up.
	Suspended bool
}

// A Resource is an address range that the kernel gave to a BAR.
type Resource struct {
	Start, End uint64
	Flags      uint64 // IORESOURCE_*, include/linux/ioport.h
}

// Flags of a Resource.
const (
	resourceIO    = 0x100
	resourceMem   = 0x200
	resourceMem64 = 0x100000
	resourceUnset = 0x20000000 // no address was assigned
	resourceFixed = 0x10       // IORESOURCE_PCI_FIXED: not from the register
)

// programmed reports whether the kernel counts on the BAR to hold r.Start.
func (r Resource) programmed() bool {
	return r.Flags&(resourceIO|resourceMem) != 0 &&
		r.Flags&(resourceUnset|resourceFixed) == 0 &&
		r.Start != 0
}

// Compare judges by c, read now, what became of the device of which the kernel
// believes b. reason is for people; it is empty for Alive.
//
// Alive needs more than equal ids, because a fresh device of the same model has
// those too. It has lost what is written at run time: the addresses in its BARs,
// the enable bits in its command register, message interrupts. Of these only
// what the kernel surely relies on is compared:
//
//   - A BAR without an address counts for nothing: the kernel could not place
//     it, or does not need it. The same for the fixed ranges of legacy IDE,
//     whose registers read zero (drivers/pci/probe.c, pci_setup_device), and
//     for the expansion ROM, which is off but during its reading.
//   - An enabled device must answer in one of the address spaces in which it has
//     BARs. Drivers may enable only one of two (pci_enable_device_mem).
//   - The class is not compared: the kernel corrects it for some live devices
//     (drivers/pci/quirks.c), and ids name the model already.
//
// A device that has no BARs, that nobody enabled and that uses no message
// interrupts cannot be told from a fresh one, and there is nothing it could
// have lost: Alive.
func Compare(b Belief, c Config) (v Verdict, reason string) {
	if c.Absent {
		return Absent, "configuration space reads as all ones"
	}
	if b.Virtual {
		// Vendor and device read as ffff, BARs and memory enable as zero.
		if b.IDs.Revision != c.IDs.Revision {
			return Replaced, fmt.Sprintf("revision %02x, was %02x", c.IDs.Revision, b.IDs.Revision)
		}
		return Alive, ""
	}
	if reason := otherModel(b.IDs, c); reason != "" {
		return Replaced, reason
	}
	if b.Suspended {
		return Alive, ""
	}
	if reason := lostState(b, c); reason != "" {
		return Reset, reason
	}
	return Alive, ""
}

func otherModel(was IDs, c Config) string {
	now := c.IDs
	if c.HeaderType != headerTypeNormal {
		// The kernel takes a bridge's subsystem ids from a capability.
		was.SubsystemVendor, was.SubsystemDevice = 0, 0
	}
	switch {
	case was.Vendor != now.Vendor || was.Device != now.Device:
		return fmt.Sprintf("it is %v, was %v", now, was)
	case was.SubsystemVendor != now.SubsystemVendor || was.SubsystemDevice != now.SubsystemDevice:
		return fmt.Sprintf("subsystem %04x:%04x, was %04x:%04x",
			now.SubsystemVendor, now.SubsystemDevice, was.SubsystemVendor, was.SubsystemDevice)
	case was.Revision != now.Revision:
		return fmt.Sprintf("revision %02x, was %02x", now.Revision, was.Revision)
	}
	return ""
}

func lostState(b Belief, c Config) string {
	var needs uint16 // enable bits of the spaces the device has BARs in
	for i, n := 0, barCount(c.HeaderType); i < n; i++ {
		r := b.Resources[i]
		if !r.programmed() {
			continue
		}
		var now uint64
		if r.Flags&resourceIO != 0 {
			needs |= CommandIO
			now = uint64(c.BARs[i] &^ 0x3)
		} else {
			needs |= CommandMemory
			now = uint64(c.BARs[i] &^ 0xf)
			if r.Flags&resourceMem64 != 0 && i+1 < n {
				now |= uint64(c.BARs[i+1]) << 32
			}
		}
		if now != r.Start {
			return fmt.Sprintf("BAR %d holds %#x, was %#x", i, now, r.Start)
		}
	}
	switch {
	case b.Enabled && needs != 0 && c.Command&needs == 0:
		return fmt.Sprintf("command register %#04x: neither memory nor I/O space is enabled", c.Command)
	case b.MSI && c.Complete && !c.MSI:
		return "message interrupts are off, the kernel set them up"
	}
	return ""
}
