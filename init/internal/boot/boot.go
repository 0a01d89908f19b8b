// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package boot makes a bare kernel into a system that programs can run in:
// file systems, device nodes, a console, a host name, the loopback interface.
//
// Everything it makes is an entry of a table ([Table]), every entry says what
// it is in a log line, and none that fails keeps the rest from being tried. It
// must never know what runs afterwards, and loads no module.
package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Creator makes one thing. Creating what is there already is no error.
type Creator interface {
	Create() error
	fmt.Stringer
}

// Mount mounts a file system, making the directory it is mounted on.
type Mount struct {
	FSType, Target string
	Flags          uintptr // MS_* of mount(2)
	Data           string
}

// Create implements Creator.
func (m Mount) Create() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.FSType, m.Target, m.FSType, m.Flags, m.Data)
	if errors.Is(err, unix.EBUSY) {
		return nil // mounted by the kernel (CONFIG_DEVTMPFS_MOUNT) or before
	}
	return err
}

func (m Mount) String() string { return fmt.Sprintf("mount %s on %s", m.FSType, m.Target) }

// Dir makes a directory and those above it.
type Dir struct {
	Path string
	Mode fs.FileMode
}

// Create implements Creator.
func (d Dir) Create() error {
	if err := os.MkdirAll(d.Path, d.Mode.Perm()); err != nil {
		return err
	}
	return os.Chmod(d.Path, d.Mode) // past the umask
}

func (d Dir) String() string { return "directory " + d.Path }

// Link makes a symbolic link at Path unless something is there.
type Link struct{ Path, Target string }

// Create implements Creator.
func (l Link) Create() error {
	if _, err := os.Lstat(l.Path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o755); err != nil {
		return err
	}
	return os.Symlink(l.Target, l.Path)
}

func (l Link) String() string { return fmt.Sprintf("link %s to %s", l.Path, l.Target) }

// Default makes a file with a given content unless there is one.
type Default struct{ Path, Content string }

// Create implements Creator.
func (f Default) Create() error {
	if _, err := os.Lstat(f.Path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(f.Path, []byte(f.Content), 0o644)
}

func (f Default) String() string { return "file " + f.Path }

// Sysctl writes a kernel parameter, named by its path below /proc/sys.
type Sysctl struct{ Path, Value string }

// Create implements Creator.
func (s Sysctl) Create() error {
	return os.WriteFile(filepath.Join("/proc/sys", s.Path), []byte(s.Value), 0o644)
}

func (s Sysctl) String() string { return fmt.Sprintf("set %s to %q", s.Path, s.Value) }

// Func is a Creator made of a function.
type Func struct {
	Name string
	Do   func() error
}

// Create implements Creator.
func (f Func) Create() error { return f.Do() }

func (f Func) String() string { return f.Name }
