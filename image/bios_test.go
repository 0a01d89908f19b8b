// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/apt/apttest"
	"github.com/umbra-vm/umbra/image/deb/debtest"
)

// isolinux are the packages of a loader that can be started from a disk.
func isolinux(version, syslinux string) []apttest.Package {
	loader := strings.Repeat("x", 64) + "\xfb\xc0\x78\x70" + strings.Repeat("y", 4000)
	return []apttest.Package{
		{Name: isolinuxPackage, Version: version, Files: []debtest.File{
			{Name: "." + isolinuxFile, Content: loader}, {Name: "." + isohybridFile, Content: strings.Repeat("m", 432)},
		}},
		{Name: syslinuxPackage, Version: syslinux, Files: []debtest.File{{Name: "." + syslinuxFile, Content: "the module"}}},
	}
}

func TestABIOSStartsTheSameImage(t *testing.T) {
	stubArchive(t, isolinux("3:6.04-3", "3:6.04-3")...)
	description := withImage("bios = true\ncmdline = \"quiet a=b\"\n" + `outputs = ["disk", "iso"]`)
	b := mustBuild(t, project(t, description), "out")
	kernel, err := os.ReadFile(filepath.Join(b.Dir, KernelFile))
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := os.ReadFile(filepath.Join(b.Dir, b.Initramfs))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Output{Disk, ISO} {
		medium, err := os.ReadFile(filepath.Join(b.Dir, o.File("app")))
		if err != nil {
			t.Fatal(err)
		}
		for what, content := range map[string][]byte{
			"kernel": kernel, "initramfs": initramfs, "the loader's module": []byte("the module"),
			"a line with the image's command line": []byte("\nAPPEND " + b.Cmdline + "\n"),
		} {
			if !bytes.Contains(medium, content) {
				t.Errorf("%s does not have %s", o, what)
			}
		}
		// Once for UEFI, and once more.
		if n := bytes.Count(medium, initramfs); n != 2 {
			t.Errorf("%s has the initramfs %d times", o, n)
		}
	}
	var names []string
	for _, p := range b.BIOS {
		names = append(names, p.Name+" "+p.Version)
	}
	if diff := cmp.Diff([]string{"isolinux 3:6.04-3", "syslinux-common 3:6.04-3"}, names); diff != "" {
		t.Errorf("packages in the manifest (-want +got):\n%s", diff)
	}
	for _, p := range readSBOM(t, b).Packages {
		names = append(names, "SBOM: "+p.Name)
	}
	if all := strings.Join(names, "\n"); !strings.Contains(all, "SBOM: isolinux") || !strings.Contains(all, "SBOM: syslinux-common") {
		t.Errorf("it is not in the SBOM: %s", all)
	}
	m, err := b.VMFrom(ISO, BIOS)
	if err != nil || m.Firmware != "" || m.CD != filepath.Join(b.Dir, "app.iso") {
		t.Errorf("machine %+v, %v", m, err)
	}
}

func TestTheSameImageForABIOSHasTheSameBytes(t *testing.T) {
	stubArchive(t, isolinux("3:6.04-3", "3:6.04-3")...)
	description := withImage("bios = true\n" + allOutputs)
	first, second := mustBuild(t, project(t, description), "out"), mustBuild(t, project(t, description), "another/place")
	if diff := cmp.Diff(first.Files, second.Files); diff != "" {
		t.Errorf("in another directory (-first +second):\n%s", diff)
	}
}

func TestABIOSIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, lines, more, want string }{
		{"where nothing has it", `outputs = ["uki"]`, "", "app.toml:2: image.bios: nothing that a BIOS boots from"},
		{"where there are slots", `outputs = ["disk"]`, "[update]\nversion = \"1\"\n", "app.toml:2: image.bios: a BIOS would start one version for ever"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("app.toml", []byte("[image]\nbios = true\n"+tt.lines+"\n"+tt.more))
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
	stubArchive(t)
	b := mustBuild(t, project(t, withImage(`outputs = ["iso"]`)), "out")
	if _, err := b.VMFrom(ISO, BIOS); !errors.Is(err, ErrNoBundle) || !strings.Contains(err.Error(), "image.bios") {
		t.Errorf("a machine whose BIOS has nothing to start: %v", err)
	}
}

func TestLoadersOfTwoVersionsAreRefused(t *testing.T) {
	stubArchive(t, isolinux("3:6.04-3", "3:6.05-1")...)
	_, err := build(t, project(t, withImage("bios = true\n"+`outputs = ["iso"]`)), "out")
	if err == nil || !strings.Contains(err.Error(), "package isolinux is version 3:6.04-3, but syslinux-common is 3:6.05-1") {
		t.Errorf("error %v", err)
	}
}
