// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package outputs

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/apt"
	"github.com/umbra-vm/umbra/image/deb"
	"github.com/umbra-vm/umbra/image/sbom/sbomtest"
)

// TestFormats has the tools of those who made the formats look at the outputs.
func TestFormats(t *testing.T) {
	needsFlag(t)
	b := build(t, "bios = true\n"+`outputs = ["uki", "disk", "qcow2", "iso"]`)
	file := func(o image.Output) string { return filepath.Join(b.Dir, o.File(b.Name)) }
	t.Run("qemu-img finds no error in the qcow2, and the disk in it", func(t *testing.T) {
		run(t, "qemu-img", "check", file(image.QCOW2))
		run(t, "qemu-img", "compare", "-F", "qcow2", "-f", "raw", file(image.Disk), file(image.QCOW2))
	})
	t.Run("sgdisk finds no problem in the partition table", func(t *testing.T) {
		out := run(t, "sgdisk", "--verify", "--print", file(image.Disk))
		if !strings.Contains(out, "No problems found") || !strings.Contains(out, "EF00") || !strings.Contains(out, "EF02") {
			t.Errorf("sgdisk says:\n%s", out)
		}
	})
	t.Run("fsck.fat finds none in the file system", func(t *testing.T) {
		if said := checkSlots(t, file(image.Disk)); !strings.Contains(said, "4 files") {
			t.Errorf("fsck.fat says:\n%s", said)
		}
	})
	t.Run("xorriso finds the entries for a BIOS and for UEFI in the ISO", func(t *testing.T) {
		out := run(t, "xorriso", "-indev", file(image.ISO), "-report_el_torito", "plain")
		for _, want := range []string{`(?m)boot img.* BIOS .*`, `(?m)boot img.* UEFI .*`, `isohybrid-suitable`} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("xorriso says nothing like %s:\n%s", want, out)
			}
		}
	})
}

func cut(t *testing.T, dst, src string, start, size int64) {
	t.Helper()
	in, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(in, start, size)); err != nil {
		t.Fatal(err)
	}
}

// TestSBOM holds that of an image with Debian's packages and Go programs to the rules of
// SPDX 2.3.
func TestSBOM(t *testing.T) {
	needsFlag(t)
	here, err := filepath.Abs("internal/updater")
	if err != nil {
		t.Fatal(err)
	}
	b := build(t, "debug = true\nbios = true\n"+`outputs = ["iso"]`, fmt.Sprintf("[packages]\nnames = [\"nftables\"]\n[[service]]\nname = \"updater\"\ngo = %q\n", here))
	text, err := os.ReadFile(filepath.Join(b.Dir, b.Name+".spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sbomtest.Check(text); err != nil {
		t.Error(err)
	}
	for _, want := range []string{`"nftables"`, `"isolinux"`, `"systemd-boot-efi"`, `"./usr/bin/updater"`, `"stdlib"`, `"github.com/u-root/u-root"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the SBOM does not have %s", want)
		}
	}
}

// TestLibvirtTakesTheDomain holds the domain to the schema that libvirt ships.
func TestLibvirtTakesTheDomain(t *testing.T) {
	needsFlag(t)
	schemas := unpackSchemas(t)
	for name, more := range map[string]string{
		"with an emulated NIC": "[machine]\ntype = 'q35'\n",
		"with the host's":      "[machine]\nhostdevs = ['0000:03:10.0', '0000:03:10.1']\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := build(t, "cmdline = 'a<b&c'\n"+more)
			run(t, "xmllint", "--noout", "--relaxng", filepath.Join(schemas, "domain.rng"), filepath.Join(b.Dir, b.Name+".libvirt.xml"))
		})
	}
	t.Run("and refuses what is none", func(t *testing.T) {
		bad := filepath.Join(t.TempDir(), "bad.xml")
		if err := os.WriteFile(bad, []byte("<domain type='kvm'><nam>app</nam></domain>"), 0o644); err != nil {
			t.Fatal(err)
		}
		if exec.Command("xmllint", "--noout", "--relaxng", filepath.Join(schemas, "domain.rng"), bad).Run() == nil {
			t.Error("the schema takes everything")
		}
	})
}

// unpackSchemas returns the directory of libvirt's schemas, from Debian's package of
// the library, which nothing else here needs.
func unpackSchemas(t *testing.T) string {
	t.Helper()
	const in = "/usr/share/libvirt/schemas"
	client := apt.Client{CacheDir: t.TempDir()}
	pkg, err := client.Show(t.Context(), "libvirt0")
	if err != nil {
		t.Fatal(err)
	}
	files, err := client.Fetch(t.Context(), pkg)
	if err != nil {
		t.Fatal(err)
	}
	dir, n := t.TempDir(), 0
	_, err = deb.Read(t.Context(), files[0], func(h *tar.Header, content io.Reader) error {
		name := path.Clean("/" + h.Name)
		if path.Dir(name) != in || h.Typeflag != tar.TypeReg {
			return nil
		}
		n++
		b, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, path.Base(name)), b, 0o644)
	})
	if err != nil || n == 0 {
		t.Fatalf("package libvirt0 has %d schemas: %v", n, err)
	}
	return dir
}
