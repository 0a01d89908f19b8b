// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmlinux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

var kernel = append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel "), 5000)...)

func packXZ(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packZstd(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// image makes a bzImage with a payload, behind which there is its length, and more.
func image(sects byte, payload []byte) []byte {
	code := int(sects)
	if sects == 0 {
		code = 4
	}
	b := make([]byte, (code+1)*sector+100)
	b[setupSects] = sects
	copy(b[magicAt:], magic)
	binary.LittleEndian.PutUint16(b[versionAt:], 0x20f)
	payload = append(bytes.Clone(payload), 1, 2, 3, 4)
	binary.LittleEndian.PutUint32(b[payloadOffset:], 100)
	binary.LittleEndian.PutUint32(b[payloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "more"...)
}

func TestUnpack(t *testing.T) {
	old := image(4, packXZ(t, kernel))
	binary.LittleEndian.PutUint16(old[versionAt:], 0x207)
	whole := image(4, packXZ(t, kernel))
	for _, tc := range []struct {
		name string
		file []byte
		ok   bool
	}{
		{"a kernel packed by xz", image(30, packXZ(t, kernel)), true},
		{"a kernel packed by zstd", image(30, packZstd(t, kernel)), true},
		{"a header that does not say how long it is", image(0, packXZ(t, kernel)), true},
		{"an old boot protocol has no payload", old, false},
		{"another packing", image(4, []byte("BZh91AY&SY")), false},
		{"something else than an ELF file", image(4, packXZ(t, []byte("text"))), false},
		{"a file that is cut off", whole[:len(whole)-20], false},
		{"something else than a bzImage", []byte("#!/bin/sh"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Unpack(tc.file)
			if tc.ok && (err != nil || !bytes.Equal(got, kernel)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if !tc.ok && !errors.Is(err, ErrFormat) {
				t.Errorf("error %v, want one of its format", err)
			}
		})
	}
}
