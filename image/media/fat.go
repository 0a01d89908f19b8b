// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"regexp"
	"strings"
	"unicode/utf16"
)

// A FAT32 (Microsoft's "FAT: General Overview of On-Disk Format", 1.03) that holds
// files in directories of one cluster each. The library that makes the partition table makes such
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
	attrLong     = 0x0f
	longLast     = 0x40
	longUnits    = 13       // of UTF-16 in an entry of a long name
	firstDOSDate = 1<<5 | 1 // 1980-01-01
)

// longAt is where they are.
var longAt = [longUnits]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

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

// fatFile is a file for the file system, with its absolute path in it.
type fatFile struct {
	path    string
	content io.Reader
	size    int64
}

// node is a file or a directory with the place that it was given.
type node struct {
	file     *fatFile // nil for a directory
	parent   *node    // nil for the root
	name     string
	first    uint32 // cluster
	clusters uint32
	entries  []byte // of a directory, its own included
}

// write writes the file system with these files.
func (f *fat) write(w io.WriterAt, files ...fatFile) error {
	nodes, err := f.place(files)
	if err != nil {
		return err
	}
	last := nodes[len(nodes)-1]
	used := last.first + last.clusters - rootCluster
	for at, b := range map[int64][]byte{
		0: f.bootSector(), backupSector * sectorSize: f.bootSector(),
		fsInfoSector * sectorSize: f.info(used), (backupSector + fsInfoSector) * sectorSize: f.info(used),
	} {
		if _, err := w.WriteAt(b, at); err != nil {
			return err
		}
	}
	chains := chains(nodes)
	for i := range int64(fats) {
		if _, err := w.WriteAt(chains, (reservedSectors+i*int64(f.sectorsPerFAT))*sectorSize); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if n.file == nil {
			if _, err := w.WriteAt(n.entries, f.offset(n.first)); err != nil {
				return err
			}
			continue
		}
		size, err := io.Copy(io.NewOffsetWriter(w, f.offset(n.first)), n.file.content)
		if err == nil && size != n.file.size {
			err = fmt.Errorf("%s: %d bytes of %d", n.file.path, size, n.file.size)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// place returns the directories, the root first, and the files, each behind the one
// before.
func (f *fat) place(files []fatFile) ([]*node, error) {
	nodes := []*node{{first: rootCluster, clusters: 1}}
	dirs := map[string]*node{"/": nodes[0]}
	for _, file := range files { // the directories, those above first
		parent := nodes[0]
		for i, c := range file.path {
			if c != '/' || i == 0 {
				continue
			}
			dir := dirs[file.path[:i]]
			if dir == nil {
				dir = &node{parent: parent, name: path.Base(file.path[:i]), first: rootCluster + uint32(len(nodes)), clusters: 1}
				dirs[file.path[:i]] = dir
				nodes = append(nodes, dir)
			}
			parent = dir
		}
	}
	next := rootCluster + uint32(len(nodes))
	for _, file := range files {
		need := (file.size + int64(f.clusterSize()) - 1) / int64(f.clusterSize())
		if file.size == 0 || file.size > math.MaxUint32 || need > int64(rootCluster+f.clusters-next) {
			return nil, fmt.Errorf("%w: %s of %d bytes", errFAT, file.path, file.size)
		}
		n := &node{file: &file, parent: dirs[path.Dir(file.path)], name: path.Base(file.path), first: next, clusters: uint32(need)}
		nodes = append(nodes, n)
		next += n.clusters
	}
	return nodes, f.list(nodes)
}

// list gives every directory its entries: the root the label, others themselves and
// their parent, which is called 0 if it is the root.
func (f *fat) list(nodes []*node) error {
	for _, n := range nodes {
		switch {
		case n.parent == nil:
			n.entries = dirEntry(fmt.Sprintf("%-11.11s", f.label), attrVolume, 0, 0)
		case n.file == nil:
			up := n.parent.first
			if up == rootCluster {
				up = 0
			}
			n.entries = append(dirEntry(fmt.Sprintf("%-11s", "."), attrDir, n.first, 0),
				dirEntry(fmt.Sprintf("%-11s", ".."), attrDir, up, 0)...)
		}
	}
	for _, n := range nodes[1:] {
		attr, size := byte(attrDir), uint32(0)
		if n.file != nil {
			attr, size = attrArchive, uint32(n.file.size)
		}
		short, long := names83(n.name, len(n.parent.entries)/dirEntrySize)
		n.parent.entries = append(append(n.parent.entries, long...), dirEntry(short, attr, n.first, size)...)
		if len(n.parent.entries) > int(f.clusterSize()) {
			return fmt.Errorf("%w: too many files beside %s", errFAT, n.name)
		}
	}
	return nil
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

// chains returns the part of a FAT that is in use.
func chains(nodes []*node) []byte {
	entries := []uint32{0x0fffff00 | mediaDisk, endOfChain}
	for _, n := range nodes {
		for i := uint32(1); i < n.clusters; i++ {
			entries = append(entries, n.first+i)
		}
		entries = append(entries, endOfChain)
	}
	b := make([]byte, 0, 4*len(entries))
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint32(b, e)
	}
	return b
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

// short83 is a name that needs no other: of eight letters and three at most.
var short83 = regexp.MustCompile(`^[A-Z0-9_-]{1,8}(\.[A-Z0-9_-]{1,3})?$`)

// names83 returns the short name of an entry, which is made up of n if the name is no
// such, and the entries of the long name, none if it is.
func names83(name string, n int) (short string, long []byte) {
	if short83.MatchString(name) {
		base, extension, _ := strings.Cut(name, ".")
		return fmt.Sprintf("%-8s%-3s", base, extension), nil
	}
	short = fmt.Sprintf("%-8s%-3s", fmt.Sprintf("UMBRA~%d", n), "")
	var sum byte
	for _, c := range []byte(short) {
		sum = sum>>1 | sum<<7
		sum += c
	}
	units := utf16.Encode([]rune(name))
	if len(units)%longUnits != 0 {
		units = append(units, 0)
	}
	parts := (len(units) + longUnits - 1) / longUnits
	for part := parts; part > 0; part-- { // the last comes first
		e := bytes.Repeat([]byte{0xff}, dirEntrySize)
		e[0] = byte(part)
		if part == parts {
			e[0] |= longLast
		}
		e[11], e[12], e[13] = attrLong, 0, sum
		e[26], e[27] = 0, 0
		for i, u := range units[(part-1)*longUnits : min(part*longUnits, len(units))] {
			binary.LittleEndian.PutUint16(e[longAt[i]:], u)
		}
		long = append(long, e...)
	}
	return short, long
}
