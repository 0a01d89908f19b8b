// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// program makes a file of that size in a new directory.
func program(t *testing.T, size int) (name string, content []byte) {
	t.Helper()
	content = bytes.Repeat([]byte("umbra."), size/6+1)[:size]
	name = filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name, content
}

func open(t *testing.T, name string) backend.Storage {
	t.Helper()
	b, err := file.OpenFromPath(name, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func writeDisk(dst, program, id string) error { return WriteDisk(dst, Program(program), nil, id) }

func writeISOOf(dst, program, id string) error { return WriteISO(dst, program, nil, id) }

// bootFile reads BootFile from the file system at that place.
func bootFile(t *testing.T, b backend.Storage, start, size int64) []byte {
	t.Helper()
	return fileAt(t, b, start, size, BootFile)
}

func fileAt(t *testing.T, b backend.Storage, start, size int64, name string) []byte {
	t.Helper()
	fs, err := fat32.Read(b, size, start, sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenFile(name, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestDiskHasTheProgramWhereFirmwareLooks(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int
	}{
		{"a small one, in the smallest FAT32", 100_000},
		{"one that fills whole clusters", 16 * sectorSize},
		{"one that needs a larger file system", 60 * mib},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, content := program(t, tt.size)
			disk := src + ".raw"
			if err := WriteDisk(disk, Program(src), nil, "id"); err != nil {
				t.Fatal(err)
			}
			b := open(t, disk)
			table, err := gpt.Read(b, sectorSize, sectorSize)
			if err != nil {
				t.Fatal(err)
			}
			info, err := b.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if err := table.Verify(b, uint64(info.Size())); err != nil {
				t.Errorf("partition table and its copy: %v", err)
			}
			p := table.Partitions[0]
			if p.Type != gpt.EFISystemPartition {
				t.Errorf("partition of type %s", p.Type)
			}
			if !bytes.Equal(bootFile(t, b, p.GetStart(), p.GetSize()), content) {
				t.Error("another program")
			}
		})
	}
}

func TestDiskWithSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		BootFile:                                strings.Repeat("loader", 5000),
		"/EFI/Linux/app-1.4.2.efi":              strings.Repeat("kernel", 7000),
		"/EFI/Linux/exactly13.efi":              "a name that fills an entry",
		"/EFI/Linux/longer than 26 letters.efi": "three entries",
	}
	esp := ESP{Name: "slots", Room: 50 * mib}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		source := filepath.Join(dir, path.Base(name))
		if err := os.WriteFile(source, []byte(files[name]), 0o644); err != nil {
			t.Fatal(err)
		}
		esp.Files = append(esp.Files, File{name, source})
	}
	disk := filepath.Join(dir, "disk")
	if err := WriteDisk(disk, esp, nil, "id"); err != nil {
		t.Fatal(err)
	}
	b := open(t, disk)
	table, err := gpt.Read(b, sectorSize, sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[0]
	if p.Name != "slots" || p.GetSize() < 50*mib {
		t.Errorf("partition %q of %d bytes", p.Name, p.GetSize())
	}
	for name, content := range files {
		if string(fileAt(t, b, p.GetStart(), p.GetSize(), name)) != content {
			t.Errorf("%s has another content", name)
		}
	}
}

func TestISOLeadsFirmwareToTheProgram(t *testing.T) {
	src, content := program(t, 100_000)
	iso := src + ".iso"
	if err := WriteISO(iso, src, nil, "id"); err != nil {
		t.Fatal(err)
	}
	b := open(t, iso)
	fs, err := iso9660.Read(b, 0, 0, isoSector)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimRight(fs.Label(), " ") != volume {
		t.Errorf("volume %q", fs.Label())
	}
	raw, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	// El Torito: the boot record is the second volume descriptor; at 71 it says where
	// the catalogue is, whose second entry is that of the image.
	record := raw[17*isoSector:]
	if !strings.HasPrefix(string(record[7:]), "EL TORITO SPECIFICATION") {
		t.Fatalf("no boot record: %q", record[:40])
	}
	catalogue := raw[int(binary.LittleEndian.Uint32(record[71:]))*isoSector:]
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(catalogue[i:])
	}
	if catalogue[1] != 0xef || sum != 0 {
		t.Errorf("catalogue for platform %#x, with check sum %#x", catalogue[1], sum)
	}
	entry := catalogue[32:]
	if entry[0] != 0x88 || entry[1] != 0 || binary.LittleEndian.Uint16(entry[6:]) != 0 {
		t.Errorf("entry % x: want one that boots without emulation, to the end of the medium", entry[:12])
	}
	start := int64(binary.LittleEndian.Uint32(entry[8:])) * isoSector
	if !bytes.Equal(bootFile(t, b, start, int64(len(raw))-start), content) {
		t.Error("another program")
	}
}

