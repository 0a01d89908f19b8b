// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package dom0 assembles the smallest privileged domain that a Xen host can have:
// hypervisor, kernel, and an initramfs with Xen's tools, the device model and what
// they need, all of it from Debian packages in fixed versions. Nothing is
// installed, and no script of a package is run.
//
// It must not know what the host is for: what runs in it is the agent's affair.
package dom0

import (
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers/modinfo"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/apt"
	"github.com/umbra-vm/umbra/image/initramfs"
	"github.com/umbra-vm/umbra/image/kernel"
)

// packages are the packages that dom0 is made of, a name=version and the SHA-256 of
// the .deb in each line. The versions are fixed, as what is measured on the host
// depends on them.
//
//go:embed packages.txt
var packages string

// vifScript puts a paravirtual network card on its bridge. Xen's own script needs more
// programs than dom0 has.
//
//go:embed vif-bridge.sh
var vifScript []byte

// agentPackage is the program that dom0 runs as its first.
const agentPackage = "github.com/umbra-vm/umbra/ci/xenlab/agent"

// ModuleList is the file in dom0 that names the modules to load, a path in each
// line, in this order.
const ModuleList = "/etc/modules"

// modules are the kernel's modules that dom0 needs: the control port to the outside,
// the devices of Xen's tools, the owner of devices that are passed through, and what
// paravirtual network cards are on.
var modules = []string{
	"virtio_pci", "virtio_console",
	"xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-pciback",
	"xen-netback", "bridge", "virtio_net",
}

const (
	xenBin  = "/usr/lib/xen-4.17/bin/"
	libDir  = "/usr/lib/x86_64-linux-gnu/"
	linker  = "/lib64/ld-linux-x86-64.so.2"
	busybox = "/usr/bin/busybox"
	xenFile = "/boot/xen-4.17-amd64.gz"
)

// files are the programs and data of the packages that dom0 takes; libraries come
// as programs need them.
var files = []string{
	busybox,
	xenBin + "xl", xenBin + "xenstored", xenBin + "xenconsoled", xenBin + "xenconsole", xenBin + "xen-init-dom0",
	xenBin + "libxl-save-helper", xenBin + "xen-hvmctx",
	"/usr/bin/xenstore-ls", "/usr/bin/xenstore-read", "/usr/bin/xenstore-write",
	"/usr/libexec/xen-qemu-system-i386",
	"/usr/lib/xen-4.17/boot/hvmloader",
	"/usr/share/seabios/bios-256k.bin",
	"/usr/share/qemu/linuxboot.bin", "/usr/share/qemu/linuxboot_dma.bin", "/usr/share/qemu/kvmvapic.bin",
	"/usr/share/qemu/keymaps/en-us", // QEMU ends without, even where it shows nothing
}

// loaded are libraries that no program names, but that are loaded while it runs.
var loaded = []string{"libgcc_s.so.1"} // by pthread_cancel(3)

// Options say how to assemble a dom0; CacheDir, Source and Dir are required.
type Options struct {
	CacheDir string // keeps packages and kernels between builds
	Source   string // umbra's source
	Dir      string // where the files are written
	// Files are further files, by the path in dom0.
	Files map[string]string
	// Over has files that take the place of those of the packages, and is laid out as
	// these are; "make xen" makes one. Optional.
	Over     string
	Progress func(step string)
}

// Dom0 is what a machine boots.
type Dom0 struct {
	Xen, Kernel, Initramfs string // paths of files
}

// Build assembles a dom0. Packages are downloaded and unpacked once. The kernel is the
// one that images have by default. The same packages, kernel and files give the same
// bytes.
func Build(ctx context.Context, opts Options) (*Dom0, error) {
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	tree, err := unpack(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("dom0: %w", err)
	}
	k, err := kernel.Open(ctx, kernel.Source{Package: "linux-image-amd64"},
		kernel.Options{CacheDir: opts.CacheDir, Progress: opts.Progress})
	if err != nil {
		return nil, fmt.Errorf("dom0: %w", err)
	}
	d := &Dom0{
		Xen: filepath.Join(opts.Dir, "xen"), Kernel: k.Image, Initramfs: filepath.Join(opts.Dir, "dom0.cpio"),
	}
	if err := gunzip(tree[xenFile], d.Xen); err != nil {
		return nil, fmt.Errorf("dom0: hypervisor: %w", err)
	}
	a, err := archive(ctx, tree, k, opts)
	if err != nil {
		return nil, fmt.Errorf("dom0: %w", err)
	}
	return d, write(d.Initramfs, func(w io.Writer) error { return a.Write(w, initramfs.None) })
}

