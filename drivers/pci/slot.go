// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import "encoding/binary"

// Offsets in the PCI Express capability, and bits of its registers (PCI Express
// Base Specification 4.0, 7.5.3).
const (
	capExpress = 0x10

	offExpressFlags  = 0x02
	offLinkCaps      = 0x0c
	offLinkControl   = 0x10
	offLinkStatus    = 0x12
	offSlotCaps      = 0x14
	offSlotControl   = 0x18
	offSlotStatus    = 0x1a
	expressRegisters = 0x1c // as many bytes as are read

	flagsType       = 0xf << 4
	flagsRoot       = 0x4 << 4
	flagsDownstream = 0x6 << 4
	flagsSlot       = 1 << 8

	linkReports  = 1 << 20 // of link capabilities
	linkDisabled = 1 << 4  // of link control
	linkActive   = 1 << 13 // of link status, if linkReports

	slotPowerController = 1 << 1 // of slot capabilities
	slotLatchSensor     = 1 << 2
	slotPowerIndicator  = 1 << 4
	slotHotPlug         = 1 << 6

	// Of slot control. The indicator is on, blinks, or is off; 0 is reserved.
	slotIndicator      = 3 << 8
	slotIndicatorOn    = 1 << 8
	slotIndicatorBlink = 2 << 8
	slotIndicatorOff   = 3 << 8
	slotPowerOff       = 1 << 10
	slotToggleLock     = 1 << 11 // a command, reads as 0

	slotPowerFault = 1 << 1 // of slot status
	slotLatchOpen  = 1 << 5 // if slotLatchSensor
	slotPresence   = 1 << 6
	slotLocked     = 1 << 7
)

// A Slot is what a PCI Express root port or downstream port says of the slot
// below it. The zero Slot is one that nothing may be done with.
type Slot struct {
	// Offset is where the slot control register is in configuration space.
	Offset       int
	Capabilities uint32
	Control      uint16
	Status       uint16
	LinkControl  uint16
	// Link says that the link below is up. It is false where the port does not
	// report that.
	Link bool
}

// ParseSlot finds the slot below a port in the port's configuration space. ok is
// false for every other function, and when only the header could be read.
func ParseSlot(b []byte) (s Slot, ok bool) {
	if len(b) < ConfigSize || b[offHeaderType]&headerTypeMask != headerTypeBridge {
		return Slot{}, false
	}
	pos, ok := capability(b[:ConfigSize], capExpress)
	if !ok || pos+expressRegisters > ConfigSize {
		return Slot{}, false
	}
	flags := u16(b, pos+offExpressFlags)
	if t := flags & flagsType; flags&flagsSlot == 0 || t != flagsRoot && t != flagsDownstream {
		return Slot{}, false
	}
	return Slot{
		Offset:       pos + offSlotControl,
		Capabilities: binary.LittleEndian.Uint32(b[pos+offSlotCaps:]),
		Control:      u16(b, pos+offSlotControl),
		Status:       u16(b, pos+offSlotStatus),
		LinkControl:  u16(b, pos+offLinkControl),
		Link: binary.LittleEndian.Uint32(b[pos+offLinkCaps:])&linkReports != 0 &&
			u16(b, pos+offLinkStatus)&linkActive != 0,
	}, true
}

// Controlled reports whether the power of the slot is software's to control, and
// cards come and go while the machine runs.
func (s Slot) Controlled() bool {
	return s.Capabilities&slotPowerController != 0 && s.Capabilities&slotHotPlug != 0
}

// Powered reports whether the slot has power.
func (s Slot) Powered() bool { return s.Control&slotPowerOff == 0 }

// Occupied reports whether the port knows of a card in the slot.
func (s Slot) Occupied() bool { return s.Status&slotPresence != 0 || s.Link }

// Dark reports whether the slot has no power because the port knows of no card in
// it, and may be given some to see whether there is one all the same: the port may
// be wrong, if its state is that of another machine.
//
// A card that the port knows of and that has no power was switched off by somebody,
// who may be about to pull it. Nor is power given to a slot that is open, locked or
// at fault, whose link somebody has disabled, or whose indicator blinks, because
// somebody is about to use it.
func (s Slot) Dark() bool {
	return s.Controlled() && !s.Powered() && s.vacant() && !s.blinks()
}

// Lit reports whether the slot is as On leaves it, and still has no card in it.
func (s Slot) Lit() bool {
	return s.Controlled() && s.Powered() && s.vacant() && s.blinks()
}

func (s Slot) blinks() bool {
	return s.Capabilities&slotPowerIndicator != 0 && s.Control&slotIndicator == slotIndicatorBlink
}

// vacant reports whether the port knows of no card and of nothing that speaks
// against giving power to the slot.
func (s Slot) vacant() bool {
	open := s.Capabilities&slotLatchSensor != 0 && s.Status&slotLatchOpen != 0
	return !s.Occupied() && !open && s.Status&(slotPowerFault|slotLocked) == 0 && s.LinkControl&linkDisabled == 0
}

// On returns the value of slot control that gives power to the slot. Its indicator,
// where it has one, blinks: no card is to be put in or pulled now.
func (s Slot) On() uint16 { return s.indicate(slotIndicatorBlink) &^ slotPowerOff }

// InUse returns the value of slot control for a slot whose card has been found.
func (s Slot) InUse() uint16 { return s.indicate(slotIndicatorOn) &^ slotPowerOff }

// Off returns the value of slot control that takes the power away.
func (s Slot) Off() uint16 { return s.indicate(slotIndicatorOff) | slotPowerOff }

func (s Slot) indicate(how uint16) uint16 {
	control := s.Control &^ slotToggleLock
	if s.Capabilities&slotPowerIndicator == 0 {
		return control
	}
	return control&^slotIndicator | how
}
