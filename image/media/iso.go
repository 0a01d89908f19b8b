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

	// espFile is the EFI system partition in an ISO's root directory.
	espFile = "EFI.IMG"

	volume = "UMBRA"

	// Of the primary volume descriptor, ECMA-119, 8.4.26 to 8.4.29: four dates of 16
	// digits and a zone each.
	pvdDates    = 16*isoSector + 813
	pvdDateSize = 17
)

// WriteISO writes an ISO 9660 file system to the new file dst, whose one El Torito
// entry leads UEFI firmware to an EFI system partition that holds the program. A BIOS
// does not boot from it. The id says what the program is.
func WriteISO(dst, program, id string) (err error) {
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
	for _, name := range []string{espFile, "."} {
		if err := os.Chtimes(filepath.Join(work, name), epoch, epoch); err != nil {
			return err
		}
	}
	b, err := file.CreateFromPath(dst, isoSector) // it grows
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	fs, err := iso9660.Create(b, 0, 0, isoSector, work)
	if err != nil {
		return err
	}
	entry := &iso9660.ElToritoEntry{Platform: iso9660.EFI, Emulation: iso9660.NoEmulation, BootFile: espFile}
	// In units of 512 bytes, and 65535 of them are less than a FAT32 has. 0 means: to
	// the end of the medium (UEFI specification, 13.3.2.1).
	entry.SetLoadSize(0)
	if err := fs.Finalize(iso9660.FinalizeOptions{
		VolumeIdentifier: fmt.Sprintf("%-32s", volume),
		ElTorito:         &iso9660.ElTorito{HideBootCatalog: true, Entries: []*iso9660.ElToritoEntry{entry}},
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
