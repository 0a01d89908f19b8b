// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package data

import (
	"encoding/binary"
	"fmt"
	"strings"
)

const fsType = "ext4"

// A superblock of ext4 has 1024 bytes, 1024 bytes into the device
// (Documentation/filesystems/ext4/super.rst; so have all that follow from there).
const (
	superblockAt   = 1024
	superblockSize = 1024

	magicAt, magic           = 0x38, 0xef53
	stateAt, stateErrors     = 0x3a, 0x2
	compatAt, hasJournal     = 0x5c, 0x4
	incompatAt, needsRecover = 0x60, 0x4
	errorCountAt             = 0x194
)

// superblock is what is looked at before the kernel mounts the file system.
type superblock struct {
	errors  bool // the kernel has found some, and e2fsck has not looked since
	recover bool // it was not unmounted, the journal has to be replayed
}

// parseSuperblock refuses what is not ext4, and what has no journal: a guest may end at
// any instant.
func parseSuperblock(b []byte) (superblock, error) {
	le := binary.LittleEndian
	switch {
	case len(b) < superblockSize || le.Uint16(b[magicAt:]) != magic:
		return superblock{}, fmt.Errorf("%w: it is not ext4: make one on the host, with mkfs.ext4", ErrFileSystem)
	case le.Uint32(b[compatAt:])&hasJournal == 0:
		return superblock{}, fmt.Errorf("%w: it has no journal: tune2fs -j makes one", ErrFileSystem)
	}
	return superblock{
		errors:  le.Uint16(b[stateAt:])&stateErrors != 0 || le.Uint32(b[errorCountAt:]) != 0,
		recover: le.Uint32(b[incompatAt:])&needsRecover != 0,
	}, nil
}

// mounted is a line of /proc/self/mounts.
type mounted struct {
	device   string
	readOnly bool
}

// mountAt returns what is mounted on a directory without special characters.
func mountAt(mounts, dir string) (m mounted, ok bool) {
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != dir {
			continue
		}
		options := "," + f[3] + ","
		m, ok = mounted{f[0], strings.Contains(options, ",ro,")}, true // the last one is on top
	}
	return m, ok
}
