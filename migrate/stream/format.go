// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

// From QEMU 7.2: migration/qemu-file-types.h, migration/savevm.h and
// migration/savevm.c.
const (
	magic   = 0x5145564d // "QEVM"
	version = 3

	typeEOF           = 0x00
	typeSectionStart  = 0x01
	typeSectionPart   = 0x02
	typeSectionEnd    = 0x03
	typeSectionFull   = 0x04
	typeSubsection    = 0x05
	typeVMDescription = 0x06
	typeConfiguration = 0x07
	typeCommand       = 0x08
	typeFooter        = 0x7e
)

// Flags in the low bits of a RAM header, migration/ram.c.
const (
	ramFlagFull         = 0x01
	ramFlagZero         = 0x02
	ramFlagMemSize      = 0x04
	ramFlagPage         = 0x08
	ramFlagEOS          = 0x10
	ramFlagContinue     = 0x20
	ramFlagXBZRLE       = 0x40
	ramFlagHook         = 0x80
	ramFlagCompressPage = 0x100
	ramFlagMultifdFlush = 0x200

	pageSize = 4096 // TARGET_PAGE_SIZE of x86
	ramFlags = pageSize - 1
)

const ramVersion = 4

// Bounds on what a stream may claim. QEMU's own numbers are far below.
const (
	maxMachineName  = 256
	maxCapabilities = 64
	maxRAMBlocks    = 1024
	maxDescription  = 8 << 20 // a vCPU takes 8 kB, a machine 40 kB

	minSection = 1 + 4 + 1 + 8 + 5 // bytes of a device without a name or data
)

// DefaultMaxDeviceState is the bound on buffered device state, in bytes. A
// machine with one NIC has about 0.3 MB; video memory is RAM and not part of it.
const DefaultMaxDeviceState = 64 << 20

var ramFlagNames = []struct {
	flag uint64
	name string
}{
	{ramFlagFull, "obsolete full page"},
	{ramFlagXBZRLE, "XBZRLE page (capability xbzrle)"},
	{ramFlagHook, "RDMA hook (capability rdma-pin-all)"},
	{ramFlagCompressPage, "compressed page (capability compress)"},
	{ramFlagMultifdFlush, "multifd flush (capability multifd)"},
}

// Commands, enum qemu_vm_cmd in migration/savevm.c.
var commandNames = map[uint16]string{
	1:  "open return path (capability return-path)",
	2:  "ping",
	3:  "postcopy advise (capability postcopy-ram)",
	4:  "postcopy listen (capability postcopy-ram)",
	5:  "postcopy run (capability postcopy-ram)",
	6:  "postcopy RAM discard (capability postcopy-ram)",
	7:  "packaged (capability postcopy-ram)",
	8:  "enable COLO (capability x-colo)",
	9:  "postcopy resume (capability postcopy-ram)",
	10: "receive bitmap (capability postcopy-ram)",
}
