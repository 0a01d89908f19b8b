// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"pault.ag/go/debian/deb"
)

// The names below kernels/HASH/ in the cache.
const (
	imageName   = "vmlinuz"
	modulesName = "modules"
	recordName  = "kernel.json" // a Kernel without its paths
)

// openDeb unpacks a kernel package into the cache, once.
func openDeb(ctx context.Context, name string, opts Options) (*Kernel, error) {
	sum, err := hashFile(name)
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
func unpack(ctx context.Context, name, dir string) (k *Kernel, err error) {
	defer func() {
		// The decoders of a .deb were not written for hostile bytes.
		if r := recover(); r != nil {
			k, err = nil, fmt.Errorf("%w package: %v", ErrBroken, r)
		}
	}()
	if err := checkArchive(name); err != nil {
		return nil, fmt.Errorf("%w package: %w", ErrBroken, err)
	}
	pkg, closePkg, err := deb.LoadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%w package: %w", ErrBroken, err)
	}
	defer closePkg()

	member := pkg.ArContent["data."+pkg.DataExt]
	data, err := deb.DecompressorFor(path.Ext(member.Name))(io.NewSectionReader(member.Data, 0, member.Size))
	if err != nil {
		return nil, fmt.Errorf("%w package: %s: %w", ErrBroken, member.Name, err)
	}
	defer data.Close()
	ahead := readAhead(data)
	defer ahead.Close()
	x := extractor{dir: dir}
	if err := x.tar(ctx, ahead); err != nil {
		return nil, fmt.Errorf("%w package: %s: %w", ErrBroken, member.Name, err)
	}
	k = &Kernel{
		Release: x.release,
		Origin:  Origin{Package: pkg.Control.Package, Version: pkg.Control.Version.String()},
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

// checkArchive walks over the members of an ar(5) archive. The library that reads
// it afterwards takes sizes on trust, and goes in circles on a negative one.
func checkArchive(name string) error {
	const magic, headerSize = "!<arch>\n", 60
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, headerSize)
	if _, err := f.ReadAt(header[:len(magic)], 0); err != nil || string(header[:len(magic)]) != magic {
		return errors.New("not a Debian package")
	}
	for at := int64(len(magic)); at < info.Size(); {
		if _, err := f.ReadAt(header, at); err != nil {
			return fmt.Errorf("cut off at byte %d", at)
		}
		field := strings.TrimSpace(string(header[48:58]))
		size, err := strconv.ParseUint(field, 10, 63)
		if err != nil {
			return fmt.Errorf("byte %d: %q is no size", at, field)
		}
		at += headerSize
		if int64(size) > info.Size()-at {
			return fmt.Errorf("cut off: %s ends %d bytes after the file", strings.TrimSpace(string(header[:16])), int64(size)-(info.Size()-at))
		}
		at += int64(size + size%2)
	}
	return nil
}

// readAhead reads r on a goroutine of its own, so that decompressing and writing
// to disk overlap. Closing it ends the goroutine.
func readAhead(r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		defer func() {
			if v := recover(); v != nil {
				pw.CloseWithError(fmt.Errorf("decompress: %v", v))
			}
		}()
		w := bufio.NewWriterSize(pw, 1<<20)
		_, err := io.Copy(w, r)
		pw.CloseWithError(errors.Join(err, w.Flush()))
	}()
	return pr
}

// extractor takes from a package's data what is of use: kernel and modules,
// and leaves out System.map, documentation, hooks.
type extractor struct {
	dir       string
	release   string // of the kernel, by its file name
	modulesOf string
	modules   int
}

func (x *extractor) tar(ctx context.Context, data io.Reader) error {
	tr := tar.NewReader(data)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := x.file(path.Clean(h.Name), tr); err != nil {
			return err
		}
	}
	// What follows the end of the archive carries the compressor's check sum.
	_, err := io.Copy(io.Discard, data)
	return err
}

func (x *extractor) file(name string, content io.Reader) error {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "/"), "usr/")
	if release, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
		if x.release != "" {
			return fmt.Errorf("two kernels, %s and %s", x.release, release)
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
		return fmt.Errorf("modules of two kernels, %s and %s", x.modulesOf, release)
	}
	if isModule {
		x.modules++
	}
	return writeFile(filepath.Join(x.dir, modulesName, filepath.FromSlash(file)), content)
}
