// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/umbra-vm/umbra/image/debian"
)

// The names below kernels/HASH/ in the cache.
const (
	imageName   = "vmlinuz"
	modulesName = "modules"
	recordName  = "kernel.json" // a Kernel without its paths
)

// openDeb unpacks a kernel package into the cache, once.
func openDeb(ctx context.Context, name string, opts Options) (*Kernel, error) {
	sum, err := debian.Hash(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel package: %w", err)
	}
	dir := kernelDir(opts.CacheDir, sum)
	k, err := readCached(dir)
	if err == nil {
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		// Of a layout that is no longer known.
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("kernel cache: %w", err)
		}
	}
	opts.Progress("unpacking " + filepath.Base(name))
	err = install(dir, func(tmp string) error {
		k, err := unpack(ctx, name, tmp)
		if err != nil {
			return err
		}
		k.Origin.SHA256 = sum
		record, err := json.Marshal(k)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tmp, recordName), record, 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("kernel package %s: %w", name, err)
	}
	return readCached(dir)
}

// kernelDir is where the kernel of the package with that hash is unpacked.
func kernelDir(cache, sum string) string { return filepath.Join(cache, "kernels", sum) }

func readCached(dir string) (*Kernel, error) {
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	k := new(Kernel)
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("kernel cache: %s: %w", dir, err)
	}
	k.Image = filepath.Join(dir, imageName)
	k.Modules = filepath.Join(dir, modulesName)
	return k, nil
}

// unpack writes the kernel and the modules of a package below dir.
func unpack(ctx context.Context, name, dir string) (*Kernel, error) {
	x := extractor{dir: dir}
	p, err := debian.Walk(ctx, name, x.entry)
	if err != nil {
		return nil, err
	}
	k := &Kernel{
		Release: x.release,
		Origin:  Origin{Package: p.Name, Version: p.Version},
	}
	if x.release == "" {
		return nil, fmt.Errorf("%w package: %s %s has no kernel in boot/", ErrBroken, k.Origin.Package, k.Origin.Version)
	}
	release, err := Release(filepath.Join(dir, imageName))
	if err != nil {
		return nil, err
	}
	if release != x.release {
		return nil, fmt.Errorf("%w: boot/vmlinuz-%s says of itself that it is %s", ErrBroken, x.release, release)
	}
	if x.modules == 0 {
		return nil, fmt.Errorf("%w package: %s %s has no modules", ErrBroken, k.Origin.Package, k.Origin.Version)
	}
	if err := checkModules(filepath.Join(dir, modulesName), release); err != nil {
		return nil, err
	}
	return k, nil
}

// extractor takes from a package's data what is of use: kernel and modules,
// and leaves out System.map, documentation, hooks.
type extractor struct {
	dir       string
	release   string // of the kernel, by its file name
	modulesOf string
	modules   int
}

// entry takes one entry of the package's data.
func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return x.file(path.Clean(h.Name), content)
}

func (x *extractor) file(name string, content io.Reader) error {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "/"), "usr/")
	if release, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
		if x.release != "" {
			return fmt.Errorf("%w package: two kernels, %s and %s", ErrBroken, x.release, release)
		}
		x.release = release
		return writeFile(filepath.Join(x.dir, imageName), content)
	}
	rest, ok := strings.CutPrefix(name, "lib/modules/")
	if !ok {
		return nil
	}
	release, file, ok := strings.Cut(rest, "/")
	if !ok || !filepath.IsLocal(file) {
		return nil
	}
	isModule := moduleSuffix(file) != ""
	if !isModule && !builtinLists[file] {
		return nil
	}
	if x.modulesOf == "" {
		x.modulesOf = release
	}
	if release != x.modulesOf {
		return fmt.Errorf("%w package: modules of two kernels, %s and %s", ErrBroken, x.modulesOf, release)
	}
	if isModule {
		x.modules++
	}
	return writeFile(filepath.Join(x.dir, modulesName, filepath.FromSlash(file)), content)
}
