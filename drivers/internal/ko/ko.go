// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package ko opens kernel module files, compressed or not.
package ko

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrTooLarge reports a module that unpacks to more than MaxSize bytes.
var ErrTooLarge = errors.New("module is too large")

// MaxSize bounds an unpacked module, in bytes. The largest of a Debian 6.1
// kernel, amdgpu with its symbols, has 24 MB.
const MaxSize = 256 << 20

// extensions of module files that Linux distributions use.
var extensions = []string{".ko", ".ko.xz", ".ko.zst"}

// Name returns the name the kernel gives to the module in the file path:
// "8139cp" for "kernel/drivers/net/8139cp.ko.xz", "virtio_gpu" for
// "virtio-gpu.ko". ok is false when path is not the name of a module file.
func Name(path string) (name string, ok bool) {
	base := path[strings.LastIndexByte(path, '/')+1:]
	for _, ext := range extensions {
		if name, ok = strings.CutSuffix(base, ext); ok {
			return strings.ReplaceAll(name, "-", "_"), name != ""
		}
	}
	return "", false
}

// Compressed reports whether the name of a module file says that it has to be
// unpacked first.
func Compressed(path string) bool {
	return strings.HasSuffix(path, ".xz") || strings.HasSuffix(path, ".zst")
}

// Unpack returns what the module file f holds once unpacked by the rule of its
// name.
func Unpack(f *os.File) ([]byte, error) {
	var r io.Reader = f
	switch {
	case strings.HasSuffix(f.Name(), ".xz"):
		x, err := xz.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", f.Name(), err)
		}
		r = x
	case strings.HasSuffix(f.Name(), ".zst"):
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", f.Name(), err)
		}
		defer z.Close()
		r = z
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, MaxSize+1))
	if err == nil && n > MaxSize {
		err = ErrTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", f.Name(), err)
	}
	return b.Bytes(), nil
}
