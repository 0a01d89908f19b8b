// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestReadConfig has files read in part and parsed, which has to come to what parsing all
// of them does.
func TestReadConfig(t *testing.T) {
	list := map[int]byte{0x00: 0x86, 0x01: 0x80, 0x06: 0x10, 0x34: 0x40, 0x40: 0x01, 0x41: 0x50, 0x50: capMSI, 0x51: 0x60, 0x60: capMSIX, 0x63: 0x80}
	virtual := header(ConfigSize, list)
	copy(virtual, ones(4))
	for _, tt := range []struct {
		rule    string
		b       []byte
		virtual bool
	}{
		{"a function with capabilities", header(ConfigSize, list), false},
		{"one of PCI Express, whose file is longer", append(header(ConfigSize, list), ones(16)...), false},
		{"one without", header(ConfigSize, map[int]byte{0: 0x86}), false},
		{"a root port with a slot", port(nil), false},
		{"a capability that runs over the end", port(map[int]byte{0x34: 0xf0, 0xf0: capExpress, 0xf2: 0x42, 0xf3: 0x01}), false},
		{"a list that is a loop", header(ConfigSize, map[int]byte{0x06: 0x10, 0x34: 0x40, 0x40: 0x01, 0x41: 0x40}), false},
		{"a reader who may have the header only", header(ConfigSize, list)[:HeaderSize], false},
		{"a function that is gone", ones(ConfigSize), false},
		{"a virtual function, whose ids are ones", virtual, true},
		{"a virtual function that is gone", ones(ConfigSize), true},
		{"a request to wait", append([]byte{1, 0}, ones(ConfigSize-2)...), false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config"), tt.b, 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.virtual {
				if err := os.Symlink(dir, filepath.Join(dir, physicalFunction)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := ParseConfig(tt.b)
			if err != nil {
				t.Fatal(err)
			}
			want.Complete = want.Complete && !want.Absent // nothing is there to be complete
			if got, err := ReadConfig(dir); err != nil || got != want {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
			slot, has := ParseSlot(tt.b)
			if got, ok, err := ReadSlot(dir); err != nil || ok != has || got != slot {
				t.Errorf("slot %+v, %v, %v; want %+v, %v", got, ok, err, slot, has)
			}
		})
	}
}

func TestReadConfigRefusesLessThanAHeader(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config"), make([]byte, HeaderSize-1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(dir); !errors.Is(err, ErrShort) {
		t.Errorf("error %v, want %v", err, ErrShort)
	}
}
