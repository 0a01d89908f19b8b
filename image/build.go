// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/umbra-vm/umbra/drivers/modinfo"
	"github.com/umbra-vm/umbra/image/initramfs"
	"github.com/umbra-vm/umbra/image/kernel"
	"github.com/umbra-vm/umbra/image/sbom"
	"github.com/umbra-vm/umbra/init/config"
	"golang.org/x/sync/errgroup"
)

// Options say how to build, not what.
type Options struct {
	// CacheDir keeps kernels and tools between builds. Default: umbra below
	// the user's cache directory.
	CacheDir string

	// Source is the directory of umbra's source, see [FindSource].
	Source string

	// Init is the Go package that becomes /init. Default: umbra's own.
	Init string

	// Progress is told what takes time. It may be nil and is called from
	// several goroutines, one at a time.
	Progress func(step string)
}

// Bundle is a built image on disk.
type Bundle struct {
	Dir string
	Manifest
}

// The names of what is written beside the files that carry the image's name.
const (
	KernelFile   = "vmlinuz"
	ManifestFile = "manifest.json"
	ScriptFile   = "run-qemu.sh"
)

// Build builds the image of the description into the directory dir, which is
// made if need be. The files replace those of an earlier build one by one, each
// complete, the manifest last; when anything fails before that, dir is as it
// was. Files of the earlier build that this one has not are removed.
func Build(ctx context.Context, c *Config, dir string, opts Options) (*Bundle, error) {
	opts, err := opts.withDefaults(ctx)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "umbra-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	p, err := c.prepare(ctx, work, opts)
	if err != nil {
		return nil, err
	}
	if p.modules, err = c.selectModules(p.kernel); err != nil {
		return nil, err
	}
	earlier, _ := Open(dir) // where there is none, nothing of it can be left
	var b *Bundle
	err = replace(dir, func(tmp string) (files []string, err error) {
		b, err = c.build(ctx, p, tmp, opts)
		if err != nil {
			return nil, err
		}
		return b.names(), nil
	})
	if err != nil {
		return nil, err
	}
	b.Dir = dir
	return b, removeStale(earlier, b)
}

// removeStale removes the files of an earlier build that the one after it has not.
func removeStale(earlier, now *Bundle) (err error) {
	if earlier == nil {
		return nil
	}
	for name := range earlier.Files {
		if _, still := now.Files[name]; !still {
			err = errors.Join(err, os.Remove(filepath.Join(now.Dir, name)))
		}
	}
	return err
}

func (o Options) withDefaults(ctx context.Context) (Options, error) {
	var mu sync.Mutex
	progress := o.Progress
	o.Progress = func(step string) {
		mu.Lock()
		defer mu.Unlock()
		if progress != nil {
			progress(step)
		}
	}
	if o.Init == "" {
		o.Init = modulePath + "/init"
	}
	if o.CacheDir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no place for the cache: %w", err)
		}
		o.CacheDir = filepath.Join(user, "umbra")
	}
	var err error
	if o.CacheDir, err = filepath.Abs(o.CacheDir); err != nil {
		return o, err
	}
	o.Source, err = FindSource(ctx, o.Source)
	return o, err
}

// kernelError says which key of the description named the kernel.
func (c *Config) kernelError(err error) error {
	if !errors.Is(err, kernel.ErrNoKernel) && !errors.Is(err, kernel.ErrBroken) && !errors.Is(err, kernel.ErrMismatch) {
		return err
	}
	key := "kernel.package"
	switch {
	case c.Kernel.Deb != "":
		key = "kernel.deb"
	case c.Kernel.Vmlinuz != "":
		key = "kernel.vmlinuz"
	}
	return c.fail(key, "%w", err)
}

// parts are what an image is made of.
type parts struct {
	work    string // directory for intermediate files
	kernel  *kernel.Kernel
	modules *selection
	pkgs    []unpacked
	init    string // path of the compiled program
	statusd string // path of the status page's program, if there is a page
	// programs are those of services that are given as Go packages.
	programs []fileSpec
	tools    string // path of the debug tools, if there are any
	// toolModules are the modules that they are compiled of.
	toolModules []sbom.Component
	// files are those of the image by their path in it, each with its source.
	files map[string]string
	stub  *stub       // if there is an output that needs it
	bios  *biosLoader // if a BIOS is to start the image
}

// prepare gets hold of what takes long, side by side.
func (c *Config) prepare(ctx context.Context, work string, opts Options) (*parts, error) {
	p := &parts{work: work, init: filepath.Join(work, "init")}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		k, err := kernel.Open(ctx, kernel.Source{
			Package: c.Kernel.Package, Deb: c.path(c.Kernel.Deb), Vmlinuz: c.path(c.Kernel.Vmlinuz), Modules: c.path(c.Kernel.Modules),
		}, kernel.Options{CacheDir: opts.CacheDir, Progress: opts.Progress})
		if err != nil {
			return c.kernelError(err)
		}
		p.kernel = k
		return nil
	})
	g.Go(func() (err error) {
		p.pkgs, err = c.unpackPackages(ctx, filepath.Join(work, "packages"), opts)
		return err
	})
	g.Go(func() (err error) {
		if p.stub, err = c.fetchStub(ctx, opts); err != nil {
			return err
		}
		p.bios, err = c.fetchBIOSLoader(ctx, opts)
		return err
	})
	g.Go(func() error {
		opts.Progress("compiling init")
		if err := BuildGo(ctx, opts.Source, opts.Init, p.init); err != nil {
			return err
		}
		if c.Status.Enabled() {
			p.statusd = filepath.Join(work, "statusd")
			if err := BuildGo(ctx, opts.Source, modulePath+"/init/statusd", p.statusd); err != nil {
				return err
			}
		}
		if !c.Image.Debug {
			return nil
		}
		var err error
		if p.tools, err = busybox(ctx, opts); err != nil {
			return err
		}
		p.toolModules, err = toolModules(ctx, opts)
		return err
	})
	g.Go(func() (err error) {
		p.programs, err = c.compilePrograms(ctx, filepath.Join(work, "programs"), opts)
		return err
	})
	return p, g.Wait()
}

