// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package uki makes unified kernel images: one UEFI program that holds kernel,
// initramfs and kernel command line, so that one signature covers them
// (https://uapi-group.org/specifications/specs/unified_kernel_image/).
//
// The program's code is systemd's stub (linuxx64.efi.stub(7)), which is given more
// sections. The package must never know where a stub or a kernel comes from, nor
// what the kernel is to do.
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
)

// Image is what a unified kernel image is made of. Kernel and Initrd are paths.
type Image struct {
	Stub      []byte
	OSRelease string // os-release(5), which boot menus show
	Cmdline   string
	Uname     string // the kernel's release
	Kernel    string // bzImage
	Initrd    string
}

// Errors that a caller may want to tell apart.
var (
	// ErrStub: the stub is no UEFI program for x86-64 that can take sections.
	ErrStub = errors.New("no usable UEFI stub")
	// ErrUnsigned: the image has no signature.
	ErrUnsigned = errors.New("not signed")
)

// Sizes and places in a PE file (Microsoft's PE format).
const (
	peOffsetAt    = 0x3c // of the offset of "PE\0\0"
	signatureSize = 4
	certificates  = pe.IMAGE_DIRECTORY_ENTRY_SECURITY

	// pageSize is how far apart sections are kept in memory: firmware gives access
	// rights by page.
	pageSize = 0x1000
)

// A stub as it was parsed.
type stub struct {
	raw      []byte // up to the end of the last section's data
	file     pe.FileHeader
	optional pe.OptionalHeader64
	sections []pe.SectionHeader32
	headers  int64 // offset of "PE\0\0"
}

// Write writes the image to the file of that name, which must not exist.
func (i Image) Write(name string) (err error) {
	s, err := parse(i.Stub)
	if err != nil {
		return fmt.Errorf("unified kernel image: %w: %w", ErrStub, err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("unified kernel image: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("unified kernel image: %w", err)
		}
	}()
	if _, err := f.Write(s.raw); err != nil {
		return err
	}
	if err := i.addSections(f, s); err != nil {
		return err
	}
	return s.writeHeaders(f)
}

// addSections writes the content of the sections that the stub looks for and adds
// them to its table.
func (i Image) addSections(f *os.File, s *stub) error {
	kernel, err := os.Open(i.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := os.Open(i.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	for _, part := range []struct {
		section string
		content io.Reader
	}{
		{".osrel", strings.NewReader(i.OSRelease)},
		{".cmdline", strings.NewReader(i.Cmdline)},
		{".uname", strings.NewReader(i.Uname)},
		{".initrd", initrd},
		{".linux", kernel},
	} {
		if err := s.add(f, part.section, part.content); err != nil {
			return fmt.Errorf("section %s: %w", part.section, err)
		}
	}
	return nil
}

// parse reads the headers of a stub and leaves out what lies behind its sections:
// symbols, which a signature would have to cover and nobody reads.
func parse(raw []byte) (*stub, error) {
	f, err := pe.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	optional, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	switch {
	case !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || optional.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION,
		!bytes.HasPrefix(raw, []byte("MZ")), int(f.SizeOfOptionalHeader) != binary.Size(optional):
		return nil, errors.New("not an UEFI program for x86-64")
	case f.Section(".sdmagic") == nil || f.Section(".linux") != nil:
		return nil, errors.New("not systemd's stub, or one that has a kernel already")
	case optional.DataDirectory[certificates].Size != 0:
		return nil, errors.New("it is signed: more sections would break the signature")
	case !powerOfTwo(optional.FileAlignment) || !powerOfTwo(optional.SectionAlignment):
		return nil, errors.New("sections without alignment")
	}
	s := &stub{file: f.FileHeader, optional: *optional, headers: int64(binary.LittleEndian.Uint32(raw[peOffsetAt:]))}
	var end uint64
	for _, section := range f.Sections {
		end = max(end, uint64(section.Offset)+uint64(section.Size))
	}
	// The headers of the sections as they are in the file.
	at := s.headers + signatureSize + int64(binary.Size(s.file)) + int64(s.file.SizeOfOptionalHeader)
	s.sections = make([]pe.SectionHeader32, s.file.NumberOfSections)
	if err := binary.Read(bytes.NewReader(raw[at:]), binary.LittleEndian, s.sections); err != nil {
		return nil, err
	}
	if end > uint64(len(raw)) || end < uint64(optional.SizeOfHeaders) {
		return nil, errors.New("cut off")
	}
	s.raw = raw[:end]
	s.file.PointerToSymbolTable, s.file.NumberOfSymbols = 0, 0
	s.optional.CheckSum = 0 // optional, and firmware does not look at it
	return s, nil
}

func powerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// add writes the content of a section behind what is in the file, and its header
// into the table. The stub takes a section's virtual size for that of its content.
func (s *stub) add(f *os.File, name string, content io.Reader) error {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	start := align(at, s.optional.FileAlignment)
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		return err
	}
	size, err := io.Copy(f, content)
	if err != nil {
		return err
	}
	end := align(start+size, s.optional.FileAlignment)
	last := s.sections[len(s.sections)-1]
	address := align(int64(last.VirtualAddress)+int64(last.VirtualSize), max(pageSize, s.optional.SectionAlignment))
	if size == 0 || max(end, address+size) > math.MaxInt32 {
		return fmt.Errorf("%d bytes do not fit in", size)
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	h := pe.SectionHeader32{
		VirtualSize: uint32(size), VirtualAddress: uint32(address),
		SizeOfRawData: uint32(end - start), PointerToRawData: uint32(start),
		Characteristics: pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ,
	}
	copy(h.Name[:], name)
	s.sections = append(s.sections, h)
	s.optional.SizeOfInitializedData += h.SizeOfRawData
	return nil
}

func align(n int64, to uint32) int64 { return (n + int64(to) - 1) &^ (int64(to) - 1) }

// writeHeaders writes the headers over those of the stub.
func (s *stub) writeHeaders(f *os.File) error {
	last := s.sections[len(s.sections)-1]
	s.file.NumberOfSections = uint16(len(s.sections))
	end := int64(last.VirtualAddress) + int64(last.VirtualSize)
	s.optional.SizeOfImage = uint32(align(end, max(pageSize, s.optional.SectionAlignment)))
	var b bytes.Buffer
	b.WriteString("PE\x00\x00")
	for _, v := range []any{s.file, s.optional, s.sections} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return err
		}
	}
	if s.headers+int64(b.Len()) > int64(s.optional.SizeOfHeaders) {
		return fmt.Errorf("%w: no room for more sections", ErrStub)
	}
	_, err := f.WriteAt(b.Bytes(), s.headers)
	return err
}

// CheckSigned returns an error that matches [ErrUnsigned] if the UEFI program of
// that name carries no signature. Whose it is, and whether it is right, is for the
// firmware to say.
func CheckSigned(name string) error {
	f, err := pe.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnsigned, name, err)
	}
	defer f.Close()
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || o.DataDirectory[certificates].Size == 0 {
		return fmt.Errorf("%w: %s", ErrUnsigned, name)
	}
	return nil
}
