// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package outputs

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
)

var all = flag.Bool("outputs", false, "boot every output, and have other people's tools look at them, for some minutes")

// Of Debian's package ovmf: a firmware with its variables in one file, and one that
// enforces signatures, with variables that trust a key which everybody has.
const (
	firmware       = "/usr/share/ovmf/OVMF.fd"
	secureFirmware = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	secureVars     = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
	secureKey      = "/usr/share/ovmf/PkKek-1-snakeoil.key"
	secureCert     = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
	secureWord     = "snakeoil" // the key's
)

func needsFlag(t *testing.T) {
	t.Helper()
	if !*all {
		t.Skip("needs minutes and tools: make test-outputs, or the flag -outputs")
	}
}

// build builds an image with a role, these lines in its section [image], and more.
func build(t *testing.T, lines string, more ...string) *image.Bundle {
	t.Helper()
	text := "[image]\n" + lines + "\n[[role]]\nname = \"net0\"\nclass = \"net\"\n" + strings.Join(more, "")
	c, err := image.Parse(filepath.Join(t.TempDir(), "app.toml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := image.Build(t.Context(), c, filepath.Join(t.TempDir(), "out"), image.Options{Source: "../.."})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// boots starts the machine, with a NIC, and waits until the guest's agent serves the
// role.
func boots(ctx context.Context, t *testing.T, m machine.Machine) {
	t.Helper()
	m.NICs = []machine.NIC{{ID: machine.Direct + "net0", Model: "e1000", Address: "2", Netdev: "user"}}
	v := vmtest.Start(ctx, t, m)
	if _, err := v.WaitConsole(ctx, `umbra: .* net0 e1000 at .*: passive mode`); err != nil {
		t.Fatal(err)
	}
}

// from is the machine that boots from an output of the bundle.
func from(t *testing.T, b *image.Bundle, o image.Output, firmware string) machine.Machine {
	t.Helper()
	m, err := b.VMFrom(o, firmware)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestDiskBoots is the one that go test ./... runs: firmware, partition table, file
// system, stub, kernel, initramfs and command line all have to be right.
func TestDiskBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	boots(vmtest.Context(t), t, from(t, build(t, `outputs = ["disk"]`), image.Disk, firmware))
}

func TestOutputsBoot(t *testing.T) {
	needsFlag(t)
	ctx := vmtest.Context(t)
	b := build(t, `outputs = ["qcow2", "iso"]`)
	for _, o := range []image.Output{image.QCOW2, image.ISO} {
		t.Run(string(o), func(t *testing.T) {
			m := from(t, b, o, firmware)
			if o == image.ISO {
				m.Type = machine.Q35 // the disks are tried on the other one
			}
			boots(ctx, t, m)
		})
	}
}

// TestBIOSBoots: a BIOS starts disk and ISO, if the description wants it to, and UEFI
// firmware goes on to do so.
func TestBIOSBoots(t *testing.T) {
	needsFlag(t)
	ctx := vmtest.Context(t)
	b := build(t, "bios = true\ndata_mb = 16\n"+`outputs = ["disk", "iso"]`, "[data]\npartition = \"my data\"\n")
	for _, tt := range []struct {
		from     image.Output
		by, with string
		machine  machine.Type
	}{
		{image.Disk, image.BIOS, "a BIOS", machine.PC},
		{image.Disk, firmware, "UEFI firmware", machine.Q35},
		{image.ISO, image.BIOS, "a BIOS", machine.Q35},
		{image.ISO, firmware, "UEFI firmware", machine.PC},
	} {
		t.Run(fmt.Sprintf("%s by %s on %s", tt.from, tt.with, tt.machine), func(t *testing.T) {
			m := from(t, b, tt.from, tt.by)
			m.Type = tt.machine
			boots(ctx, t, m)
		})
	}
}

// secure makes the firmware one that starts only what is signed with the key.
func secure(m machine.Machine) machine.Machine {
	m.Firmware, m.Type = "", machine.Q35
	m.Extra = []string{
		// Its system management mode wants memory in whole MiB, and dies of less.
		"-m", fmt.Sprintf("%dM", m.MemoryMB),
		"-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + secureFirmware,
		"-drive", "if=pflash,unit=1,format=raw,snapshot=on,file=" + secureVars,
	}
	return m
}

// trustedKey is the key that the firmware trusts, without its word.
func trustedKey(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	run(t, "openssl", "rsa", "-in", secureKey, "-passin", "pass:"+secureWord, "-out", key)
	return key
}

// signLine is the line of a description that signs with a key.
func signLine(key, cert string) string {
	return fmt.Sprintf(`sign = ["sbsign", "--key", %q, "--cert", %q, "--output", "{out}", "{in}"]`, key, cert)
}

// TestSecureBoot: firmware that enforces signatures starts the image that the user has
// signed, and no other.
func TestSecureBoot(t *testing.T) {
	needsFlag(t)
	ctx := vmtest.Context(t)
	signed := build(t, `outputs = ["uki", "disk"]`+"\n"+signLine(trustedKey(t), secureCert))
	program := filepath.Join(signed.Dir, image.UKI.File(signed.Name))
	run(t, "sbverify", "--cert", secureCert, program)
	for _, part := range []string{signed.Cmdline, signed.Kernel.Release + " (", "\x28\xb5\x2f\xfd"} { // the last is how zstd begins
		changed := changedAt(t, program, part)
		if out, err := exec.Command("sbverify", "--cert", secureCert, changed).CombinedOutput(); err == nil {
			t.Errorf("the signature holds although %q was changed: %s", part, out)
		}
	}
	t.Run("what is signed is started", func(t *testing.T) {
		boots(ctx, t, secure(from(t, signed, image.Disk, "")))
	})
	t.Run("what is not is refused", func(t *testing.T) {
		v := vmtest.Start(ctx, t, secure(from(t, build(t, `outputs = ["disk"]`), image.Disk, "")))
		line, err := v.WaitConsole(ctx, `Access Denied|Security Violation|umbra: `)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line.Text, "umbra: ") {
			t.Errorf("the guest runs: %s", line.Text)
		}
	})
}

// changedAt copies a file with the first byte of what is in it changed.
func changedAt(t *testing.T, name, what string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(content), what)
	if at < 0 {
		t.Fatalf("%s does not hold %q", name, what)
	}
	content[at] ^= 1
	changed := filepath.Join(t.TempDir(), "changed")
	if err := os.WriteFile(changed, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return changed
}

// run runs a program and returns what it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