// build writes every file of the bundle into dir, which is empty.
func (c *Config) build(ctx context.Context, p *parts, dir string, opts Options) (*Bundle, error) {
	a := initramfs.New()
	if len(p.pkgs) > 0 {
		a.MergeUsr()
	}
	if err := addSystem(a, p.init); err != nil {
		return nil, err
	}
	if p.statusd != "" {
		if err := a.AddFile(p.statusd, "/sbin/statusd"); err != nil {
			return nil, err
		}
	}
	if err := c.addModules(a, p); err != nil {
		return nil, err
	}
	if err := c.addFiles(a, p.programs); err != nil {
		return nil, err
	}
	pkgs, err := c.addPackages(a, p.pkgs)
	if err != nil {
		return nil, err
	}
	if p.tools != "" {
		if err := addTools(a, p.tools); err != nil {
			return nil, err
		}
	}
	if p.files, err = a.Files(); err != nil {
		return nil, err
	}
	if err := c.checkPrograms(a); err != nil {
		return nil, err
	}
	if err := c.addGuest(a, p.modules); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts.Progress("packing")
	if err := c.pack(a, filepath.Join(dir, c.initramfsFile())); err != nil {
		return nil, err
	}
	if err := copyFile(p.kernel.Image, filepath.Join(dir, KernelFile), 0o644); err != nil {
		return nil, fmt.Errorf("copy kernel: %w", err)
	}
	made, err := c.writeOutputs(ctx, p, dir, opts)
	if err != nil {
		return nil, err
	}
	return c.writeSidecars(ctx, p, pkgs, made, dir)
}

func (c *Config) initramfsFile() string { return "initramfs.cpio." + c.Image.Compression.Suffix() }

// addSystem adds init under all its names.
func addSystem(a *initramfs.Archive, initFile string) error {
	if err := a.AddFile(initFile, "/init"); err != nil {
		return err
	}
	for _, link := range config.Links {
		if err := a.AddSymlink(link, "/init"); err != nil {
			return err
		}
	}
	return nil
}

// addGuest adds the configuration of the guest, for which everything else must be there.
func (c *Config) addGuest(a *initramfs.Archive, m *selection) error {
	guest := c.guest(m)
	if err := c.findUsers(a, guest); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := guest.Encode(&text); err != nil {
		return err
	}
	if _, err := config.LoadBytes(text.Bytes()); err != nil {
		return fmt.Errorf("configuration of the guest: %w", err)
	}
	return a.AddContent(config.Path, text.Bytes())
}

// addModules adds the files of the modules, unpacked, and an index of just
// these.
func (c *Config) addModules(a *initramfs.Archive, p *parts) error {
	dir := filepath.Join(p.work, "modules")
	var paths []string
	for _, m := range p.modules.modules {
		paths = append(paths, m.Path)
	}
	if err := p.kernel.CopyModules(dir, paths); err != nil {
		return err
	}
	set, err := modinfo.Open(dir)
	if err != nil {
		return err
	}
	if err := c.checkSignatures(dir, set.Modules()); err != nil {
		return err
	}
	index, err := set.Index(set.Modules())
	if err != nil {
		return fmt.Errorf("index of modules: %w", err)
	}
	guestDir := "/lib/modules/" + p.kernel.Release
	for _, name := range slices.Sorted(maps.Keys(index)) {
		if err := a.AddContent(path.Join(guestDir, name), index[name]); err != nil {
			return err
		}
	}
	for _, m := range set.Modules() {
		if err := a.AddFile(filepath.Join(dir, m.Path), path.Join(guestDir, filepath.ToSlash(m.Path))); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) pack(a *initramfs.Archive, name string) (err error) {
	compression := initramfs.Zstd
	if c.Image.Compression == XZ {
		compression = initramfs.XZ
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return errors.Join(a.Write(f, compression), f.Close())
}

// replace calls fill on a temporary directory within dir and moves the files it
// names into dir, in this order. When it fails, dir is as it was, unless a
// rename fails half-way.
func replace(dir string, fill func(tmp string) (files []string, err error)) (err error) {
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		defer func() {
			if err != nil {
				os.Remove(dir) // only if it is empty
			}
		}()
	}
	tmp, err := os.MkdirTemp(dir, ".umbra-build-")
	if err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	files, err := fill(tmp)
	if err != nil {
		return err
	}
	for _, name := range files {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("put output in place: %w", err)
		}
	}
	return nil
}

func copyFile(src, dst string, mode fs.FileMode) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// names returns the files of the bundle in the order in which they are put in
// place: the manifest, which vouches for the others, last.
func (b *Bundle) names() []string {
	var names []string
	for name := range b.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return append(names, ManifestFile)
}
