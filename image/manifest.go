// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/umbra-vm/umbra/image/internal/digest"
	"github.com/umbra-vm/umbra/image/kernel"
	"github.com/umbra-vm/umbra/image/machine"
)

// Manifest is the record of a built image, manifest.json. It holds no time and
// no path of the builder's machine.
type Manifest struct {
	Name   string `json:"name"`
	Umbra  string `json:"umbra"` // version of umbra
	Go     string `json:"go"`    // version of Go that compiled init
	Kernel struct {
		Release string `json:"release"`
		kernel.Origin
	} `json:"kernel"`
	Cmdline   string          `json:"cmdline"`
	Initramfs string          `json:"initramfs"` // name of the file
	Machine   MachineManifest `json:"machine"`
	Roles     []string        `json:"roles"`
	Modules   []string        `json:"modules"`  // every module in the image
	Boot      []string        `json:"boot"`     // loaded at boot
	Prefetch  []string        `json:"prefetch"` // those in memory before a recovery needs them
	// Packages are those whose files are in the image, by name.
	Packages []PackageManifest `json:"packages,omitempty"`
	// Stub is the package that the UEFI program in the outputs is made with.
	Stub *PackageManifest `json:"stub,omitempty"`
	// BIOS are the packages of what a BIOS starts from disk and ISO, if it does.
	BIOS []PackageManifest `json:"bios,omitempty"`
	// Files are the other files of the bundle, by name.
	Files map[string]FileManifest `json:"files"`
}

// MachineManifest is what a machine for the image should have.
type MachineManifest struct {
	MemoryMB int          `json:"memory_mb"`
	CPUs     int          `json:"cpus"`
	Type     machine.Type `json:"type"`
	NIC      string       `json:"nic"`
	Hostdevs []string     `json:"hostdevs,omitempty"`
}

// FileManifest identifies a file's content.
type FileManifest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ErrNoBundle: a directory holds no image, or not a whole one.
var ErrNoBundle = errors.New("no built image")

// Open reads the manifest of a built image and checks that the files it names
// are there with their sizes. Errors match [ErrNoBundle].
func Open(dir string) (*Bundle, error) {
	text, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBundle, err)
	}
	b := &Bundle{Dir: dir}
	if err := json.Unmarshal(text, &b.Manifest); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoBundle, filepath.Join(dir, ManifestFile), err)
	}
	for name, f := range b.Files {
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%w: %s names %q", ErrNoBundle, filepath.Join(dir, ManifestFile), name)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoBundle, err)
		}
		if info.Size() != f.Size {
			return nil, fmt.Errorf("%w: %s has %d bytes, its manifest says %d", ErrNoBundle, filepath.Join(dir, name), info.Size(), f.Size)
		}
	}
	for _, name := range []string{KernelFile, b.Initramfs} {
		if _, ok := b.Files[name]; !ok {
			return nil, fmt.Errorf("%w: %s does not name %q", ErrNoBundle, filepath.Join(dir, ManifestFile), name)
		}
	}
	return b, nil
}

// VM returns a machine that boots the bundle, with nothing but kernel,
// initramfs, command line, memory and processors set.
func (b *Bundle) VM() machine.Machine {
	return machine.Machine{
		Name:     b.Name,
		Kernel:   filepath.Join(b.Dir, KernelFile),
		Initrd:   filepath.Join(b.Dir, b.Initramfs),
		Cmdline:  b.Cmdline,
		MemoryMB: b.Machine.MemoryMB,
		CPUs:     b.Machine.CPUs,
		Type:     b.Machine.Type,
	}
}

// BIOS as a machine's firmware is the one that QEMU has itself.
const BIOS = "bios"

