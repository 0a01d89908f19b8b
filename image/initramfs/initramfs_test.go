// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package initramfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	"github.com/ulikunitz/xz"
	"github.com/umbra-vm/umbra/image/initramfs"
)

// list reads an archive back as lines "name mode [content]".
func list(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	entries := make(map[string]string)
	err := cpio.ForEachRecord(&cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(archive))}, func(r cpio.Record) error {
		if r.MTime != 0 || r.UID != 0 || r.GID != 0 || r.Ino != 0 {
			t.Errorf("%s: carries its origin: %s", r.Name, r.Info)
		}
		content, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if r.ReaderAt == nil || err != nil {
			content = nil
		}
		entries[r.Name] = fmt.Sprintf("%o %s", r.Mode, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func write(t *testing.T, a *initramfs.Archive, c initramfs.Compression) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := a.Write(&out, c); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tree(t *testing.T, files map[string]os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWrite(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"program": 0o775, "data": 0o664, "secret": 0o600, "tool": 0o700, "d/inner": 0o644})
	if err := os.Symlink("../program", filepath.Join(dir, "d", "link")); err != nil {
		t.Fatal(err)
	}
	a := initramfs.New()
	for _, f := range []string{"program", "data", "secret", "tool", "d"} {
		if err := a.AddFile(filepath.Join(dir, f), "/opt/"+f); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.AddContent("/etc/x", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := a.AddSymlink("/init", "opt/program"); err != nil {
		t.Fatal(err)
	}
	got := list(t, write(t, a, initramfs.None))
	for name, want := range map[string]string{
		"opt":         "40755 ", // made, as a parent
		"opt/program": "100755 program",
		"opt/data":    "100644 data",
		"opt/secret":  "100600 secret",
		"opt/tool":    "100700 tool",
		"opt/d":       "40755 ",
		"opt/d/inner": "100644 d/inner",
		"opt/d/link":  "120777 ../program",
		"etc/x":       "100644 hello",
		"init":        "120777 opt/program",
		"tmp":         "41777 ",
		"dev/console": "20600 ",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if e, ok := got["etc/resolv.conf"]; ok {
		t.Errorf("the archive knows a name server: %s", e)
	}
}

func TestCompressionsUndone(t *testing.T) {
	a := initramfs.New()
	if err := a.AddContent("/x", bytes.Repeat([]byte("umbra "), 100_000)); err != nil {
		t.Fatal(err)
	}
	plain := write(t, a, initramfs.None)
	for _, tt := range []struct {
		name string
		c    initramfs.Compression
		undo func(io.Reader) (io.Reader, error)
	}{
		{"zstd", initramfs.Zstd, func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }},
		{"xz", initramfs.XZ, func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			packed := write(t, a, tt.c)
			if len(packed) >= len(plain)/10 {
				t.Errorf("compressed from %d to only %d bytes", len(plain), len(packed))
			}
			r, err := tt.undo(bytes.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, plain) {
				t.Error("what comes out is not what went in")
			}
		})
	}
}

func TestSameContentSameBytes(t *testing.T) {
	build := func(mode os.FileMode, order ...string) []byte {
		dir := tree(t, map[string]os.FileMode{"a": mode, "b": mode})
		a := initramfs.New()
		for _, f := range order {
			if err := a.AddFile(filepath.Join(dir, f), "/"+f); err != nil {
				t.Fatal(err)
			}
		}
		return write(t, a, initramfs.Zstd)
	}
	first := build(0o755, "a", "b")
	if !bytes.Equal(first, build(0o775, "b", "a")) {
		t.Error("order of adding, place, time or group mode shows in the bytes")
	}
	if bytes.Equal(first, build(0o644, "a", "b")) {
		t.Error("executable and plain files give the same bytes")
	}
}

func TestAddRefuses(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"file": 0o644})
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		add  func(a *initramfs.Archive) error
		want error
	}{
		{"a file that is not there", func(a *initramfs.Archive) error { return a.AddFile(filepath.Join(dir, "none"), "/x") }, os.ErrNotExist},
		{"a path of the base", func(a *initramfs.Archive) error { return a.AddFile(filepath.Join(dir, "file"), "/dev/null") }, initramfs.ErrExist},
		{"a file in place of a directory", func(a *initramfs.Archive) error { return a.AddFile(filepath.Join(dir, "file"), "/bin") }, initramfs.ErrExist},
		{"a path spelt in another way", func(a *initramfs.Archive) error { return a.AddContent("dev/../dev//null", nil) }, initramfs.ErrExist},
		{"a link in place of a file", func(a *initramfs.Archive) error { return a.AddSymlink("/dev/null", "x") }, initramfs.ErrExist},
		{"names of users for a second time", func(a *initramfs.Archive) error {
			return errors.Join(a.AddFile(filepath.Join(dir, "file"), "/etc/passwd"), a.AddContent("/etc/passwd", nil))
		}, initramfs.ErrExist},
		{"an entry in place of a link of a merged /usr", func(a *initramfs.Archive) error {
			a.MergeUsr()
			return errors.Join(a.AddSymlink("/bin/x", "y"), a.Add(initramfs.Entry{Name: "/usr/bin/x", Mode: fs.ModeSymlink}))
		}, initramfs.ErrExist},
		{"an entry that is a device", func(a *initramfs.Archive) error {
			return a.Add(initramfs.Entry{Name: "/x", Mode: fs.ModeDevice})
		}, nil},
		{"a pipe", func(a *initramfs.Archive) error { return a.AddFile(fifo, "/x") }, nil},
		{"a directory with a pipe in it", func(a *initramfs.Archive) error { return a.AddFile(dir, "/x") }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.add(initramfs.New())
			if err == nil {
				t.Fatal("accepted")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error %v, want one that is %v", err, tt.want)
			}
		})
	}
}

