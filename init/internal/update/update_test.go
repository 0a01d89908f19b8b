// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config/slot"
)

// A built is a unified kernel image in the making.
type built struct {
	sections map[string]string
	signed   bool
	machine  uint16
}

// version is an image as the builder makes them.
func version(s slot.Slot) built {
	return built{machine: pe.IMAGE_FILE_MACHINE_AMD64, sections: map[string]string{
		".osrel":   "ID=umbra\nIMAGE_ID=" + s.Image + "\nIMAGE_VERSION=" + s.Version + "\n",
		".cmdline": "console=ttyS0 umbra.slot=" + s.String(),
		".initrd":  "programs", ".linux": "kernel",
	}}
}

// with changes a section; without a content there is none.
func (b built) with(section, content string) built {
	b.sections = maps.Clone(b.sections)
	if b.sections[section] = content; content == "" {
		delete(b.sections, section)
	}
	return b
}

// bytes returns the program: headers, then the content of the sections.
func (b built) bytes() []byte {
	const peAt, align = 0x40, 0x200
	names := slices.Sorted(maps.Keys(b.sections))
	optional := pe.OptionalHeader64{Magic: 0x20b, Subsystem: pe.IMAGE_SUBSYSTEM_EFI_APPLICATION, NumberOfRvaAndSizes: 16}
	if b.signed {
		optional.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size = 8
	}
	var head bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&head, binary.LittleEndian, v); err != nil {
			panic(err) // v has no fixed size
		}
	}
	head.WriteString("MZ")
	head.Write(make([]byte, 0x3a))
	put(uint32(peAt))
	head.WriteString("PE\x00\x00")
	put(pe.FileHeader{Machine: b.machine, NumberOfSections: uint16(len(names)), SizeOfOptionalHeader: uint16(binary.Size(optional))})
	put(optional)
	var content []byte
	for _, name := range names {
		h := pe.SectionHeader32{VirtualSize: uint32(len(b.sections[name])), SizeOfRawData: align, PointerToRawData: uint32(2*align + len(content))}
		copy(h.Name[:], name)
		put(h)
		content = append(content, b.sections[name]...)
		content = append(content, make([]byte, align-len(b.sections[name]))...)
	}
	return append(append(head.Bytes(), make([]byte, 2*align-head.Len())...), content...)
}

var app13 = slot.Slot{Image: "app", Version: "1.3"}

func TestIdentify(t *testing.T) {
	good := version(app13)
	other := good
	other.machine = pe.IMAGE_FILE_MACHINE_ARM64
	cut := good.bytes()
	for _, tt := range []struct {
		rule  string
		image []byte
		says  string // empty: it is taken
	}{
		{"an image of the builder's", good.bytes(), ""},
		{"nothing", nil, "no UEFI program"},
		{"a script", []byte("#!/bin/sh\n"), "no UEFI program"},
		{"half an image", cut[:len(cut)-100], "cut off"},
		{"one for another processor", other.bytes(), "for x86-64"},
		{"one without a kernel", good.with(".linux", "").bytes(), "no section .linux"},
		{"or without an initramfs", good.with(".initrd", "").bytes(), "no section .initrd"},
		{"or a command line", good.with(".cmdline", "").bytes(), "no section .cmdline"},
		{"one that would never prove itself", good.with(".cmdline", "quiet").bytes(), "built without [update]"},
		{"one whose version cannot be read", good.with(".cmdline", "umbra.slot=app").bytes(), "umbra.slot"},
		{"one that the loader takes for another version", good.with(".osrel", "IMAGE_ID=app\nIMAGE_VERSION=1.30\n").bytes(), "IMAGE_VERSION=1.3"},
		{"or for another image", good.with(".osrel", "IMAGE_ID=web\nIMAGE_VERSION=1.3\n").bytes(), "IMAGE_ID=app"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			p, err := identify(bytes.NewReader(tt.image), int64(len(tt.image)))
			if tt.says == "" {
				if err != nil || p != (program{Slot: app13}) {
					t.Errorf("it is %+v, %v", p, err)
				}
				return
			}
			if !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v does not match ErrImage, or does not say %q", err, tt.says)
			}
		})
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add(version(app13).bytes())
	f.Add(version(app13).with(".osrel", "").bytes())
	f.Add([]byte("MZ"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, image []byte) {
		p, err := identify(bytes.NewReader(image), int64(len(image)))
		if err != nil && (p != program{} || !errors.Is(err, ErrImage)) {
			t.Errorf("%+v beside %v", p, err)
		}
		if err == nil && !slot.IsVersion(p.Version) {
			t.Errorf("version %q", p.Version)
		}
	})
}

// full is a disk without room.
type full struct{}

func (full) Read([]byte) (int, error) { return 0, unix.ENOSPC }

