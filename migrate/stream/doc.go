// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package stream reads QEMU's migration stream and passes it on without the
// state of chosen PCI devices.
//
// A device that the guest drives directly cannot be moved: the hardware stays
// behind. QEMU has no option to leave one emulated device out of a migration,
// but a destination accepts a stream in which a device is missing. So the relay
// stands between the two:
//
//	source QEMU --migrate--> Relay --> destination QEMU
//
// # The stream
//
// As written by QEMU 7.2 (migration/savevm.c, ram.c, vmstate.c); numbers are
// big-endian:
//
//	u32 magic "QEVM", u32 version 3
//	07 configuration: u32 length, machine type; then its subsections
//	01 start of an iterative section: u32 id, name, u32 instance, u32 version,
//	   data, footer (7e, u32 id)
//	02 part of it, 03 end of it: u32 id, data, footer
//	04 one device, whole: u32 id, name, u32 instance, u32 version, data, footer
//	00 end mark
//	06 description: u32 length, JSON
//
// A name is one byte of length and the text. The only iterative section which
// the relay passes is "ram", a sequence of (u64 address | flags) headers with
// pages behind them, see ram.go. The data of a device says nothing about its
// own length: only the JSON at the very end gives name and size of each field,
// and the footers prove them right. That is why device state, some hundred
// kilobytes which the source sends while the guest is stopped, is kept back
// until the source is done. RAM goes through as it comes; memory is bounded by
// Options.MaxDeviceState whatever the stream claims.
//
// # Interrupt lines
//
// PCI interrupt lines are shared wires. A device which is left out while it
// holds its line takes the only hand away that could ever let go of it: the
// destination would restore a line that is asserted for ever, and the guest
// would drown in interrupts nobody handles. The relay lowers those lines in the
// state of the PCI bus, the I/O APIC and the i8259s, exactly as QEMU itself
// would have done, had the device let go just before it was stopped; see
// intx.go.
//
// # What is promised
//
// Everything the relay does not know is refused by name and byte offset.
// Nothing that comes after RAM is sent before all of it has been validated, and
// the end mark, without which QEMU never starts a guest, is sent only after
// everything else was handed over and Options.Commit agreed. The relay opens no
// file and no socket, and must never know about QMP.
package stream
