// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package journal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// memFS is a file system in memory that fails on command. Every byte written
// and every other call that changes something is one step; fault says what
// happens at the step of its number.
type memFS struct {
	files map[string]*memNode
	step  int
	fault func(step int) error
}

type memNode struct{ data []byte }

func newMemFS() *memFS { return &memFS{files: make(map[string]*memNode)} }

// dieAt makes every step from n on fail, as for a process that was killed.
func (m *memFS) dieAt(n int) {
	m.fault = func(step int) error {
		if step >= n {
			return errKilled
		}
		return nil
	}
}

// failAt makes step n fail and no other.
func (m *memFS) failAt(n int) {
	m.fault = func(step int) error {
		if step == n {
			return syscall.ENOSPC
		}
		return nil
	}
}

var errKilled = errors.New("killed")

func (m *memFS) next() error {
	m.step++
	if m.fault == nil {
		return nil
	}
	return m.fault(m.step)
}

// revive is the same disk for the next process.
func (m *memFS) revive() *memFS {
	n := newMemFS()
	for name, node := range m.files {
		n.files[name] = &memNode{append([]byte(nil), node.data...)}
	}
	return n
}

func (m *memFS) OpenFile(name string, flag int, _ os.FileMode) (File, error) {
	node := m.files[name]
	if node == nil || flag&os.O_TRUNC != 0 && len(node.data) > 0 {
		if err := m.next(); err != nil {
			return nil, err
		}
		if node == nil {
			node = new(memNode)
			m.files[name] = node
		}
		node.data = nil
	}
	return &memFile{fs: m, node: node}, nil
}

func (m *memFS) MkdirAll(string, os.FileMode) error { return nil }

func (m *memFS) Rename(oldname, newname string) error {
	if err := m.next(); err != nil {
		return err
	}
	m.files[newname] = m.files[oldname]
	delete(m.files, oldname)
	return nil
}

func (m *memFS) Remove(name string) error {
	if m.files[name] == nil {
		return fs.ErrNotExist
	}
	if err := m.next(); err != nil {
		return err
	}
	delete(m.files, name)
	return nil
}

func (m *memFS) SyncDir(string) error { return m.next() }

type memFile struct {
	fs   *memFS
	node *memNode
	read int
}

func (f *memFile) Read(b []byte) (int, error) {
	n := copy(b, f.node.data[f.read:])
	f.read += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (f *memFile) Write(b []byte) (int, error) {
	for i, c := range b {
		if err := f.fs.next(); err != nil {
			return i, err
		}
		f.node.data = append(f.node.data, c)
	}
	return len(b), nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.fs.next(); err != nil {
		return err
	}
	if size > int64(len(f.node.data)) {
		return errors.New("truncating to more than there is: " + strings.Repeat(".", int(size)-len(f.node.data)))
	}
	f.node.data = f.node.data[:size]
	return nil
}

func (f *memFile) Sync() error  { return f.fs.next() }
func (f *memFile) Close() error { return nil }
