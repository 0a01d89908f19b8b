// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package deploy

import (
	"bytes"
	"io"
	"strings"
)

// A volume is a file system by what its first blocks say of it.
type volume struct{ fsType, label string }

// The labels of volumes with configuration: of NoCloud and of OpenStack's config drive.
const (
	labelNoCloud     = "cidata"
	labelConfigDrive = "config-2"
)

// identify tells ISO 9660 and FAT by their first blocks. A medium that is neither, or
// cannot be read, is no volume of ours.
func identify(r io.ReaderAt) (volume, bool) {
	// The primary volume descriptor is in sector 16 of 2048 bytes: type 1, "CD001",
	// and the volume identifier at 40 (ECMA-119, 8.4).
	pvd := make([]byte, 72)
	if _, err := r.ReadAt(pvd, 16*2048); err == nil && bytes.HasPrefix(pvd, []byte("\x01CD001")) {
		return volume{"iso9660", labelOf(pvd[40:72])}, true
	}
	// The extended boot signature 0x29 says that label and type follow, at another
	// place with FAT32 (Microsoft's FAT specification 1.03, page 11).
	boot := make([]byte, 512)
	if _, err := r.ReadAt(boot, 0); err != nil || boot[510] != 0x55 || boot[511] != 0xaa {
		return volume{}, false
	}
	for _, at := range []int{38, 66} {
		if boot[at] == 0x29 && bytes.HasPrefix(boot[at+16:], []byte("FAT")) {
			return volume{"vfat", labelOf(boot[at+5 : at+16])}, true
		}
	}
	return volume{}, false
}

// labelOf is a label as it is compared: padding and case do not count.
func labelOf(field []byte) string {
	return strings.ToLower(strings.TrimRight(string(field), " \x00"))
}
