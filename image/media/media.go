// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package media makes what UEFI firmware starts a program from: a disk with an EFI
// system partition, and an ISO with one in it (UEFI specification, 13.3).
//
// The same program gives the same bytes, wherever and whenever. The package must
// never know what the program is.
package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// BootFile is where firmware looks for what it starts from removable media and from
// disks that nobody has told it of (UEFI specification, 3.5.1.1).
const BootFile = "/EFI/BOOT/BOOTX64.EFI"

const (
	mib        = 1 << 20
	sectorSize = 512

	// partitionStart is where the partition begins: what tools of today choose.
	partitionStart = mib

	// minESP is the least size of an EFI system partition: a FAT32 has 65525
	// clusters or more, of one sector each.
	minESP = 36 * mib

	// espSlack is what the file system needs beside the file: two FATs of 4 bytes a
	// cluster, directories.
	espSlack = 2 * mib
)

// names is the name space of the GUIDs of disks and partitions (RFC 9562, 5.5).
var names = uuid.MustParse("5e0c9d4c-57a3-4d0c-9a53-4f0a6f1b7d21")

// epoch is the time of all that has one.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// WriteDisk writes a disk to the new file dst: a GPT with one partition, an EFI
// system partition that holds the program. Its GUIDs follow from id, which says what
// the program is.
func WriteDisk(dst, program, id string) (err error) {
	defer wrap(&err, "disk with %s", program)
	size, err := espSize(program)
	if err != nil {
		return err
	}
	total := partitionStart + size + mib // the copy of the table is at the end
	b, err := file.CreateFromPath(dst, total)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	table := gpt.Table{
		LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, ProtectiveMBR: true,
		GUID: guid("disk", id),
		Partitions: []*gpt.Partition{{
			Index: 1, Type: gpt.EFISystemPartition, Name: "ESP", GUID: guid("ESP", id),
			Start: partitionStart / sectorSize, Size: uint64(size),
		}},
	}
	w, err := b.Writable()
	if err != nil {
		return err
	}
	if err := table.Write(w, total); err != nil {
		return err
	}
	return writeESP(w, partitionStart, size, program, id)
}

func guid(what, id string) string {
	return strings.ToUpper(uuid.NewSHA1(names, []byte(what+" "+id)).String())
}

// espSize returns the size in bytes of a file system with room for the program.
func espSize(program string) (int64, error) {
	info, err := os.Stat(program)
	if err != nil {
		return 0, err
	}
	size := info.Size() + info.Size()/50 + espSlack
	return max(minESP, (size+mib-1)/mib*mib), nil
}

// writeESP makes a file system of that size with the program as its [BootFile] at an
// offset of w.
func writeESP(w io.WriterAt, start, size int64, program, id string) error {
	fs, err := newFAT(size)
	if err != nil {
		return err
	}
	serial := uuid.NewSHA1(names, []byte("FAT "+id))
	fs.firstSector, fs.label, fs.serial = uint32(start/sectorSize), "ESP", binary.LittleEndian.Uint32(serial[:])
	in, err := os.Open(program)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	return fs.write(io.NewOffsetWriter(w, start), BootFile, in, info.Size())
}

// wrap says of an error what was being made.
func wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}