func TestTheSameProgramGivesTheSameBytes(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(dst, program, id string) error
	}{
		{"disk", writeDisk}, {"ISO", writeISOOf},
		{"disk that a BIOS starts", func(dst, program, id string) error { return WriteDisk(dst, Program(program), legacy(t, 1000), id) }},
		{"ISO that a BIOS starts", func(dst, program, id string) error { return WriteISO(dst, program, legacy(t, 1000), id) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var made [3][]byte
			for i, id := range []string{"one", "one", "other"} {
				src, _ := program(t, 1000)
				if err := os.Chtimes(src, time.Now(), time.Unix(int64(i)*1e8, 0)); err != nil {
					t.Fatal(err)
				}
				if err := tt.make(src+".out", src, id); err != nil {
					t.Fatal(err)
				}
				var err error
				if made[i], err = os.ReadFile(src + ".out"); err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(made[i], []byte(filepath.Dir(src))) {
					t.Error("it holds a path of this machine")
				}
				if i == 0 {
					time.Sleep(1100 * time.Millisecond) // a second is what dates count in
				}
			}
			if !bytes.Equal(made[0], made[1]) {
				t.Error("the second time they differ")
			}
			if bytes.Equal(made[0], made[2]) {
				t.Error("another id makes no difference: two disks would have the same name")
			}
		})
	}
}