// VMFrom is VM for a machine whose UEFI firmware, the file of that path, or [BIOS] boots
// from an output. Errors match [ErrNoBundle].
func (b *Bundle) VMFrom(o Output, firmware string) (machine.Machine, error) {
	m := b.VM()
	m.Kernel, m.Initrd, m.Cmdline, m.Firmware = "", "", "", firmware
	if firmware == BIOS {
		if len(b.BIOS) == 0 {
			return m, fmt.Errorf("%w: what is in %s does not start by a BIOS: see image.bios", ErrNoBundle, b.Dir)
		}
		m.Firmware = ""
	}
	file := o.File(b.Name)
	if _, ok := b.Files[file]; !ok {
		return m, fmt.Errorf("%w: %s holds no %s: name it in image.outputs", ErrNoBundle, b.Dir, file)
	}
	switch file = filepath.Join(b.Dir, file); o {
	case Disk, QCOW2:
		m.Disk = file
	case ISO:
		m.CD = file
	default:
		return m, fmt.Errorf("%w: a machine boots from %s, %s or %s", ErrNoBundle, Disk, QCOW2, ISO)
	}
	return m, nil
}

// writeSidecars writes what lies beside kernel and initramfs, and the manifest.
func (c *Config) writeSidecars(ctx context.Context, p *parts, pkgs []PackageManifest, made []string, dir string) (*Bundle, error) {
	goVersion, err := goCommand(ctx, "", "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	b := &Bundle{}
	b.Name = c.Image.Name
	b.Umbra = Version()
	b.Go = strings.TrimSpace(string(goVersion))
	b.Kernel.Release, b.Kernel.Origin = p.kernel.Release, p.kernel.Origin
	b.Cmdline = c.cmdline()
	b.Initramfs = c.initramfsFile()
	b.Machine = MachineManifest(c.Machine)
	b.Packages = pkgs
	if p.stub != nil {
		b.Stub = &p.stub.pkg
	}
	if p.bios != nil {
		b.BIOS = p.bios.pkgs
	}
	b.Boot, b.Prefetch = p.modules.boot, p.modules.prefetch
	for _, m := range p.modules.modules {
		b.Modules = append(b.Modules, m.Name)
	}
	for _, r := range c.Roles {
		b.Roles = append(b.Roles, r.Name)
	}
	script, err := b.script()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, ScriptFile), script, 0o755); err != nil {
		return nil, err
	}
	libvirt, bom := b.Name+".libvirt.xml", b.Name+".spdx.json"
	for _, kind := range xenKinds {
		name := kind.File(b.Name)
		if err := os.WriteFile(filepath.Join(dir, name), b.xlConfig(kind), 0o644); err != nil {
			return nil, err
		}
		made = append(made, name)
	}
	if err := os.WriteFile(filepath.Join(dir, libvirt), b.libvirtXML(), 0o644); err != nil {
		return nil, err
	}
	if err := c.writeSBOM(p, filepath.Join(dir, bom)); err != nil {
		return nil, err
	}
	b.Files = make(map[string]FileManifest)
	for _, name := range append(made, KernelFile, b.Initramfs, ScriptFile, libvirt, bom) {
		f, err := describe(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		b.Files[name] = f
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b.Manifest); err != nil {
		return nil, err
	}
	return b, os.WriteFile(filepath.Join(dir, ManifestFile), text.Bytes(), 0o644)
}

// serialConsole makes the first serial line the console.
const serialConsole = "console=ttyS0"

// cmdline is the kernel command line of the image. A guest that panics ends
// its machine: QEMU is told not to reboot.
func (c *Config) cmdline() string {
	words := []string{serialConsole, "panic=-1"}
	if !c.Image.Debug {
		words = append(words, "quiet")
	}
	words = append(words, c.Security.words()...)
	return strings.Join(append(words, strings.Fields(c.Image.Cmdline)...), " ")
}

func describe(name string) (FileManifest, error) {
	sum, size, err := digest.SHA256(name)
	return FileManifest{Size: size, SHA256: sum}, err
}

// Version is the version of this program's module, "devel" for a checkout.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == modulePath && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
