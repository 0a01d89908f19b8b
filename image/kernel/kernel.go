// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package kernel gets hold of a Linux kernel and its modules: from a Debian
// package found by name, from a .deb file, or from files that are there
// already.
//
// What it unpacks it keeps in a cache under the content's hash, complete or not
// at all. It must never know what an image is, nor which modules one needs.
package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/image/internal/digest"
)

// Source names a kernel: exactly one of Package, Deb, or Vmlinuz together with
// Modules.
type Source struct {
	Package string // Debian package; a metapackage such as linux-image-amd64 is followed
	Deb     string // path of a .deb
	Vmlinuz string // path of a bzImage
	Modules string // path of its lib/modules/RELEASE
}

// Kernel is a kernel on this machine's disk.
type Kernel struct {
	Release string // as uname -r would say: 6.1.0-56-amd64
	Image   string // path of the bzImage
	Modules string // path of its lib/modules/RELEASE
	Origin  Origin
}

// Origin tells where a kernel came from, for the record. It holds no path: the
// record is the same wherever it is made.
type Origin struct {
	Package string `json:"package,omitempty"` // empty if it was no package
	Version string `json:"version,omitempty"`
	SHA256  string `json:"sha256"` // of the .deb or, without one, of the bzImage
}

// Options say where to work.
type Options struct {
	CacheDir string            // holds packages/ and kernels/
	Progress func(step string) // told what takes time, may be nil
}

// Errors that a caller may want to tell apart. All come wrapped with the name
// of what they are about.
var (
	// ErrNoKernel: the kernel named is not there.
	ErrNoKernel = errors.New("no such kernel")
	// ErrBroken: the package or file is there and is not what it should be.
	ErrBroken = errors.New("broken")
	// ErrMismatch: the modules belong to another kernel.
	ErrMismatch = errors.New("kernel and modules do not belong together")
)

// Open finds the kernel, downloads and unpacks what is missing in the cache,
// and returns where it lies. The second call with the same source reads little
// more than the package to check its hash.
func Open(ctx context.Context, src Source, opts Options) (*Kernel, error) {
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	switch {
	case src.Package != "":
		return openPackage(ctx, src.Package, opts)
	case src.Deb != "":
		return openDeb(ctx, src.Deb, opts)
	case src.Vmlinuz != "" && src.Modules != "":
		return openFiles(src.Vmlinuz, src.Modules)
	}
	return nil, fmt.Errorf("%w: neither package nor .deb nor files named", ErrNoKernel)
}

// openFiles uses a kernel and modules as they lie on disk.
func openFiles(vmlinuz, modules string) (*Kernel, error) {
	release, err := Release(vmlinuz)
	if err != nil {
		return nil, err
	}
	if _, err := os.ReadDir(modules); err != nil {
		return nil, fmt.Errorf("%w: modules: %w", ErrNoKernel, err)
	}
	if err := checkModules(modules, release); err != nil {
		return nil, err
	}
	sum, _, err := digest.SHA256(vmlinuz)
	if err != nil {
		return nil, err
	}
	return &Kernel{Release: release, Image: vmlinuz, Modules: modules, Origin: Origin{SHA256: sum}}, nil
}

// Release returns the release of a bzImage, read from its header: the string
// that utsname() will give, without the build's details
// (Documentation/x86/boot.rst, kernel_version).
func Release(vmlinuz string) (string, error) {
	f, err := os.Open(vmlinuz)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	if err != nil {
		return "", fmt.Errorf("read kernel: %w", err)
	}
	defer f.Close()
	release, err := parseRelease(f)
	if err != nil {
		return "", fmt.Errorf("kernel %s: %w", vmlinuz, err)
	}
	return release, nil
}

// Built returns the day on which a bzImage was made, or that of the changes in it, if its
// header says so as Debian's do: "… Debian 6.1.192-2 (2026-11-16)".
func Built(vmlinuz string) (day time.Time, ok bool) {
	f, err := os.Open(vmlinuz)
	if err != nil {
		return time.Time{}, false
	}
	defer f.Close()
	version, err := parseVersion(f)
	if err != nil {
		return time.Time{}, false
	}
	m := dayInVersion.FindStringSubmatch(version)
	if m == nil {
		return time.Time{}, false
	}
	day, err = time.Parse(time.DateOnly, m[1])
	return day, err == nil
}

var dayInVersion = regexp.MustCompile(`\((\d{4}-\d\d-\d\d)\)`)

func parseRelease(r io.ReaderAt) (string, error) {
	version, err := parseVersion(r)
	if err != nil {
		return "", err
	}
	release, _, _ := strings.Cut(version, " ")
	if release == "" || strings.ContainsAny(release, "/\n") {
		return "", fmt.Errorf("%w: bzImage without a release", ErrBroken)
	}
	return release, nil
}

// parseVersion returns the string that the header of a bzImage has for people.
func parseVersion(r io.ReaderAt) (string, error) {
	const (
		magicOffset   = 0x202 // "HdrS"
		versionOffset = 0x20e // of a string, counted from 0x200
		maxVersion    = 256
	)
	var header [versionOffset + 2]byte
	if _, err := r.ReadAt(header[:], 0); err != nil {
		return "", fmt.Errorf("%w: not a bzImage: %w", ErrBroken, err)
	}
	if string(header[magicOffset:magicOffset+4]) != "HdrS" {
		return "", fmt.Errorf("%w: not a bzImage", ErrBroken)
	}
	at := int64(binary.LittleEndian.Uint16(header[versionOffset:])) + 0x200
	text := make([]byte, maxVersion)
	n, err := r.ReadAt(text, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%w: bzImage: %w", ErrBroken, err)
	}
	text, _, _ = bytes.Cut(text[:n], []byte{0})
	return string(text), nil
}

// install makes the directory dst by calling fill on a temporary one beside it
// and renaming that: dst is complete or absent. When somebody else was faster,
// theirs stays, as the content is the same.
func install(dst string, fill func(tmp string) error) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dst), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, dst); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
