// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// BIOS is what a BIOS starts: isolinux, which reads its files from an ISO 9660 file system,
// on a CD as on a disk (https://wiki.syslinux.org/wiki/index.php?title=Isohybrid).
type BIOS struct {
	Loader []byte // isolinux.bin
	MBR    []byte // isohdpfx.bin, which starts it where the file system is on a disk

	// Files are for the loader, in the root directory; their names are upper case, and
	// of 8 and 3 characters at most.
	Files []File
	// Texts are the same, by name.
	Texts map[string]string
}

const (
	loaderFile = "ISOLINUX.BIN"

	// hybridMagic at hybridAt says that a loader can be started from a disk.
	hybridMagic = 0x7078c0fb
	hybridAt    = 64

	// mbrCode is how much of a disk's first sector is isohdpfx.bin's. Behind it is where
	// the loader is, in sectors of the disk, in 8 bytes.
	mbrCode = 432

	// bootRecord is where an ISO says in which of its sectors the catalogue of what can
	// be booted is (El Torito, 1.0, figure 7). Its first entry is behind 32 bytes, and
	// says at 8 where that is (figures 2 and 3).
	bootRecord   = isoStart + isoSector + 71
	firstEntryAt = 32 + 8
)

// ErrLoader: a loader is none that can be started from a CD as from a disk.
var ErrLoader = errors.New("no isolinux for disks")

func (b *BIOS) entry() *iso9660.ElToritoEntry {
	// The loader has to know where it is: the boot table says so.
	return &iso9660.ElToritoEntry{Platform: iso9660.BIOS, Emulation: iso9660.NoEmulation, BootFile: loaderFile, BootTable: true}
}

// copyTo makes the files in a directory.
func (b *BIOS) copyTo(dir string) error {
	if len(b.Loader) < hybridAt+4 || binary.LittleEndian.Uint32(b.Loader[hybridAt:]) != hybridMagic {
		return fmt.Errorf("%w: what is to be %s", ErrLoader, loaderFile)
	}
	if len(b.MBR) != mbrCode {
		return fmt.Errorf("%w: the code for the first sector has %d bytes, want %d", ErrLoader, len(b.MBR), mbrCode)
	}
	if err := os.WriteFile(filepath.Join(dir, loaderFile), b.Loader, 0o644); err != nil {
		return err
	}
	for name, text := range b.Texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, f := range b.Files {
		if err := copyFile(filepath.Join(dir, strings.TrimPrefix(f.Path, "/")), f.Source); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// writeArea writes the file system to the new file dst, the beginning of a disk, and
// returns where what comes after it on the disk begins.
func (b *BIOS) writeArea(dst string) (end int64, err error) {
	if b == nil {
		return partitionStart, nil
	}
	work, err := os.MkdirTemp(filepath.Dir(dst), ".umbra-bios-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	if err := b.copyTo(work); err != nil {
		return 0, err
	}
	if err := writeISO(dst, work, b.entry()); err != nil {
		return 0, err
	}
	info, err := os.Stat(dst)
	if err != nil {
		return 0, err
	}
	return max(partitionStart, (info.Size()+mib-1)/mib*mib), nil
}

// disk is one to read from and write to.
type disk interface {
	io.ReaderAt
	io.WriterAt
}

// writeMBR makes a disk with the file system one whose first sector starts the loader; the
// rest of the sector, a partition table, stays.
func (b *BIOS) writeMBR(d disk) error {
	if b == nil {
		return nil
	}
	sector := func(at int64) (int64, error) {
		var n [4]byte
		_, err := d.ReadAt(n[:], at)
		return int64(binary.LittleEndian.Uint32(n[:])), err
	}
	catalogue, err := sector(bootRecord)
	if err != nil {
		return err
	}
	loader, err := sector(catalogue*isoSector + firstEntryAt)
	if err != nil {
		return err
	}
	_, err = d.WriteAt(binary.LittleEndian.AppendUint64(b.MBR[:mbrCode:mbrCode], uint64(loader)*isoSector/sectorSize), 0)
	return err
}
