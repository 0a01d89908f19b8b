// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modinfo

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// elfFile returns an ELF object with one section of that name beside the table
// of names.
func elfFile(section string, data []byte) []byte {
	names := "\x00" + section + "\x00.shstrtab\x00"
	const headerSize, sectionSize = 64, 64
	dataAt := uint64(headerSize)
	namesAt := dataAt + uint64(len(data))
	tableAt := (namesAt + uint64(len(names)) + 7) &^ 7

	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: tableAt, Ehsize: headerSize, Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	put(h)
	b.Write(data)
	b.WriteString(names)
	b.Write(make([]byte, tableAt-uint64(b.Len())))
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: dataAt, Size: uint64(len(data))})
	put(elf.Section64{Name: uint32(len(section) + 2), Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))})
	return b.Bytes()
}

// moduleFile returns a module with the fields "key=value".
func moduleFile(fields ...string) []byte {
	return elfFile(".modinfo", []byte(strings.Join(fields, "\x00")+"\x00"))
}

func compress(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch filepath.Ext(name) {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadFile(t *testing.T) {
	fields := []string{
		"alias=pci:v000010ECd00008139sv*sd*bc*sc*i*", "", "", "parm=debug:a=b",
		"alias=x", "junk", "depends=mii,8390", "softdep=pre: a-b post: c",
	}
	for _, name := range []string{"8139cp.ko", "8139cp.ko.xz", "8139cp.ko.zst"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, compress(t, name, moduleFile(fields...)), 0o644); err != nil {
				t.Fatal(err)
			}
			info, err := ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Values("alias"); !slices.Equal(got, []string{"pci:v000010ECd00008139sv*sd*bc*sc*i*", "x"}) {
				t.Errorf("aliases %q", got)
			}
			if got := info.Value("parm"); got != "debug:a=b" {
				t.Errorf("a value with '=' reads as %q", got)
			}
			if got := info.Depends(); !slices.Equal(got, []string{"mii", "8390"}) {
				t.Errorf("depends %q", got)
			}
			if got := info.Value("license"); got != "" {
				t.Errorf("a missing key reads as %q", got)
			}
			if len(info) != 5 {
				t.Errorf("%d fields, want 5 without padding and junk: %q", len(info), info)
			}
		})
	}
}

func TestReadFileRefuses(t *testing.T) {
	for _, tt := range []struct {
		rule, name string
		data       []byte
		err        error
	}{
		{"a file that is not ELF", "a.ko", []byte("#!/bin/sh\n"), ErrNotModule},
		{"an empty file", "a.ko", nil, ErrNotModule},
		{"an object without .modinfo", "a.ko", elfFile(".text", nil), ErrNotModule},
		{"an object that was cut off", "a.ko", moduleFile("name=a")[:100], ErrNotModule},
		{"a compressed file that is not compressed", "a.ko.xz", moduleFile("name=a"), nil},
		{"a compressed file that was cut off", "a.ko.zst", compress(t, ".zst", moduleFile("name=a"))[:20], io.ErrUnexpectedEOF},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), tt.name)
			if err := os.WriteFile(path, tt.data, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := ReadFile(path)
			if err == nil || tt.err != nil && !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not name the file", err)
			}
		})
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "none.ko")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(moduleFile("name=e1000", "depends=", "alias=pci:v*"))
	f.Add(moduleFile("depends=a,b", "softdep=pre: x post: y", "=", "a=\x00\x00b"))
	f.Add(elfFile(".text", []byte{0xc3}))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrNotModule) {
				t.Errorf("error %v is not ErrNotModule", err)
			}
			return
		}
		for _, field := range info {
			if strings.ContainsAny(field.Key, "=\x00") || strings.Contains(field.Value, "\x00") {
				t.Errorf("field %q", field)
			}
		}
		for _, name := range info.Depends() {
			if name == "" {
				t.Error("a dependency without a name")
			}
		}
	})
}