// Entries keep what files of the builder's machine lose.
func TestAddKeepsModesAndOwners(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"program": 0o600})
	a := initramfs.New()
	for _, e := range []initramfs.Entry{
		{Name: "/opt", Mode: fs.ModeDir | fs.ModeSticky | 0o730, GID: 105},
		{Name: "/opt/program", Mode: fs.ModeSetuid | 0o755, Source: filepath.Join(dir, "program"), UID: 3, GID: 42},
		{Name: "/opt/link", Mode: fs.ModeSymlink | 0o777, Target: "program"},
	} {
		if err := a.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	got := make(map[string]string)
	err := cpio.ForEachRecord(&cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(write(t, a, initramfs.None)))}, func(r cpio.Record) error {
		if strings.HasPrefix(r.Name, "opt") {
			got[r.Name] = fmt.Sprintf("%o %d:%d", r.Mode, r.UID, r.GID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"opt": "41730 0:105", "opt/program": "104755 3:42", "opt/link": "120777 0:0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestNamesOfUsersMayBeGiven(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"passwd": 0o644})
	a := initramfs.New()
	if err := a.AddFile(filepath.Join(dir, "passwd"), "/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	if got := list(t, write(t, a, initramfs.None))["etc/passwd"]; got != "100644 passwd" {
		t.Errorf("/etc/passwd is %q", got)
	}
}

func TestMergedUsr(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"d/bin/tool": 0o755})
	a := initramfs.New()
	a.MergeUsr()
	for _, err := range []error{
		a.AddContent("/lib/modules/6.1/modules.dep", nil),
		a.AddFile(filepath.Join(dir, "d"), "/"),
		a.AddSymlink("/usr/sbin/short", "../bin/tool"),
		a.AddSymlink("/sbin/long", "/sbin/short"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := list(t, write(t, a, initramfs.None))
	for name, want := range map[string]string{
		"bin": "120777 usr/bin", "sbin": "120777 usr/sbin", "lib": "120777 usr/lib", "lib64": "120777 usr/lib64",
		"usr/bin/tool": "100755 d/bin/tool", "usr/lib/modules": "40755 ", "usr/lib/modules/6.1/modules.dep": "100644 ",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"/bin/tool", "/usr/bin/tool", "/sbin/short", "/usr/sbin/long"} {
		if !a.Contains(name) {
			t.Errorf("%s is not there", name)
		}
		if source, ok := a.Source(name); !ok || source != filepath.Join(dir, "d/bin/tool") {
			t.Errorf("source of %s is %q", name, source)
		}
	}
}

func TestPathsAreSortedAndAbsolute(t *testing.T) {
	a := initramfs.New()
	if err := a.AddContent("zzz", nil); err != nil {
		t.Fatal(err)
	}
	paths := a.Paths()
	if diff := cmp.Diff("/bin", paths[0]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("/zzz", paths[len(paths)-1]); diff != "" {
		t.Error(diff)
	}
}
