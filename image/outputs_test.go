// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"debug/pe"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/apt/apttest"
	"github.com/umbra-vm/umbra/image/deb/debtest"
	"github.com/umbra-vm/umbra/image/uki"
	"github.com/umbra-vm/umbra/image/uki/ukitest"
)

// withImage puts lines into the section [image] of the simple description.
func withImage(lines string) string { return "[image]\n" + lines + "\n" + simple }

const allOutputs = `outputs = ["uki", "disk", "qcow2", "iso"]`

// stubArchive lets apt know the package of the stub, and some more.
func stubArchive(t *testing.T, more ...apttest.Package) {
	t.Helper()
	apttest.Archive(t, append(more, apttest.Package{Name: stubPackage, Version: "252.1-1", Files: []debtest.File{
		{Name: "." + stubFile, Content: string(ukitest.Stub())}, {Name: "." + loaderFile, Content: "systemd-boot"},
	}})...)
}

// sections returns what a unified kernel image holds.
func sections(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := pe.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := make(map[string]string)
	for _, s := range f.Sections {
		content, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		out[s.Name] = string(content[:min(s.VirtualSize, s.Size)])
	}
	return out
}

func TestOutputs(t *testing.T) {
	stubArchive(t)
	first, second := project(t, withImage(allOutputs)), project(t, withImage(allOutputs))
	b := mustBuild(t, first, "out")
	mustBuild(t, second, "another/place")
	for _, o := range outputs {
		name := o.File("app")
		x, err := os.ReadFile(filepath.Join(first, "out", name))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(second, "another/place", name))
		if err != nil {
			t.Fatal(err)
		}
		if _, listed := b.Files[name]; !listed || !bytes.Equal(x, y) {
			t.Errorf("%s in the manifest: %t; the same in another directory: %t", name, listed, bytes.Equal(x, y))
		}
	}
	if diff := cmp.Diff(&PackageManifest{Name: stubPackage, Version: "252.1-1", SHA256: b.Stub.SHA256}, b.Stub); diff != "" {
		t.Errorf("stub in the manifest (-want +got):\n%s", diff)
	}
	got := sections(t, filepath.Join(b.Dir, "app.efi"))
	for section, file := range map[string]string{".linux": KernelFile, ".initrd": b.Initramfs} {
		want, err := os.ReadFile(filepath.Join(b.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if got[section] != string(want) {
			t.Errorf("section %s is not %s", section, file)
		}
	}
	if got[".cmdline"] != b.Cmdline || got[".uname"] != b.Kernel.Release || !strings.Contains(got[".osrel"], "IMAGE_ID=app\n") {
		t.Errorf("command line %q, release %q, os-release %q", got[".cmdline"], got[".uname"], got[".osrel"])
	}
}

func TestAnOutputBringsNoOther(t *testing.T) {
	stubArchive(t)
	b := mustBuild(t, project(t, withImage(`outputs = ["qcow2"]`)), "out")
	entries, err := os.ReadDir(b.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := []string{"app.libvirt.xml", "app.pv.xl.cfg", "app.pvh.xl.cfg", "app.qcow2", "app.spdx.json", "app.xl.cfg", "initramfs.cpio.zst", "manifest.json", "run-qemu.sh", "vmlinuz"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bundle (-want +got):\n%s", diff)
	}
	if _, err := b.VMFrom(ISO, "fw"); !errors.Is(err, ErrNoBundle) || !strings.Contains(err.Error(), "app.iso") {
		t.Errorf("a machine from an ISO that was not built: %v", err)
	}
	m, err := b.VMFrom(QCOW2, "fw")
	if err != nil || m.Disk != filepath.Join(b.Dir, "app.qcow2") || m.Firmware != "fw" || m.Kernel != "" {
		t.Errorf("machine %+v, %v", m, err)
	}
}

func TestOutputsOfAnEarlierBuildGo(t *testing.T) {
	stubArchive(t)
	dir := project(t, withImage(`outputs = ["uki"]`))
	mustBuild(t, dir, "out")
	if err := os.WriteFile(filepath.Join(dir, "app.toml"), []byte(withImage(`compression = "xz"`)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "out", "note"), []byte("the user's"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustBuild(t, dir, "out")
	for name, want := range map[string]bool{"app.efi": false, "initramfs.cpio.zst": false, "initramfs.cpio.xz": true, "note": true} {
		if _, err := os.Stat(filepath.Join(dir, "out", name)); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", name, err == nil, want)
		}
	}
}

// signer writes a command that does as a signer does: what it reads comes out with
// an entry for certificates in its header.
func signer(t *testing.T, dir, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "signer"), []byte("#!/bin/sh\nset -e\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

const sign = `outputs = ["uki", "disk"]
sign = ["./signer", "--output={out}", "{in}"]`

func TestSign(t *testing.T) {
	stubArchive(t)
	dir := project(t, withImage(sign))
	// 0x80: where the stub's header is; 24+112+8*4+4: the size of the certificates.
	signer(t, dir, `cp "$2" "${1#--output=}"
printf '\001' | dd of="${1#--output=}" bs=1 seek=$((0x80 + 172)) conv=notrunc 2>/dev/null
`)
	b := mustBuild(t, dir, "out")
	signed := filepath.Join(b.Dir, "app.efi")
	if err := uki.CheckSigned(signed); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(filepath.Join(b.Dir, "app.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(disk, content) {
		t.Error("the disk does not hold what was signed")
	}
}

func TestABuildThatIsNotSignedFails(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"the command fails, and says why", "echo no such key >&2; exit 3\n", "no such key"},
		{"it writes nothing", "exit 0\n", "no such file"},
		{"it writes what has no signature", `cp "$2" "${1#--output=}"` + "\n", "not signed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stubArchive(t)
			dir := project(t, withImage(sign))
			signer(t, dir, tt.script)
			_, err := build(t, dir, "out")
			if !errors.Is(err, ErrSign) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "app.toml:3: image.sign: ") {
				t.Errorf("error %v, want ErrSign with place and %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

func TestOutputsWithoutAStub(t *testing.T) {
	for _, tt := range []struct {
		name     string
		packages []apttest.Package
		want     string
	}{
		{"apt does not know its package", nil, stubPackage},
		{"it is not in its package", []apttest.Package{{Name: stubPackage, Version: "300-1"}}, "it has no " + stubFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			apttest.Archive(t, tt.packages...)
			if _, err := build(t, project(t, withImage(allOutputs)), "out"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}