func TestInstall(t *testing.T) {
	app12 := slot.Slot{Image: "app", Version: "1.2"}
	next := version(app13).bytes()
	signed := version(app12)
	signed.signed = true
	old := []string{"app-1.1.efi", "app-1.2.efi"}
	for _, tt := range []struct {
		rule  string
		names []string // on the disk
		runs  built    // what app-1.2.efi is
		image io.Reader
		sum   []byte // of what the SHA-256 is given
		err   error
		after []string // on the disk; empty: as before
	}{
		{"takes the place of the older", old, version(app12), bytes.NewReader(next), next, nil, []string{"app-1.2.efi", "app-1.3+3.efi"}},
		{"in whatever pieces it comes", old, version(app12), iotest.HalfReader(bytes.NewReader(next)), next, nil, []string{"app-1.2.efi", "app-1.3+3.efi"}},
		{"begins again after it was killed", append(old, unfinished), version(app12), bytes.NewReader(next), next, nil, []string{"app-1.2.efi", "app-1.3+3.efi"}},
		{"has room after one that ended before it had removed the older", []string{"app-1.1.efi", "app-1.2.efi", "app-1.3+0-3.efi"}, version(app12),
			io.MultiReader(bytes.NewReader(next[:900]), full{}), next, ErrNoRoom, []string{"app-1.2.efi", "app-1.3+0-3.efi"}},
		{"tries again what has failed", []string{"app-1.2.efi", "app-1.3+0-3.efi"}, version(app12), bytes.NewReader(next), next, nil,
			[]string{"app-1.2.efi", "app-1.3+3.efi"}},
		{"leaves what is not ours", []string{"app-1.2.efi", "debian.efi"}, version(app12), bytes.NewReader(next), next, nil,
			[]string{"app-1.2.efi", "app-1.3+3.efi", "debian.efi"}},
		{"refuses what was not meant", old, version(app12), bytes.NewReader(next), []byte("other"), ErrSum, nil},
		{"refuses half of it", old, version(app12), bytes.NewReader(next[:900]), next, ErrSum, nil},
		{"refuses what no disk can start", old, version(app12), strings.NewReader("x"), []byte("x"), ErrImage, nil},
		{"refuses what is not newer", old, version(app12), bytes.NewReader(version(app12).bytes()), version(app12).bytes(), slot.ErrNotNewer, nil},
		{"refuses to leave the signed for the unsigned", old, signed, bytes.NewReader(next), next, ErrUnsigned, nil},
		{"refuses while on trial", []string{"app-1.1.efi", "app-1.2+2-1.efi"}, version(app12), bytes.NewReader(next), next, slot.ErrOnTrial, nil},
		{"refuses a disk that it was not booted from", []string{"app-1.1.efi"}, version(app12), bytes.NewReader(next), next, slot.ErrNone, nil},
		{"gives up where there is no room", old, version(app12), io.MultiReader(bytes.NewReader(next[:900]), full{}), next, ErrNoRoom, nil},
		{"gives up what cannot be read", old, version(app12), iotest.ErrReader(io.ErrUnexpectedEOF), next, io.ErrUnexpectedEOF, nil},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range tt.names {
				if err := os.WriteFile(filepath.Join(dir, name), tt.runs.bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := install(t.Context(), dir, app12, tt.image, sha256.Sum256(tt.sum))
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && got != app13 {
				t.Errorf("installed %s", got)
			}
			if tt.after == nil {
				tt.after = tt.names
			}
			if diff := cmp.Diff(tt.after, files(t, dir)); diff != "" {
				t.Errorf("on the disk (-want +got):\n%s", diff)
			}
			if err == nil {
				content, err := os.ReadFile(filepath.Join(dir, app13.TryFile()))
				if err != nil || !bytes.Equal(content, next) {
					t.Errorf("another image was written: %v", err)
				}
			}
		})
	}
}

func TestInstallEndsWhenItIsToldTo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app-1.2.efi"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := install(ctx, dir, slot.Slot{Image: "app", Version: "1.2"}, bytes.NewReader(make([]byte, 2*syncEvery)), [32]byte{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"app-1.2.efi"}, files(t, dir)); diff != "" {
		t.Errorf("on the disk (-want +got):\n%s", diff)
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestBless(t *testing.T) {
	running := slot.Slot{Image: "app", Version: "1.3"}
	for _, tt := range []struct {
		rule          string
		before, after []string
	}{
		{"takes the counter off", []string{"app-1.2.efi", "app-1.3+2-1.efi"}, []string{"app-1.2.efi", "app-1.3.efi"}},
		{"of the last try, too", []string{"app-1.3+0-3.efi"}, []string{"app-1.3.efi"}},
		{"once", []string{"app-1.3.efi"}, []string{"app-1.3.efi"}},
		{"of no other version", []string{"app-1.3.efi", "app-1.4+3.efi"}, []string{"app-1.3.efi", "app-1.4+3.efi"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range tt.before {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := bless(dir, running); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.after, files(t, dir)); diff != "" {
				t.Errorf("on the disk (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSum(t *testing.T) {
	want := sha256.Sum256([]byte("x"))
	if got, err := ParseSum("2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"); err != nil || got != want {
		t.Errorf("%x, %v", got, err)
	}
	for _, bad := range []string{"", "2d71", "zz711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"} {
		if _, err := ParseSum(bad); err == nil {
			t.Errorf("%q is taken for a sum", bad)
		}
	}
}

func TestLook(t *testing.T) {
	run := t.TempDir()
	if s := Look(run); s.State != NoSlot || s.Message == "" {
		t.Errorf("before anybody has looked: %+v", s)
	}
	for _, tt := range []struct {
		rule  string
		names []string
		want  Status
	}{
		{"alone", []string{"app-1.3.efi"}, Status{State: Confirmed, Version: "1.3"}},
		{"on trial", []string{"app-1.2.efi", "app-1.3+1-2.efi"}, Status{State: OnTrial, Version: "1.3", TriesLeft: 1}},
		{"before another", []string{"app-1.3.efi", "app-1.4+3.efi"}, Status{State: Confirmed, Version: "1.3", Next: "1.4"}},
		{"after another", []string{"app-1.3.efi", "app-1.4+0-3.efi"},
			Status{State: Confirmed, Version: "1.3", Failed: "1.4", Message: "1.4 did not prove itself in 3 tries"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range tt.names {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := remember(run, dir, app13); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, Look(run)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}
