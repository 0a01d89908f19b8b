// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// A FAT32 (Microsoft's "FAT: General Overview of On-Disk Format", 1.03) that holds
// one file in directories. The library that makes the partition table makes such
// file systems too, but with the time of the day in them, and with directories that
// fsck.fat finds fault with.

const (
	reservedSectors = 32 // boot sector, FSInfo, copies of both at 6, room
	fsInfoSector    = 1
	backupSector    = 6
	fats            = 2
	rootCluster     = 2
	dirEntrySize    = 32

	// minClusters makes a file system with fewer a FAT16.
	minClusters = 65525

	mediaDisk    = 0xf8
	endOfChain   = 0x0fffffff
	attrVolume   = 0x08
	attrDir      = 0x10
	attrArchive  = 0x20
	firstDOSDate = 1<<5 | 1 // 1980-01-01
)

var errFAT = errors.New("does not fit into a FAT32")

type fat struct {
	sectors           uint32 // of all
	sectorsPerCluster uint32
	sectorsPerFAT     uint32
	clusters          uint32
	firstSector       uint32 // of the disk, where it begins
	serial            uint32
	label             string
}

// newFAT lays out a file system of that size in bytes.
func newFAT(size int64) (*fat, error) {
	f := &fat{sectors: uint32(size / sectorSize), sectorsPerCluster: 1}
	if size > 260*mib { // as mkfs.fat does
		f.sectorsPerCluster = 8
	}
	if size/sectorSize > math.MaxUint32 {
		return nil, fmt.Errorf("%w: %d bytes", errFAT, size)
	}
	// Of what is not reserved, each cluster needs itself and an entry in each FAT.
	perFAT := (sectorSize*f.sectorsPerCluster + 4*fats) / fats
	f.sectorsPerFAT = uint32((2*uint64(f.sectors-reservedSectors) + uint64(perFAT) - 1) / uint64(perFAT))
	f.clusters = (f.sectors - reservedSectors - fats*f.sectorsPerFAT) / f.sectorsPerCluster
	if f.clusters < minClusters {
		return nil, fmt.Errorf("%w: %d bytes are less than it has", errFAT, size)
	}
	return f, nil
}

func (f *fat) clusterSize() uint32 { return f.sectorsPerCluster * sectorSize }

// offset is where a cluster begins.
func (f *fat) offset(cluster uint32) int64 {
	return int64(reservedSectors+fats*f.sectorsPerFAT+(cluster-rootCluster)*f.sectorsPerCluster) * sectorSize
}

// write writes the file system with one file at the absolute path, whose names are
// upper case and of eight letters and three at most.
func (f *fat) write(w io.WriterAt, name string, content io.Reader, size int64) error {
	parts := strings.Split(strings.TrimPrefix(name, "/"), "/")
	dirs := uint32(len(parts)) // with the root
	first := rootCluster + dirs
	need := (size + int64(f.clusterSize()) - 1) / int64(f.clusterSize())
	if size > math.MaxUint32 || need > int64(f.clusters-dirs) {
		return fmt.Errorf("%w: %d bytes", errFAT, size)
	}
	used := dirs + uint32(need)
	for at, b := range map[int64][]byte{
		0: f.bootSector(), backupSector * sectorSize: f.bootSector(),
		fsInfoSector * sectorSize: f.info(used), (backupSector + fsInfoSector) * sectorSize: f.info(used),
	} {
		if _, err := w.WriteAt(b, at); err != nil {
			return err
		}
	}
	chains := f.chains(dirs, used)
	for i := range int64(fats) {
		if _, err := w.WriteAt(chains, (reservedSectors+i*int64(f.sectorsPerFAT))*sectorSize); err != nil {
			return err
		}
	}
	// Directory i is in the cluster i behind the root's.
	for i, part := range parts {
		dir := f.directory(uint32(i))
		child := dirEntry(shortName(part), attrDir, rootCluster+uint32(i)+1, 0)
		if i == len(parts)-1 {
			child = dirEntry(shortName(part), attrArchive, first, uint32(size))
		}
		if _, err := w.WriteAt(append(dir, child...), f.offset(rootCluster+uint32(i))); err != nil {
			return err
		}
	}
	n, err := io.Copy(io.NewOffsetWriter(w, f.offset(first)), content)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes of %d", n, size)
	}
	return err
}

func (f *fat) bootSector() []byte {
	b := make([]byte, sectorSize)
	copy(b, "\xeb\x58\x90UMBRA   ")
	le := binary.LittleEndian
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(f.sectorsPerCluster)
	le.PutUint16(b[14:], reservedSectors)
	b[16] = fats
	b[21] = mediaDisk
	le.PutUint16(b[24:], 63)  // sectors a track, and
	le.PutUint16(b[26:], 255) // heads, as BIOSes make them up
	le.PutUint32(b[28:], f.firstSector)
	le.PutUint32(b[32:], f.sectors)
	le.PutUint32(b[36:], f.sectorsPerFAT)
	le.PutUint32(b[44:], rootCluster)
	le.PutUint16(b[48:], fsInfoSector)
	le.PutUint16(b[50:], backupSector)
	b[64] = 0x80 // first hard disk
	b[66] = 0x29 // the next three are there
	le.PutUint32(b[67:], f.serial)
	copy(b[71:], fmt.Sprintf("%-11.11s%-8s", f.label, "FAT32"))
	copy(b[510:], "\x55\xaa")
	return b
}

func (f *fat) info(used uint32) []byte {
	b := make([]byte, sectorSize)
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	binary.LittleEndian.PutUint32(b[488:], f.clusters-used)
	binary.LittleEndian.PutUint32(b[492:], rootCluster+used) // where to look for a free one
	copy(b[510:], "\x55\xaa")
	return b
}

// chains returns the part of a FAT that is in use: a cluster for each directory,
// then those of the file.
func (f *fat) chains(dirs, used uint32) []byte {
	entries := []uint32{0x0fffff00 | mediaDisk, endOfChain}
	for i := range used {
		next := rootCluster + i + 1
		if i < dirs || i == used-1 {
			next = endOfChain
		}
		entries = append(entries, next)
	}
	b := make([]byte, 0, 4*len(entries))
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint32(b, e)
	}
	return b
}

// directory returns what the directory of that depth begins with: the root with the
// label, others with themselves and their parent, which is called 0 if it is the root.
func (f *fat) directory(depth uint32) []byte {
	if depth == 0 {
		return dirEntry(fmt.Sprintf("%-11.11s", f.label), attrVolume, 0, 0)
	}
	parent := rootCluster + depth - 1
	if depth == 1 {
		parent = 0
	}
	return append(dirEntry(fmt.Sprintf("%-11s", "."), attrDir, rootCluster+depth, 0),
		dirEntry(fmt.Sprintf("%-11s", ".."), attrDir, parent, 0)...)
}

func dirEntry(name string, attr byte, cluster, size uint32) []byte {
	b := make([]byte, dirEntrySize)
	copy(b, name)
	b[11] = attr
	le := binary.LittleEndian
	for _, at := range []int{16, 18, 24} { // made, read, written
		le.PutUint16(b[at:], firstDOSDate)
	}
	le.PutUint16(b[20:], uint16(cluster>>16))
	le.PutUint16(b[26:], uint16(cluster))
	le.PutUint32(b[28:], size)
	return b
}

func shortName(name string) string {
	base, extension, _ := strings.Cut(name, ".")
	return fmt.Sprintf("%-8s%-3s", base, extension)
}
