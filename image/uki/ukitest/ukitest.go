// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package ukitest makes a UEFI stub for tests: headers and sections like those of
// systemd's, and no code.
package ukitest

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
)

const (
	peOffset   = 0x80
	headerSize = 0x400
	alignment  = 0x200
)

// Stub returns a stub with symbols behind its sections.
func Stub() []byte {
	sections := []pe.SectionHeader32{
		{Name: name(".text"), VirtualSize: 0x180, VirtualAddress: 0x1000, SizeOfRawData: alignment, PointerToRawData: headerSize},
		{Name: name(".sdmagic"), VirtualSize: 0x34, VirtualAddress: 0x2100, SizeOfRawData: alignment, PointerToRawData: headerSize + alignment},
	}
	end := uint32(headerSize + len(sections)*alignment)
	optional := pe.OptionalHeader64{
		Magic: 0x20b, AddressOfEntryPoint: 0x1000, SectionAlignment: alignment, FileAlignment: alignment,
		SizeOfImage: 0x2200, SizeOfHeaders: headerSize, Subsystem: pe.IMAGE_SUBSYSTEM_EFI_APPLICATION, NumberOfRvaAndSizes: 16,
	}
	file := pe.FileHeader{
		Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: uint16(len(sections)),
		SizeOfOptionalHeader: uint16(binary.Size(optional)), PointerToSymbolTable: end, NumberOfSymbols: 1,
	}
	head := make([]byte, peOffset)
	copy(head, "MZ")
	head[0x3c] = peOffset
	b := bytes.NewBuffer(head)
	b.WriteString("PE\x00\x00")
	for _, v := range []any{file, optional, sections} {
		if err := binary.Write(b, binary.LittleEndian, v); err != nil {
			panic(err) // v has no fixed size
		}
	}
	b.Write(make([]byte, int(end)-b.Len()))
	b.Write(make([]byte, pe.COFFSymbolSize))
	b.Write([]byte{4, 0, 0, 0}) // a string table of no strings
	return b.Bytes()
}

func name(s string) (n [8]uint8) {
	copy(n[:], s)
	return n
}
