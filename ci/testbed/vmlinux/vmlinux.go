// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package vmlinux takes the kernel out of a bzImage, as an ELF file that QEMU starts too
// (Xen's PVH entry). Without KVM a kernel that unpacks itself takes as long for that as for
// the rest of its boot.
package vmlinux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// ErrFormat is matched by the error for what is no bzImage, or one whose kernel is packed in a
// way that is not known here.
var ErrFormat = errors.New("no bzImage with a kernel that can be unpacked")

// The setup header of a bzImage (Documentation/x86/boot.rst).
const (
	setupSects    = 0x1f1 // sectors of the real-mode code behind the first; 0 means 4
	magicAt       = 0x202
	magic         = "HdrS"
	versionAt     = 0x206
	payloadSince  = 0x0208
	payloadOffset = 0x248 // from the end of the real-mode code
	payloadLength = 0x24c
	headerEnd     = 0x250
	sector        = 512
)

// Unpack returns the kernel in a bzImage, packed by xz or zstd.
func Unpack(bzImage []byte) ([]byte, error) {
	packed, err := payload(bzImage)
	if err != nil {
		return nil, err
	}
	// Behind the stream there is the length of what it unpacks to.
	var r io.Reader
	switch {
	case bytes.HasPrefix(packed, []byte("\xfd7zXZ\x00")):
		x, err := xz.NewReader(bytes.NewReader(packed), xz.DefaultDictMax)
		if err != nil {
			return nil, fmt.Errorf("unpack the kernel: %w", err)
		}
		x.Multistream(false)
		r = x
	case bytes.HasPrefix(packed, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(bytes.NewReader(packed[:len(packed)-4]), zstd.WithDecoderMaxWindow(1<<30))
		if err != nil {
			return nil, fmt.Errorf("unpack the kernel: %w", err)
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("%w: its payload begins with % x", ErrFormat, packed[:min(len(packed), 8)])
	}
	kernel, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unpack the kernel: %w", err)
	}
	if !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%w: what is packed is no ELF file", ErrFormat)
	}
	return kernel, nil
}

func payload(b []byte) ([]byte, error) {
	if len(b) < headerEnd || string(b[magicAt:magicAt+len(magic)]) != magic {
		return nil, fmt.Errorf("%w: no setup header", ErrFormat)
	}
	if v := binary.LittleEndian.Uint16(b[versionAt:]); v < payloadSince {
		return nil, fmt.Errorf("%w: boot protocol %#x", ErrFormat, v)
	}
	sects := int(b[setupSects])
	if sects == 0 {
		sects = 4
	}
	begin := uint64(sects+1)*sector + uint64(binary.LittleEndian.Uint32(b[payloadOffset:]))
	end := begin + uint64(binary.LittleEndian.Uint32(b[payloadLength:]))
	if end > uint64(len(b)) || end-begin < 8 {
		return nil, fmt.Errorf("%w: its payload ends at %d of %d bytes", ErrFormat, end, len(b))
	}
	return b[begin:end], nil
}