func TestNothingIsMadeOfNothing(t *testing.T) {
	dir := t.TempDir()
	for _, write := range []func(dst, program, id string) error{writeDisk, writeISOOf} {
		err := write(filepath.Join(dir, "out"), filepath.Join(dir, "none"), "id")
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "none") {
			t.Errorf("error %v, want one that names the file", err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFATRefusesWhatDoesNotFit(t *testing.T) {
	if _, err := newFAT(32 * mib); !errors.Is(err, errFAT) {
		t.Errorf("a file system so small that it is a FAT16: %v", err)
	}
	f, err := newFAT(minESP)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "fat")
	w, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := f.write(w, fatFile{BootFile, nil, 40 * mib}); !errors.Is(err, errFAT) {
		t.Errorf("a file larger than it: %v", err)
	}
	if err := f.write(w, fatFile{BootFile, strings.NewReader("short"), 1000}); err == nil {
		t.Error("a file that is shorter than it was said is taken")
	}
}

// legacy is what a BIOS starts, with a file of that size.
func legacy(t *testing.T, size int) *BIOS {
	t.Helper()
	kernel, _ := program(t, size)
	loader := bytes.Repeat([]byte("isolinux"), 500)
	binary.LittleEndian.PutUint32(loader[hybridAt:], hybridMagic)
	return &BIOS{
		Loader: loader, MBR: bytes.Repeat([]byte{0x90}, mbrCode),
		Files: []File{{"KERNEL", kernel}}, Texts: map[string]string{"ISOLINUX.CFG": "LINUX /KERNEL"},
	}
}

// wantBootTable wants the loader at that place to have been told where it is, and what it
// is by its check sum (El Torito; isolinux.txt).
func wantBootTable(t *testing.T, raw []byte, at int, bios *BIOS) {
	t.Helper()
	got, want := raw[at:at+len(bios.Loader)], bytes.Clone(bios.Loader)
	var sum uint32
	for i := 64; i < len(want); i += 4 {
		sum += binary.LittleEndian.Uint32(want[i:])
	}
	for i, v := range []uint32{16, uint32(at) / isoSector, uint32(len(want)), sum} {
		binary.LittleEndian.PutUint32(want[8+4*i:], v)
	}
	clear(want[24:64])
	if !bytes.Equal(got, want) {
		t.Errorf("at %#x is % x ..., want the loader with its boot table, % x ...", at, got[:32], want[:32])
	}
}

func TestISOLeadsABIOSToTheLoader(t *testing.T) {
	src, content := program(t, 100_000)
	iso, bios := src+".iso", legacy(t, 5000)
	if err := WriteISO(iso, src, bios, "id"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	catalogue := raw[int(binary.LittleEndian.Uint32(raw[17*isoSector+71:]))*isoSector:]
	first, section, second := catalogue[32:], catalogue[64:], catalogue[96:]
	if catalogue[1] != 0 || first[0] != 0x88 || first[1] != 0 || section[0] != 0x91 || section[1] != 0xef || second[0] != 0x88 {
		t.Fatalf("catalogue % x: want an entry for a BIOS, then one for UEFI", catalogue[:128])
	}
	wantBootTable(t, raw, int(binary.LittleEndian.Uint32(first[8:]))*isoSector, bios)
	b := open(t, iso)
	start := int64(binary.LittleEndian.Uint32(second[8:])) * isoSector
	if !bytes.Equal(bootFile(t, b, start, int64(len(raw))-start), content) {
		t.Error("another program for UEFI")
	}
	wantLoaderFiles(t, b, bios)
}

// wantLoaderFiles wants the loader's files in the ISO 9660 file system of a medium.
func wantLoaderFiles(t *testing.T, b backend.Storage, bios *BIOS) {
	t.Helper()
	fs, err := iso9660.Read(b, 0, 0, isoSector)
	if err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(bios.Texts)
	for _, f := range bios.Files {
		content, err := os.ReadFile(f.Source)
		if err != nil {
			t.Fatal(err)
		}
		want[f.Path] = string(content)
	}
	for name, content := range want {
		f, err := fs.OpenFile("/"+name, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || string(got) != content {
			t.Errorf("%s has %d bytes, and not what it should (%v)", name, len(got), err)
		}
	}
}

func TestDiskLeadsABIOSToTheLoader(t *testing.T) {
	src, content := program(t, 100_000)
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, bytes.Repeat([]byte("data"), mib/4), 0o644); err != nil {
		t.Fatal(err)
	}
	disk, bios := src+".raw", legacy(t, 3*mib)
	if err := WriteDisk(disk, Program(src), bios, "id", Partition{"my data", data}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw[:mbrCode], bios.MBR) {
		t.Error("the first sector has other code")
	}
	wantBootTable(t, raw, int(binary.LittleEndian.Uint64(raw[mbrCode:]))*sectorSize, bios)
	b := open(t, disk)
	wantLoaderFiles(t, b, bios)
	table, err := gpt.Read(b, sectorSize, sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Verify(b, uint64(len(raw))); err != nil || !table.ProtectiveMBR {
		t.Errorf("partition table and its copy: %v; for tools that know none: %t", err, table.ProtectiveMBR)
	}
	esp, mine, area := table.Partitions[0], table.Partitions[1], table.Partitions[2]
	if esp.Type != gpt.EFISystemPartition || mine.Name != "my data" || area.Type != gpt.BIOSBoot {
		t.Fatalf("partitions %+v, %+v, %+v", esp, mine, area)
	}
	if area.GetStart() < 34*sectorSize || area.GetStart()+area.GetSize() > esp.GetStart() || esp.GetStart()%mib != 0 {
		t.Errorf("the loader's partition has %d bytes at %d, the next one is at %d", area.GetSize(), area.GetStart(), esp.GetStart())
	}
	if !bytes.Equal(bootFile(t, b, esp.GetStart(), esp.GetSize()), content) {
		t.Error("another program for UEFI")
	}
	if at := mine.GetStart(); !bytes.Equal(raw[at:at+mib], bytes.Repeat([]byte("data"), mib/4)) {
		t.Error("the data is not in its partition")
	}
}

func TestLoadersThatStartFromNoDiskAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*BIOS){
		"it is not isolinux":         func(b *BIOS) { b.Loader = bytes.Repeat([]byte("x"), 4000) },
		"it is cut off":              func(b *BIOS) { b.Loader = b.Loader[:10] },
		"the first sector's is none": func(b *BIOS) { b.MBR = b.MBR[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			src, _ := program(t, 1000)
			bios := legacy(t, 100)
			spoil(bios)
			if err := WriteISO(src+".iso", src, bios, "id"); !errors.Is(err, ErrLoader) {
				t.Errorf("ISO: %v", err)
			}
			if err := WriteDisk(src+".raw", Program(src), bios, "id"); !errors.Is(err, ErrLoader) {
				t.Errorf("disk: %v", err)
			}
		})
	}
}
