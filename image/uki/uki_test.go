// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/uki/ukitest"
)

// write makes an image with that stub in a new directory.
func write(t *testing.T, stub []byte, initrd string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	i := Image{
		Stub: stub, OSRelease: "ID=umbra\n", Cmdline: "console=ttyS0 quiet", Uname: "6.1.0-test",
		Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"),
	}
	for name, content := range map[string]string{i.Kernel: "a kernel", i.Initrd: initrd} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "x.efi")
	return name, i.Write(name)
}

func TestTheImageHasWhatTheStubLooksFor(t *testing.T) {
	stub := ukitest.Stub()
	initrd := strings.Repeat("x", 10_000)
	name, err := write(t, stub, initrd)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	optional := f.OptionalHeader.(*pe.OptionalHeader64)
	got := make(map[string]string)
	var end, raw uint32
	for _, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%optional.SectionAlignment != 0 && s.Name != ".sdmagic" {
			t.Errorf("section %s begins at %#x, the one before it ends at %#x", s.Name, s.VirtualAddress, end)
		}
		if s.Offset < raw || s.Offset%optional.FileAlignment != 0 || s.Size%optional.FileAlignment != 0 {
			t.Errorf("section %s has %d bytes of the file at %#x, the one before it ends at %#x", s.Name, s.Size, s.Offset, raw)
		}
		end, raw = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
		content, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		got[s.Name] = string(content[:min(s.VirtualSize, s.Size)])
	}
	delete(got, ".text")
	delete(got, ".sdmagic")
	if diff := cmp.Diff(map[string]string{
		".osrel": "ID=umbra\n", ".cmdline": "console=ttyS0 quiet", ".uname": "6.1.0-test", ".initrd": initrd, ".linux": "a kernel",
	}, got); diff != "" {
		t.Errorf("sections (-want +got):\n%s", diff)
	}
	if optional.SizeOfImage < end || optional.SizeOfImage%optional.SectionAlignment != 0 {
		t.Errorf("the image takes %#x bytes of memory, its sections end at %#x", optional.SizeOfImage, end)
	}
	if info, err := os.Stat(name); err != nil || info.Size() != int64(raw) {
		t.Errorf("%v, %v: something lies behind the sections, which end at %d", info, err, raw)
	}
	if len(f.Symbols) != 0 {
		t.Error("the stub's symbols are still there")
	}
}

// patch returns a stub with the bytes at that offset of its PE header changed.
func patch(offset int, to ...byte) []byte {
	b := ukitest.Stub()
	at := int(binary.LittleEndian.Uint32(b[peOffsetAt:]))
	copy(b[at+offset:], to)
	return b
}

func TestWriteRefuses(t *testing.T) {
	const optional = 24
	for _, tt := range []struct {
		name string
		stub []byte
		want string
	}{
		{"nothing", nil, "EOF"},
		{"what is no program", []byte("text, and more of it"), ""},
		{"a program for another processor", patch(4, 0x64, 0xaa), "x86-64"},
		{"a program for Windows", patch(optional+68, 2), "not an UEFI program"},
		{"a stub of somebody else's", bytes.Replace(ukitest.Stub(), []byte(".sdmagic"), []byte(".nothing"), 1), "not systemd's stub"},
		{"a stub that has a kernel", bytes.Replace(ukitest.Stub(), []byte(".text\x00\x00\x00"), []byte(".linux\x00\x00"), 1), "has a kernel"},
		{"a stub that is signed", patch(optional+112+8*certificates+4, 1), "signed"},
		{"an object file", ukitest.Stub()[0x84:], ""},
		{"a short optional header", patch(20, 0xe8), ""},
		{"sections aligned to nothing", patch(optional+36, 0, 0), "without alignment"},
		{"headers without room for more", patch(optional+60, 0x10, 2), "no room"},
		{"a stub cut short", ukitest.Stub()[:0x500], ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := write(t, tt.stub, "initrd")
			if !errors.Is(err, ErrStub) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want ErrStub and %q", err, tt.want)
			}
		})
	}
	t.Run("an empty initramfs", func(t *testing.T) {
		if _, err := write(t, ukitest.Stub(), ""); err == nil || !strings.Contains(err.Error(), ".initrd") {
			t.Errorf("error %v, want one that names .initrd", err)
		}
	})
}

func TestCheckSigned(t *testing.T) {
	signed, err := write(t, ukitest.Stub(), "initrd")
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckSigned(signed); !errors.Is(err, ErrUnsigned) {
		t.Errorf("without a signature: %v, want ErrUnsigned", err)
	}
	if err := os.WriteFile(signed, patch(24+112+8*certificates+4, 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CheckSigned(signed); err != nil {
		t.Errorf("with one: %v", err)
	}
	if err := CheckSigned(signed + ".none"); !errors.Is(err, ErrUnsigned) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v, want ErrUnsigned and ErrNotExist", err)
	}
}

func FuzzStub(f *testing.F) {
	f.Add(ukitest.Stub())
	f.Add(ukitest.Stub()[:0x400])
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parse(raw)
		if err == nil && (len(s.sections) == 0 || len(s.raw) > len(raw)) {
			t.Errorf("%d sections, %d bytes of %d", len(s.sections), len(s.raw), len(raw))
		}
	})
}
