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
	"os"
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
	files  *uinit.Files
	base   map[string]bool   // files of New in whose place others may be added
	exact  map[string]string // files of Add, whose modes are kept, and their sources
	merged bool              // see MergeUsr
}

// ErrExist is matched when a path is added a second time.
var ErrExist = fs.ErrExist

// New returns an archive that holds the directories every guest has, the
// devices that must exist before devtmpfs is mounted, and the names of root and
// nobody. It does not have what depends on the network, /etc/resolv.conf for
// one.
func New() *Archive {
	a := &Archive{files: uinit.NewFiles(), base: make(map[string]bool), exact: make(map[string]string)}
	for _, dir := range []string{"bin", "dev", "etc", "lib/modules", "proc", "root", "run", "sbin", "sys", "var/log"} {
		a.must(cpio.Directory(dir, 0o755))
	}
	a.must(cpio.Directory("tmp", 0o1777))
	// Documentation/admin-guide/devices.txt. The kernel opens /dev/console
	// for init before init can mount anything.
	a.must(cpio.CharDev("dev/console", 0o600, 5, 1))
	a.must(cpio.CharDev("dev/null", 0o666, 1, 3))
	a.must(cpio.CharDev("dev/kmsg", 0o600, 1, 11))
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		"etc/hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	} {
		a.must(cpio.StaticFile(name, content, 0o644))
		a.base[name] = true
	}
	return a
}

func (a *Archive) must(r cpio.Record) {
	if err := a.files.AddRecord(r); err != nil {
		panic(err) // two entries of New have the same name
	}
}

// usrDirs are those that Debian keeps below /usr and leads to by links
// (file-hierarchy(7)).
var usrDirs = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// MergeUsr lays the file system out as Debian does: /bin, /lib, /sbin and their
// like are links into /usr, and a path through one is the path below /usr. It is
// called before anything is added.
func (a *Archive) MergeUsr() {
	a.merged = true
	for _, dir := range usrDirs {
		if a.files.Contains(dir) {
			a.files.Rename(dir, "usr/"+dir)
		}
		for name := range a.files.Records {
			if strings.HasPrefix(name, dir+"/") {
				a.files.Rename(name, "usr/"+name)
			}
		}
		a.must(cpio.Symlink(dir, "usr/"+dir))
	}
}

// AddContent adds a regular file that is readable by all.
func (a *Archive) AddContent(name string, content []byte) error {
	return a.add(cpio.StaticRecord(content, cpio.Info{Name: a.place(name), Mode: cpio.S_IFREG | 0o644}))
}

// AddSymlink adds a symbolic link; target is taken as it is.
func (a *Archive) AddSymlink(name, target string) error {
	return a.add(cpio.Symlink(a.place(name), target))
}

func (a *Archive) add(r cpio.Record) error {
	if a.taken(r.Name) {
		return fmt.Errorf("add /%s to the image: %w", r.Name, ErrExist)
	}
	return a.files.AddRecord(r)
}

// taken reports whether there is something at the path that must stay. What need
// not stay makes room.
func (a *Archive) taken(at string) bool {
	if a.base[at] {
		delete(a.base, at)
		delete(a.files.Records, at)
	}
	return a.files.Contains(at)
}

// An Entry is a file with a mode and an owner of its own.
type Entry struct {
	Name     string      // absolute path in the guest
	Mode     fs.FileMode // a directory, a symbolic link or a regular file
	UID, GID int
	Target   string // of a link
	Source   string // of a regular file, the host's file with its content
}

// Add adds an entry as it is, its permissions, setuid and setgid included.
func (a *Archive) Add(e Entry) error {
	at := a.place(e.Name)
	info := cpio.Info{Name: at, Mode: unixMode(e.Mode), UID: uint64(e.UID), GID: uint64(e.GID)}
	switch e.Mode.Type() {
	case fs.ModeDir:
		info.Mode |= cpio.S_IFDIR
		return a.add(cpio.Record{Info: info})
	case fs.ModeSymlink:
		return a.add(cpio.Symlink(at, e.Target))
	case 0:
		stat, err := os.Stat(e.Source)
		if err != nil {
			return fmt.Errorf("add /%s to the image: %w", at, err)
		}
		info.Mode |= cpio.S_IFREG
		info.FileSize = uint64(stat.Size())
		if err := a.add(cpio.Record{ReaderAt: source(e.Source), Info: info}); err != nil {
			return err
		}
		a.exact[at] = e.Source
		return nil
	}
	return fmt.Errorf("add /%s to the image: neither file nor directory nor link", at)
}

