// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// read follows the tables of a file as the format describes them, and returns the
// size of the disk and its clusters that are there, by their offset. It checks that
// every cluster of the file is used once, and counted so.
func read(t *testing.T, name string) (size int64, clusters map[uint64][]byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at uint64) uint64 { return uint64(binary.BigEndian.Uint32(b[at:])) }
	u64 := func(at uint64) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	const offset = 0x00fffffffffffe00 // bits 9 to 55 of an entry
	if string(b[:4]) != "QFI\xfb" || u32(4) != 3 || u32(100) != 104 {
		t.Fatalf("not a header of version 3: %x", b[:headerLength])
	}
	cluster := uint64(1) << u32(20)
	used := map[uint64]int{0: 1}
	take := func(at uint64) uint64 {
		if at%cluster != 0 || at+cluster > uint64(len(b)) {
			t.Fatalf("%#x: not a cluster of a file of %#x bytes", at, len(b))
		}
		used[at/cluster]++
		return at
	}
	clusters = make(map[uint64][]byte)
	l1 := take(u64(40))
	for i := range u32(36) {
		l2 := take(u64(l1+8*i) & offset)
		for j := range cluster / 8 {
			at := (i*cluster/8 + j) * cluster
			if entry := u64(l2 + 8*j); entry != 0 {
				if entry>>63 != 1 {
					t.Errorf("entry %#x of the disk's byte %#x does not say that it is the only one", entry, at)
				}
				data := take(entry & offset)
				clusters[at] = b[data : data+cluster]
			}
		}
	}
	table := take(u64(48))
	counted := make(map[uint64]int)
	for i := range cluster / 8 {
		if block := u64(table + 8*i); block != 0 {
			take(block)
			for j := range cluster / 2 {
				if n := binary.BigEndian.Uint16(b[block+2*j:]); n != 0 {
					counted[i*cluster/2+j] = int(n)
				}
			}
		}
	}
	for i := range uint64(len(b)) / cluster {
		if used[i] != 1 || counted[i] != 1 {
			t.Errorf("cluster %d is used %d times and counted %d times", i, used[i], counted[i])
		}
	}
	if len(counted) != len(b)/int(cluster) {
		t.Errorf("%d clusters are counted, there are %d", len(counted), len(b)/int(cluster))
	}
	return int64(u64(24)), clusters
}

func TestConvertKeepsTheDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int64
		data map[int64]string // by offset
		max  int              // clusters of the file
	}{
		{"a disk of zeroes has tables only", 10 << 20, nil, 5},
		{"its first and its last byte", 10 << 20, map[int64]string{0: "a", 10<<20 - 1: "z"}, 7},
		{"a disk that ends within a cluster", 3*clusterSize + 512, map[int64]string{3*clusterSize + 511: "z"}, 6},
		{"a byte in each of two clusters side by side", 1 << 20, map[int64]string{clusterSize - 1: "ab"}, 7},
		{"a disk of two L2 tables", 600 << 20, map[int64]string{0: "a", 599 << 20: "z"}, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			raw := filepath.Join(dir, "raw")
			f, err := os.Create(raw)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(tt.size); err != nil {
				t.Fatal(err)
			}
			for at, s := range tt.data {
				if _, err := f.WriteAt([]byte(s), at); err != nil {
					t.Fatal(err)
				}
			}
			name := filepath.Join(dir, "qcow2")
			if err := Convert(name, raw); err != nil {
				t.Fatal(err)
			}
			size, clusters := read(t, name)
			if size != tt.size {
				t.Errorf("a disk of %d bytes, want %d", size, tt.size)
			}
			for at, got := range clusters {
				want := make([]byte, clusterSize)
				if _, err := f.ReadAt(want, int64(at)); err != nil && err != io.EOF {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("the cluster at %#x of the disk is another one", at)
				}
			}
			for at, s := range tt.data {
				for i := range s {
					if clusters[uint64(at+int64(i))&^(clusterSize-1)] == nil {
						t.Errorf("byte %#x of the disk is not there", at+int64(i))
					}
				}
			}
			if info, err := os.Stat(name); err != nil || info.Size() > int64(tt.max)*clusterSize {
				t.Errorf("%v, %v: want at most %d clusters", info, err, tt.max)
			}
		})
	}
}

func TestRefcountBlocksCountThemselves(t *testing.T) {
	for _, tt := range []struct{ rest, blocks int64 }{
		{10, 1}, {refcountsInBlock - 1, 1}, {refcountsInBlock, 2}, {2*refcountsInBlock - 2, 2}, {2*refcountsInBlock - 1, 3},
	} {
		if got := refcountBlocks(tt.rest); got != tt.blocks {
			t.Errorf("%d clusters beside them need %d blocks, want %d", tt.rest, got, tt.blocks)
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	for _, size := range []int{0, 511} {
		if err := os.WriteFile(raw, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Convert(filepath.Join(dir, "out"), raw); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v, want ErrSize", size, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}
