// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenlab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// bzImage is a kernel with the header of Debian's and two sectors of setup.
func bzImage() []byte {
	k := make([]byte, 2*sectorBytes, 4*sectorBytes)
	k[setupSects] = 1
	copy(k[headerMagic:], "HdrS")
	copy(k[entry:], []byte{shortJump, 0x66})
	copy(k[entry+2+0x66:], firstInstructions)
	k[relocatable] = 1
	binary.LittleEndian.PutUint64(k[prefAddress:], kernelAt)
	binary.LittleEndian.PutUint32(k[initSize:], 64<<20)
	return append(k, "the rest"...)
}

func TestSplit(t *testing.T) {
	kernel := bzImage()
	setup, rest, err := split(kernel, 4711)
	if err != nil {
		t.Fatal(err)
	}
	if string(rest) != "the rest" {
		t.Errorf("what goes into memory is %q", rest)
	}
	if !bytes.Equal(kernel, bzImage()) {
		t.Error("the kernel itself was changed")
	}
	if sectors := int(setup[setupSects]) + 1; sectors != 3 || len(setup) <= sectors*sectorBytes {
		t.Error("QEMU would find a setup with nothing behind it")
	}
	for field, want := range map[int]uint32{code32Start: kernelAt, ramdiskSize: 4711} {
		if got := binary.LittleEndian.Uint32(setup[field:]); got != want {
			t.Errorf("field %#x is %#x, want %#x", field, got, want)
		}
	}
	const start = entry + 2 + 0x66
	if got := setup[start : start+5]; !bytes.Equal(got, []byte{nearJump, 0x95, 0x01, nop, nop}) { // 0x26b + 0x195 = 0x400
		t.Errorf("the kernel starts with % x", got)
	}
	// movl $0x8000000,0x218; what was there; 0x411 - 0x1a4 = 0x26d
	detour := []byte{0x66, 0xc7, 0x06, 0x18, 0x02, 0, 0, 0, 8, 0x8c, 0xd8, 0x8e, 0xc0, 0xfc, nearJump, 0x5c, 0xfe}
	if got := setup[2*sectorBytes:][:len(detour)]; !bytes.Equal(got, detour) {
		t.Errorf("its way leads over % x", got)
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		change func(k []byte) []byte
	}{
		{"a file that is too short", func(k []byte) []byte { return k[:headerMagic] }},
		{"another file than a bzImage", func(k []byte) []byte { k[headerMagic] = 'x'; return k }},
		{"a kernel that is nothing but setup", func(k []byte) []byte { return k[:2*sectorBytes] }},
		{"a kernel that runs at one address", func(k []byte) []byte { k[relocatable] = 0; return k }},
		{"a kernel that wants another address", func(k []byte) []byte { k[prefAddress+2]++; return k }},
		{"a kernel that begins otherwise", func(k []byte) []byte { k[entry+2+0x66]++; return k }},
		{"a kernel that does not jump first", func(k []byte) []byte { k[entry] = nop; return k }},
		{"a kernel that grows into the initramfs", func(k []byte) []byte { k[initSize+3] = 8; return k }},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if _, _, err := split(tt.change(bzImage()), 1); !errors.Is(err, ErrKernel) {
				t.Errorf("error %v, want %v", err, ErrKernel)
			}
		})
	}
}
