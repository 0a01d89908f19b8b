// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package initramfs writes the archive that becomes the guest's root file
// system: u-root's cpio tools, with a base of our own, and nothing in the
// result that depends on when, where or by whom it was written.
//
// It must never know what the files are for.
package initramfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	uinit "github.com/u-root/mkuimage/uimage/initramfs"
	"github.com/ulikunitz/xz"
)

// Compression is how an archive is compressed.
type Compression int

// The compressions that Debian's kernel can undo.
const (
	None Compression = iota
	Zstd
	XZ
)

// Archive collects what goes into the file system. Paths in it are absolute:
// /bin/app. A path can be added once. The zero value is not usable, see [New].
type Archive struct {
	files *uinit.Files
}

// ErrExist is matched when a path is added a second time.
var ErrExist = fs.ErrExist

// New returns an archive that holds the directories every guest has, the
// devices that must exist before devtmpfs is mounted, and the names of root and
// nobody. It does not have what depends on the network, /etc/resolv.conf for
// one.
func New() *Archive {
	a := &Archive{files: uinit.NewFiles()}
	for _, dir := range []string{"bin", "dev", "etc", "lib/modules", "proc", "root", "run", "sbin", "sys", "var/log"} {
		a.base(cpio.Directory(dir, 0o755))
	}
	a.base(cpio.Directory("tmp", 0o1777))
	// Documentation/admin-guide/devices.txt. The kernel opens /dev/console
	// for init before init can mount anything.
	a.base(cpio.CharDev("dev/console", 0o600, 5, 1))
	a.base(cpio.CharDev("dev/null", 0o666, 1, 3))
	a.base(cpio.CharDev("dev/kmsg", 0o600, 1, 11))
	a.base(cpio.StaticFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644))
	a.base(cpio.StaticFile("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644))
	a.base(cpio.StaticFile("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644))
	return a
}

func (a *Archive) base(r cpio.Record) {
	if err := a.files.AddRecord(r); err != nil {
		panic(err) // two entries of New have the same name
	}
}

// AddContent adds a regular file that is readable by all.
func (a *Archive) AddContent(name string, content []byte) error {
	return a.add(cpio.StaticRecord(content, cpio.Info{Name: relative(name), Mode: cpio.S_IFREG | 0o644}))
}

// AddSymlink adds a symbolic link; target is taken as it is.
func (a *Archive) AddSymlink(name, target string) error {
	return a.add(cpio.Symlink(relative(name), target))
}

func (a *Archive) add(r cpio.Record) error {
	if a.files.Contains(r.Name) {
		return fmt.Errorf("add /%s to the image: %w", r.Name, ErrExist)
	}
	return a.files.AddRecord(r)
}

// AddFile adds a file of the host, or a directory with all below it. Symbolic
// links are added as links, except when source is one itself. Of a file's mode
// only two things count: whether its owner can execute it, and whether others
// can read it. Anything but files, directories and links is refused.
func (a *Archive) AddFile(source, name string) error {
	source, err := filepath.EvalSymlinks(source)
	if err != nil {
		return fmt.Errorf("add %s to the image: %w", name, err)
	}
	return filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("add %s to the image: %w", name, err)
		}
		rest, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		at := relative(path.Join(name, filepath.ToSlash(rest)))
		switch {
		case d.IsDir():
			if r, ok := a.files.Records[at]; at == "." || ok && r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
				return nil // a directory of the base, or the root
			}
			if !a.files.Contains(at) {
				return a.files.AddRecord(cpio.Directory(at, 0o755))
			}
		case d.Type().IsRegular() || d.Type() == fs.ModeSymlink:
			if !a.files.Contains(at) {
				return a.files.AddFileNoFollow(file, at)
			}
		default:
			return fmt.Errorf("add %s to the image: %s is neither file nor directory nor link", name, file)
		}
		return fmt.Errorf("add /%s to the image: %w", at, ErrExist)
	})
}

// Contains reports whether the path has been added.
func (a *Archive) Contains(name string) bool { return a.files.Contains(relative(name)) }

// Source returns the host's file behind the path, if there is one.
func (a *Archive) Source(name string) (string, bool) {
	source, ok := a.files.Files[relative(name)]
	return source, ok
}

// Paths returns every path added, sorted.
func (a *Archive) Paths() []string {
	names := slices.Collect(maps.Keys(a.files.Files))
	names = slices.AppendSeq(names, maps.Keys(a.files.Records))
	for i := range names {
		names[i] = "/" + names[i]
	}
	slices.Sort(names)
	return names
}

func relative(name string) string {
	return path.Clean(strings.TrimLeft(path.Clean("/"+name), "/"))
}

// Write writes the archive to w. The same content gives the same bytes.
func (a *Archive) Write(w io.Writer, c Compression) error {
	compressor, err := compress(w, c)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	out := output{records: cpio.Newc.Writer(compressor)}
	if err := uinit.Write(&uinit.Opts{Files: a.files, OutputFile: out}); err != nil {
		return fmt.Errorf("write initramfs: %w", errors.Join(err, compressor.Close()))
	}
	if err := compressor.Close(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// compress returns a writer that compresses into w and must be closed.
func compress(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c {
	case Zstd:
		// With more than one goroutine the blocks, and so the bytes, depend
		// on scheduling.
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	case XZ:
		// The kernel's decoder knows CRC32 only (lib/xz/xz_dec_stream.c).
		return xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(w)
	}
	return nopCloser{w}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// output is the cpio writer that u-root's archiver writes to. It makes modes
// independent of the builder's umask and of how a file was checked out.
type output struct{ records cpio.RecordWriter }

func (o output) OpenWriter() (uinit.Writer, error) { return o, nil }

func (o output) WriteRecord(r cpio.Record) error {
	if r.Mode&cpio.S_IFMT == cpio.S_IFREG {
		r.Mode = cpio.S_IFREG | normalMode(r.Mode)
	}
	return o.records.WriteRecord(r)
}

// normalMode reduces permissions to private or not, executable or not.
func normalMode(mode uint64) uint64 {
	private, executable := mode&0o077 == 0, mode&0o100 != 0
	switch {
	case private && executable:
		return 0o700
	case private:
		return 0o600
	case executable:
		return 0o755
	}
	return 0o644
}

func (o output) Finish() error { return cpio.WriteTrailer(o.records) }
