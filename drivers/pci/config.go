// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package pci reads what PCI functions say about themselves and compares it with
// what the kernel believes.
//
// After a live migration the kernel's view of a function, its device structure
// with ids, resources and a bound driver, comes from the old host, while
// configuration space answers for the new one. Compare tells the cases apart.
//
// The package decides on bytes and text. It writes nothing and knows no module,
// no driver and no reason why a device should have changed.
package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
)

// Sizes of configuration space, in bytes. An unprivileged reader of sysfs gets
// HeaderSize, root gets all of it (drivers/pci/pci-sysfs.c, pci_read_config).
const (
	HeaderSize = 64
	ConfigSize = 256
)

// Offsets in the header (PCI Local Bus Specification 3.0, 6.1).
const (
	offVendor     = 0x00
	offDevice     = 0x02
	offCommand    = 0x04
	offStatus     = 0x06
	offRevision   = 0x08
	offClass      = 0x09
	offHeaderType = 0x0e
	offBAR        = 0x10
	offSubVendor  = 0x2c
	offSubDevice  = 0x2e
	offCapability = 0x34
)

// Bits of the command register (6.2.2).
const (
	CommandIO     = 1 << 0 // answers in I/O space
	CommandMemory = 1 << 1 // answers in memory space
)

const (
	statusCapabilities = 1 << 4 // the capability list is there

	capMSI  = 0x05
	capMSIX = 0x11

	msiEnable  = 1 << 0  // of message control, PCI 3.0, 6.8.1.3
	msixEnable = 1 << 15 // of message control, 6.8.2.3

	headerTypeMask   = 0x7f // bit 7: multi-function
	headerTypeNormal = 0
	headerTypeBridge = 1
)

// ErrShort reports configuration space that ends within the header.
var ErrShort = errors.New("pci: configuration space is shorter than its header")

// IDs name the model of a function. Subsystem ids are zero on bridges.
type IDs struct {
	Vendor, Device                   uint16
	SubsystemVendor, SubsystemDevice uint16
	Revision                         uint8
}

// String returns vendor and device as people write them, "8086:100e".
func (i IDs) String() string { return fmt.Sprintf("%04x:%04x", i.Vendor, i.Device) }

// Modalias returns the modalias that the kernel gives to a function of these ids and
// this class code, 24 bits (drivers/pci/pci-sysfs.c, modalias_show).
func Modalias(ids IDs, class uint32) string {
	return fmt.Sprintf("pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X",
		ids.Vendor, ids.Device, ids.SubsystemVendor, ids.SubsystemDevice, class>>16, class>>8&0xff, class&0xff)
}

// ParseModalias returns what a modalias was made of, without the revision, which is not
// in it; false if it is none of a PCI function.
func ParseModalias(modalias string) (ids IDs, class uint32, ok bool) {
	var n [7]uint64
	for i, at := range [...][2]int{{5, 13}, {14, 22}, {24, 32}, {34, 42}, {44, 46}, {48, 50}, {51, 53}} {
		if len(modalias) < at[1] {
			return IDs{}, 0, false
		}
		var err error
		if n[i], err = strconv.ParseUint(modalias[at[0]:at[1]], 16, 32); err != nil {
			return IDs{}, 0, false
		}
	}
	ids = IDs{Vendor: uint16(n[0]), Device: uint16(n[1]), SubsystemVendor: uint16(n[2]), SubsystemDevice: uint16(n[3])}
	class = uint32(n[4]<<16 | n[5]<<8 | n[6])
	return ids, class, Modalias(ids, class) == modalias
}

// A Config is the content of a function's configuration space.
type Config struct {
	IDs        IDs
	Class      uint32 // 24 bits: base class, subclass, programming interface
	Command    uint16
	HeaderType uint8     // without the multi-function bit
	BARs       [6]uint32 // as read; a bridge has two
	MSI        bool      // interrupts by MSI or MSI-X are enabled
	// Complete is false when only the header could be read, so that nothing is
	// known about capabilities.
	Complete bool
	// Absent: every byte is ones, which is how the bus answers for a function
	// that is not there.
	Absent bool
	// Starting: the function is there but not ready to answer (Configuration
	// Request Retry Status, PCI Express 4.0, 2.3.2).
	Starting bool
}

// ParseConfig reads the header, and when b is long enough the capability list
// of a function. It fails with ErrShort below HeaderSize bytes.
func ParseConfig(b []byte) (Config, error) {
	if len(b) < HeaderSize {
		return Config{}, fmt.Errorf("%w: %d bytes", ErrShort, len(b))
	}
	c := Config{
		IDs: IDs{
			Vendor:   u16(b, offVendor),
			Device:   u16(b, offDevice),
			Revision: b[offRevision],
		},
		Class:      uint32(b[offClass]) | uint32(b[offClass+1])<<8 | uint32(b[offClass+2])<<16,
		Command:    u16(b, offCommand),
		HeaderType: b[offHeaderType] & headerTypeMask,
		Complete:   len(b) >= ConfigSize,
	}
	c.Absent = allOnes(b[:HeaderSize])
	// The vendor id 0001 is what a root complex makes up for a device that asks
	// for patience; the rest reads as ones.
	c.Starting = c.IDs.Vendor == 0x0001 && c.IDs.Device == 0xffff
	if c.HeaderType == headerTypeNormal {
		c.IDs.SubsystemVendor = u16(b, offSubVendor)
		c.IDs.SubsystemDevice = u16(b, offSubDevice)
	}
	for i := range barCount(c.HeaderType) {
		c.BARs[i] = binary.LittleEndian.Uint32(b[offBAR+4*i:])
	}
	if c.Complete && !c.Absent {
		c.MSI = messageInterrupts(b[:ConfigSize])
	}
	return c, nil
}

func allOnes(b []byte) bool {
	return !slices.ContainsFunc(b, func(v byte) bool { return v != 0xff })
}

// barCount is the number of base address registers by header type.
func barCount(headerType uint8) int {
	switch headerType {
	case headerTypeNormal:
		return 6
	case headerTypeBridge:
		return 2
	}
	return 0 // CardBus: one, in a place of its own that no virtual machine has
}

// messageInterrupts looks for an enabled MSI or MSI-X.
func messageInterrupts(b []byte) bool {
	for id, pos := range capabilities(b, nil) {
		switch control := u16(b, pos+2); {
		case id == capMSI && control&msiEnable != 0, id == capMSIX && control&msixEnable != 0:
			return true
		}
	}
	return false
}

// capability returns where in configuration space a capability is.
func capability(b []byte, want byte) (pos int, ok bool) {
	for id, pos := range capabilities(b, nil) {
		if id == want {
			return pos, true
		}
	}
	return 0, false
}

// capabilities walks the capability list (PCI 3.0, 6.7) of ConfigSize bytes: ids
// and places. read, unless it is nil, is called before each place is looked at, and ends
// the walk if it returns false.
func capabilities(b []byte, read func(pos int) bool) iter.Seq2[byte, int] {
	return func(yield func(byte, int) bool) {
		if u16(b, offStatus)&statusCapabilities == 0 {
			return
		}
		pos := int(b[offCapability] &^ 3)
		// A list longer than the entries that fit is a loop.
		for range (ConfigSize - HeaderSize) / 4 {
			if pos < HeaderSize || read != nil && !read(pos) || !yield(b[pos], pos) {
				return
			}
			pos = int(b[pos+1] &^ 3)
		}
	}
}

func u16(b []byte, off int) uint16 { return binary.LittleEndian.Uint16(b[off:]) }