// unixMode returns the permissions of a mode as cpio has them.
func unixMode(m fs.FileMode) uint64 {
	mode := uint64(m.Perm())
	for _, bit := range []struct {
		of   fs.FileMode
		unix uint64
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&bit.of != 0 {
			mode |= bit.unix
		}
	}
	return mode
}

// source is the name of a file that is open only while it is read: an archive may
// have more files than a process.
type source string

func (s source) ReadAt(p []byte, off int64) (int, error) {
	f, err := os.Open(string(s))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
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
		at := a.place(path.Join(name, filepath.ToSlash(rest)))
		switch {
		case d.IsDir():
			if r, ok := a.files.Records[at]; at == "." || ok && r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
				return nil // a directory of the base, or the root
			}
			if !a.files.Contains(at) {
				return a.files.AddRecord(cpio.Directory(at, 0o755))
			}
		case d.Type().IsRegular() || d.Type() == fs.ModeSymlink:
			if !a.taken(at) {
				return a.files.AddFileNoFollow(file, at)
			}
		default:
			return fmt.Errorf("add %s to the image: %s is neither file nor directory nor link", name, file)
		}
		return fmt.Errorf("add /%s to the image: %w", at, ErrExist)
	})
}

// Contains reports whether the path has been added.
func (a *Archive) Contains(name string) bool { return a.files.Contains(a.place(name)) }

// Source returns the host's file behind the path, if there is one. Links of the
// archive are followed.
func (a *Archive) Source(name string) (string, bool) {
	const maxLinks = 40 // path_resolution(7)
	for range maxLinks {
		at := a.place(name)
		if source, ok := a.exact[at]; ok {
			return source, true
		}
		r, ok := a.files.Records[at]
		if !ok || r.Mode&cpio.S_IFMT != cpio.S_IFLNK {
			source, ok := a.files.Files[at]
			return source, ok
		}
		target, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			return "", false
		}
		name = string(target)
		if !path.IsAbs(name) {
			name = path.Join("/", path.Dir(at), name)
		}
	}
	return "", false
}

// Files returns the host's file behind every regular file that AddFile or Add added, by
// its path.
func (a *Archive) Files() (map[string]string, error) {
	out := make(map[string]string)
	for at, source := range a.exact {
		out["/"+at] = source
	}
	for at, source := range a.files.Files {
		info, err := os.Lstat(source)
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			out["/"+at] = source
		}
	}
	return out, nil
}

// Content returns what is in the file at the path. The error matches [fs.ErrNotExist] if
// there is none.
func (a *Archive) Content(name string) ([]byte, error) {
	if source, ok := a.Source(name); ok {
		return os.ReadFile(source)
	}
	r, ok := a.files.Records[a.place(name)]
	if !ok || r.Mode&cpio.S_IFMT != cpio.S_IFREG {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
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

// Place returns the path under which the archive has what is at name.
func (a *Archive) Place(name string) string { return "/" + a.place(name) }

func (a *Archive) place(name string) string {
	at := path.Clean(strings.TrimLeft(path.Clean("/"+name), "/"))
	first, _, _ := strings.Cut(at, "/")
	if a.merged && slices.Contains(usrDirs, first) {
		return "usr/" + at
	}
	return at
}

// Write writes the archive to w. The same content gives the same bytes.
func (a *Archive) Write(w io.Writer, c Compression) error {
	compressor, err := compress(w, c)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	out := output{records: cpio.Newc.Writer(compressor), exact: a.exact}
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
type output struct {
	records cpio.RecordWriter
	exact   map[string]string // files whose modes stay
}

func (o output) OpenWriter() (uinit.Writer, error) { return o, nil }

func (o output) WriteRecord(r cpio.Record) error {
	if _, exact := o.exact[r.Name]; !exact && r.Mode&cpio.S_IFMT == cpio.S_IFREG {
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
