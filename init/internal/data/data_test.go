// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package data

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// block makes a superblock with the fields at these offsets.
func block(fields map[int]uint32) []byte {
	b := make([]byte, superblockSize)
	binary.LittleEndian.PutUint16(b[magicAt:], magic)
	for at, v := range fields {
		if at == stateAt || at == magicAt {
			binary.LittleEndian.PutUint16(b[at:], uint16(v))
			continue
		}
		binary.LittleEndian.PutUint32(b[at:], v)
	}
	return b
}

func TestSuperblock(t *testing.T) {
	for _, tt := range []struct {
		rule string
		b    []byte
		want superblock
		bad  string
	}{
		{"one that was unmounted", block(map[int]uint32{stateAt: 1, compatAt: 0x3c, incompatAt: 0x2c2}), superblock{}, ""},
		{"one that was not needs its journal", block(map[int]uint32{stateAt: 1, compatAt: 0x3c, incompatAt: 0x2c6}),
			superblock{recover: true}, ""},
		{"one that is marked has errors", block(map[int]uint32{stateAt: 3, compatAt: 0x3c}), superblock{errors: true}, ""},
		{"one that has counted some, too", block(map[int]uint32{stateAt: 1, compatAt: 0x3c, errorCountAt: 7}),
			superblock{errors: true}, ""},
		{"one without a journal is refused", block(map[int]uint32{stateAt: 1, compatAt: 0x38}), superblock{}, "no journal"},
		{"an empty disk is refused", make([]byte, superblockSize), superblock{}, "not ext4"},
		{"half a superblock is refused", block(map[int]uint32{compatAt: 4})[:512], superblock{}, "not ext4"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got, err := parseSuperblock(tt.b)
			if got != tt.want || (err != nil) != (tt.bad != "") {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err != nil && (!errors.Is(err, ErrFileSystem) || !strings.Contains(err.Error(), tt.bad)) {
				t.Errorf("error %q does not match ErrFileSystem, or does not say %q", err, tt.bad)
			}
		})
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(block(map[int]uint32{stateAt: 1, compatAt: 0x3c, incompatAt: 0x2c6}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSuperblock(b); err != nil && s != (superblock{}) {
			t.Errorf("%+v beside %v", s, err)
		}
	})
}

// What is no ext4 is left alone, byte by byte.
func TestADiskWithoutAFileSystemIsRefused(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	for rule, content := range map[string][]byte{"of another kind": make([]byte, 4096), "too short": []byte("short")} {
		if err := os.WriteFile(disk, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := mount(slog.New(slog.DiscardHandler), disk, filepath.Join(t.TempDir(), "data")); !errors.Is(err, ErrFileSystem) {
			t.Errorf("%s: %v, want ErrFileSystem", rule, err)
		}
		if after, err := os.ReadFile(disk); err != nil || string(after) != string(content) {
			t.Errorf("%s: the disk has changed: %v", rule, err)
		}
	}
}

func TestMountAt(t *testing.T) {
	const text = "rootfs / rootfs rw 0 0\n/dev/vda /data ext4 rw,nosuid,errors=remount-ro 0 0\n/dev/vdb /data2 ext4 ro 0 0\n"
	for _, tt := range []struct {
		rule, mounts, dir string
		want              mounted
		ok                bool
	}{
		{"an option that ends in ro is not ro", text, "/data", mounted{"/dev/vda", false}, true},
		{"what is mounted read-only is", text, "/data2", mounted{"/dev/vdb", true}, true},
		{"of two mounts the last is on top", text + "/dev/vdc /data ext4 ro,nosuid 0 0\n", "/data", mounted{"/dev/vdc", true}, true},
		{"there may be none", text, "/dat", mounted{}, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got, ok := mountAt(tt.mounts, tt.dir); got != tt.want || ok != tt.ok {
				t.Errorf("got %+v, %t", got, ok)
			}
		})
	}
}

func TestLook(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.json")
	if s := Look(file); s.State != Waiting || s.Message == "" {
		t.Errorf("before anybody has looked: %+v", s)
	}
	if err := (note{Device: "vda", Message: "vda: it is not ext4"}).save(file); err != nil {
		t.Fatal(err)
	}
	if s := Look(file); s.State != Waiting || s.Device != "vda" || s.Message != "vda: it is not ext4" {
		t.Errorf("after that: %+v", s)
	}
}
