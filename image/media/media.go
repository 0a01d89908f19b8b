// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package media makes what UEFI firmware starts a program from: a disk with an EFI
// system partition, and an ISO with one in it (UEFI specification, 13.3). A BIOS starts
// a loader from the same media, if there is to be one.
//
// The same program gives the same bytes, wherever and whenever. The package must
// never know what the program is.
package media

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend"
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

	// partitionStart is where the first partition begins at the earliest: what tools of
	// today choose.
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

// File is a file of an EFI system partition.
type File struct {
	Path   string // in the partition, absolute
	Source string // what becomes it
}

// ESP is an EFI system partition.
type ESP struct {
	Name  string // in the partition table; default ESP
	Files []File
	// Room is what it has beside the files and what they need, in bytes.
	Room int64
}

// Program is a partition from which firmware starts a program, and nothing else.
func Program(program string) ESP { return ESP{Files: []File{{BootFile, program}}} }

func (e ESP) String() string {
	var names []string
	for _, f := range e.Files {
		names = append(names, f.Source)
	}
	return strings.Join(names, " and ")
}

// Partition is one beside an EFI system partition.
type Partition struct {
	Name   string // in the partition table
	Source string // its content, whole MiB of it
}

// WriteDisk writes a disk to the new file dst: a GPT with the partitions, in this order.
// Its GUIDs follow from id, which says what is in it. What a BIOS starts, nil if nothing,
// is before them, as an ISO 9660 file system from the disk's first byte on: such a file
// system leaves its first 32 KiB to others, and the table needs no more.
func WriteDisk(dst string, esp ESP, bios *BIOS, id string, more ...Partition) (err error) {
	defer wrap(&err, "disk with %s", esp)
	size, err := esp.size()
	if err != nil {
		return err
	}
	start, err := bios.writeArea(dst)
	if err != nil {
		return err
	}
	end := start + size
	var others []*gpt.Partition
	for _, p := range more {
		info, err := os.Stat(p.Source)
		if err != nil {
			return err
		}
		others = append(others, &gpt.Partition{
			Index: 2 + len(others), Type: gpt.LinuxFilesystem, Name: p.Name, GUID: guid("partition "+p.Name, id),
			Start: uint64(end) / sectorSize, Size: uint64(info.Size()),
		})
		end += info.Size()
	}
	if bios != nil {
		others = append(others, &gpt.Partition{
			Index: 2 + len(others), Type: gpt.BIOSBoot, Name: "BIOS", GUID: guid("BIOS", id),
			Start: isoStart / sectorSize, Size: uint64(start - isoStart),
		})
	}
	total := end + mib // the copy of the table is at the end
	b, err := newDisk(dst, total, bios != nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	table := gpt.Table{
		LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, ProtectiveMBR: true,
		GUID: guid("disk", id),
		Partitions: append([]*gpt.Partition{{
			Index: 1, Type: gpt.EFISystemPartition, Name: cmp.Or(esp.Name, "ESP"), GUID: guid("ESP", id),
			Start: uint64(start) / sectorSize, Size: uint64(size),
		}}, others...),
	}
	w, err := b.Writable()
	if err != nil {
		return err
	}
	if err := table.Write(w, total); err != nil {
		return err
	}
	if err := bios.writeMBR(w); err != nil {
		return err
	}
	for i, p := range more {
		if err := copyTo(io.NewOffsetWriter(w, others[i].GetStart()), p.Source); err != nil {
			return err
		}
	}
	return esp.write(w, start, size, id)
}

// newDisk opens the file for a disk of that size: a new one, or one that was begun with what
// a BIOS starts.
func newDisk(dst string, size int64, begun bool) (backend.Storage, error) {
	mode := os.O_RDWR
	if !begun {
		mode |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(dst, mode, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file.New(f, false), nil
}

// copyTo copies a file, without what is zero in whole MiB: it is so already.
func copyTo(w io.WriterAt, source string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	buf, zero := make([]byte, mib), make([]byte, mib)
	for at := int64(0); ; at += mib {
		n, err := io.ReadFull(in, buf)
		if n == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s is not of whole MiB: %w", source, err)
		}
		if bytes.Equal(buf, zero) {
			continue
		}
		if _, err := w.WriteAt(buf, at); err != nil {
			return err
		}
	}
}

func guid(what, id string) string {
	return strings.ToUpper(uuid.NewSHA1(names, []byte(what+" "+id)).String())
}

// size returns the size in bytes of a file system with room for the files and Room.
func (e ESP) size() (int64, error) {
	need := e.Room
	for _, f := range e.Files {
		info, err := os.Stat(f.Source)
		if err != nil {
			return 0, err
		}
		need += info.Size()
	}
	need += need/50 + espSlack
	return max(minESP, (need+mib-1)/mib*mib), nil
}

// write makes the file system, of that size, at an offset of w.
func (e ESP) write(w io.WriterAt, start, size int64, id string) error {
	fs, err := newFAT(size)
	if err != nil {
		return err
	}
	serial := uuid.NewSHA1(names, []byte("FAT "+id))
	fs.firstSector, fs.label, fs.serial = uint32(start/sectorSize), "ESP", binary.LittleEndian.Uint32(serial[:])
	var files []fatFile
	for _, f := range e.Files {
		in, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		files = append(files, fatFile{f.Path, in, info.Size()})
	}
	return fs.write(io.NewOffsetWriter(w, start), files...)
}

// wrap says of an error what was being made.
func wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}
