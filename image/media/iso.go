// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package media

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

const (
	isoSector = 2048

	// isoStart is where the file system begins; what is before it is for others
	// (ECMA-119, 6.2.1).
	isoStart = 16 * isoSector

	// espFile is the EFI system partition in an ISO's root directory.
	espFile = "EFI.IMG"

	volume = "UMBRA"

	// Of the primary volume descriptor, ECMA-119, 8.4.26 to 8.4.29: four dates of 16
	// digits and a zone each.
	pvdDates    = isoStart + 813
	pvdDateSize = 17
)

// WriteISO writes an ISO 9660 file system to the new file dst, whose El Torito entry leads
// UEFI firmware to an EFI system partition that holds the program. What a BIOS starts, nil
// if nothing, is in the file system and has the entry before. The id says what the program
// is.
func WriteISO(dst, program string, bios *BIOS, id string) (err error) {
	defer wrap(&err, "ISO with %s", program)
	work, err := os.MkdirTemp(filepath.Dir(dst), ".umbra-iso-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	esp := Program(program)
	size, err := esp.size()
	if err != nil {
		return err
	}
	if err := writeESPFile(filepath.Join(work, espFile), size, esp, id); err != nil {
		return err
	}
	entry := &iso9660.ElToritoEntry{Platform: iso9660.EFI, Emulation: iso9660.NoEmulation, BootFile: espFile}
	// In units of 512 bytes, and 65535 of them are less than a FAT32 has. 0 means: to
	// the end of the medium (UEFI specification, 13.3.2.1).
	entry.SetLoadSize(0)
	if bios == nil {
		return writeISO(dst, work, entry)
	}
	if err := bios.copyTo(work); err != nil {
		return err
	}
	return writeISO(dst, work, bios.entry(), entry)
}

// writeISO writes a file system with the files of a directory, and these entries.
func writeISO(dst, dir string, entries ...*iso9660.ElToritoEntry) (err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Chtimes(filepath.Join(dir, f.Name()), epoch, epoch); err != nil {
			return err
		}
	}
	if err := os.Chtimes(dir, epoch, epoch); err != nil {
		return err
	}
	b, err := file.CreateFromPath(dst, isoSector) // it grows
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	fs, err := iso9660.Create(b, 0, 0, isoSector, dir)
	if err != nil {
		return err
	}
	if err := fs.Finalize(iso9660.FinalizeOptions{
		VolumeIdentifier: fmt.Sprintf("%-32s", volume),
		ElTorito:         &iso9660.ElTorito{HideBootCatalog: true, Entries: entries},
	}); err != nil {
		return err
	}
	w, err := b.Writable()
	if err != nil {
		return err
	}
	// The library takes the time of the day: "not specified" instead.
	for i := range 4 {
		if _, err := w.WriteAt([]byte("0000000000000000\x00"), pvdDates+int64(i)*pvdDateSize); err != nil {
			return err
		}
	}
	return nil
}

func writeESPFile(name string, size int64, esp ESP, id string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return esp.write(f, 0, size, id)
}