// unpack unpacks the packages and returns the files in them.
func unpack(ctx context.Context, opts Options) (tree, error) {
	all := make(tree)
	client := apt.Client{CacheDir: opts.CacheDir, Progress: opts.Progress}
	for line := range strings.Lines(packages) {
		var name, sum string
		if _, err := fmt.Sscan(line, &name, &sum); err != nil {
			return nil, fmt.Errorf("packages.txt: %q: %w", line, err)
		}
		dir, err := unpackPackage(ctx, client, name, sum)
		if err != nil {
			return nil, fmt.Errorf("packages.txt: %s: %w", name, err)
		}
		if err := all.add(dir); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if opts.Over != "" {
		if err := all.replace(opts.Over); err != nil {
			return nil, fmt.Errorf("over the packages: %w", err)
		}
	}
	return all, nil
}

func archive(ctx context.Context, t tree, k *kernel.Kernel, opts Options) (*initramfs.Archive, error) {
	agent := filepath.Join(opts.Dir, "agent")
	if err := image.BuildGo(ctx, opts.Source, agentPackage, agent); err != nil {
		return nil, err
	}
	libraries, err := t.libraries(files, loaded)
	if err != nil {
		return nil, err
	}
	script := filepath.Join(opts.Dir, "vif-bridge")
	if err := os.WriteFile(script, vifScript, 0o755); err != nil {
		return nil, err
	}
	in := map[string]string{"/init": agent, "/etc/xen/scripts/vif-bridge": script, linker: t[libDir+path.Base(linker)]}
	for _, name := range slices.Concat(files, libraries) {
		in[name] = t[name]
	}
	maps.Copy(in, opts.Files)
	if err := addModules(in, k, opts.Dir); err != nil {
		return nil, err
	}
	a := initramfs.New()
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if err := a.AddFile(in[name], name); err != nil {
			return nil, err
		}
	}
	return a, a.AddSymlink("/bin/sh", busybox)
}

// addModules adds the modules and the list of them to in.
func addModules(in map[string]string, k *kernel.Kernel, dir string) error {
	set, err := modinfo.Open(k.Modules)
	if err != nil {
		return fmt.Errorf("modules of %s: %w", k.Release, err)
	}
	var paths, list []string
	for _, name := range modules {
		needed, err := set.Closure(name)
		if err != nil {
			return fmt.Errorf("modules of %s: %w", k.Release, err)
		}
		for _, m := range loadOrder(set, needed) {
			if !slices.Contains(paths, m.Path) {
				paths = append(paths, m.Path)
			}
		}
	}
	to := filepath.Join(dir, "modules")
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := k.CopyModules(to, paths); err != nil {
		return err
	}
	for _, p := range paths {
		p, _, _ = strings.Cut(p, ".ko")
		p += ".ko"
		name := path.Join("/lib/modules", k.Release, filepath.ToSlash(p))
		in[name] = filepath.Join(to, p)
		list = append(list, name)
	}
	file := filepath.Join(dir, "modules.txt")
	in[ModuleList] = file
	return os.WriteFile(file, []byte(strings.Join(list, "\n")+"\n"), 0o644)
}

// loadOrder sorts modules so that each comes after those it depends on.
func loadOrder(set *modinfo.Set, in []*modinfo.Module) (out []*modinfo.Module) {
	var visit func(m *modinfo.Module)
	visit = func(m *modinfo.Module) {
		if slices.Contains(out, m) {
			return
		}
		if info, err := set.Info(m.Name); err == nil {
			for _, name := range info.Depends() {
				if need, ok := set.Module(name); ok {
					visit(need)
				}
			}
		}
		out = append(out, m)
	}
	for _, m := range in {
		visit(m)
	}
	return out
}

func gunzip(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	return write(to, func(w io.Writer) error {
		_, err := io.Copy(w, z)
		return err
	})
}

func write(name string, fill func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}
