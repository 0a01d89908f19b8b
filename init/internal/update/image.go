// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/init/config/slot"
)

// ErrImage: it is no unified kernel image that a disk with slots could start.
var ErrImage = errors.New("not an image for a slot")

// textLimit bounds the sections that are text, in bytes.
const textLimit = 64 << 10

// program is what a unified kernel image says of itself
// (https://uapi-group.org/specifications/specs/unified_kernel_image/).
type program struct {
	slot.Slot
	signed bool
}

// identify reads the headers of a file of that size and what it says of itself. Whether a
// signature is right is for the firmware to say. Errors match [ErrImage].
func identify(file io.ReaderAt, size int64) (program, error) {
	f, err := pe.NewFile(io.NewSectionReader(file, 0, size))
	if err != nil {
		return program{}, fmt.Errorf("%w: no UEFI program: %w", ErrImage, err)
	}
	defer f.Close()
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || header.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		return program{}, fmt.Errorf("%w: no UEFI program for x86-64", ErrImage)
	}
	for _, s := range f.Sections {
		if int64(s.Offset)+int64(s.Size) > size {
			return program{}, fmt.Errorf("%w: it is cut off in section %s", ErrImage, s.Name)
		}
	}
	for _, name := range []string{".linux", ".initrd"} {
		if s := f.Section(name); s == nil || s.Size == 0 {
			return program{}, fmt.Errorf("%w: it has no section %s", ErrImage, name)
		}
	}
	cmdline, err := text(f, ".cmdline")
	if err != nil {
		return program{}, err
	}
	release, err := text(f, ".osrel")
	if err != nil {
		return program{}, err
	}
	p := program{signed: header.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size != 0}
	if p.Slot, err = slotOf(cmdline); err != nil {
		return program{}, err
	}
	// By these the loader knows what is newer.
	for key, want := range map[string]string{"IMAGE_ID": p.Image, "IMAGE_VERSION": p.Version} {
		if !slices.Contains(strings.Split(release, "\n"), key+"="+want) {
			return program{}, fmt.Errorf("%w: section .osrel does not say %s=%s", ErrImage, key, want)
		}
	}
	return p, nil
}

// slotOf returns what a guest with that kernel command line takes itself for.
func slotOf(cmdline string) (slot.Slot, error) {
	for word := range strings.FieldsSeq(cmdline) {
		if value, ok := strings.CutPrefix(word, slot.Word+"="); ok {
			s, err := slot.Parse(value)
			if err != nil {
				return s, fmt.Errorf("%w: %s %w", ErrImage, slot.Word, err)
			}
			return s, nil
		}
	}
	return slot.Slot{}, fmt.Errorf("%w: it was built without [update]: its command line has no %s", ErrImage, slot.Word)
}

// text returns the content of a section, whose virtual size is that of its content.
func text(f *pe.File, name string) (string, error) {
	s := f.Section(name)
	if s == nil || s.Size > textLimit {
		return "", fmt.Errorf("%w: it has no section %s, or one that is too large", ErrImage, name)
	}
	content, err := s.Data()
	if err != nil {
		return "", fmt.Errorf("%w: section %s: %w", ErrImage, name, err)
	}
	return string(content[:min(len(content), int(s.VirtualSize))]), nil
}
