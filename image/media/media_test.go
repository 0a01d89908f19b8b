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
	}{{"disk", writeDisk}, {"ISO", writeISOOf}} {
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
