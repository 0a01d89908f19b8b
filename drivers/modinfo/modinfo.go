// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package modinfo reads what kernel module files say about themselves and writes
// the index files for a set of them.
//
// Package kmod needs the files modules.dep, modules.alias and modules.softdep,
// which depmod(8) writes when a kernel is installed; a kernel package that was
// only unpacked does not have them. This package makes them from the modules, for
// all or for a chosen few, on any host and without root. Lines and their order are
// those of depmod; within a line of modules.dep, modules that do not need each
// other can stand in another order, as depmod goes by symbol tables and this
// package by what modpost made of them (39 of the 4,023 lines of a Debian 6.1).
//
// It works on files alone and knows no running kernel.
package modinfo

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/umbra-vm/umbra/drivers/internal/ko"
)

// ErrNotModule reports a file that is no kernel module: not ELF, or without a
// readable .modinfo section.
var ErrNotModule = errors.New("not a kernel module")

// SignatureMark is what the file of a signed module ends with, uncompressed
// (include/linux/module_signature.h, MODULE_SIG_STRING).
const SignatureMark = "~Module signature appended~\n"

// maxInfo bounds a .modinfo section, in bytes. The largest of a Debian 6.1
// kernel has 40 kB.
const maxInfo = 4 << 20

// An Info is the content of a module's .modinfo section (include/linux/module.h,
// MODULE_INFO): fields "key=value" in their order.
type Info []Field

// A Field is one line of an Info. Keys repeat: a module has as many of "alias"
// as there are ids it serves.
type Field struct{ Key, Value string }

// Read reads the .modinfo section of the ELF file r.
func Read(r io.ReaderAt) (Info, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotModule, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%w: no .modinfo section", ErrNotModule)
	}
	if section.Size > maxInfo {
		return nil, fmt.Errorf("%w: .modinfo of %d bytes", ErrNotModule, section.Size)
	}
	b, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("%w: .modinfo: %w", ErrNotModule, err)
	}
	var info Info
	// Each string ends in a zero byte; more of them pad to an alignment.
	for _, s := range bytes.Split(b, []byte{0}) {
		if key, value, ok := strings.Cut(string(s), "="); ok {
			info = append(info, Field{key, value})
		}
	}
	return info, nil
}

// ReadFile reads a module file, which may be compressed: .ko, .ko.xz, .ko.zst.
// Of an uncompressed one it reads only what it needs.
func ReadFile(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.ReaderAt = f
	if ko.Compressed(path) {
		b, err := ko.Unpack(f)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	info, err := Read(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// Value returns the first value of a key, "" when there is none.
func (i Info) Value(key string) string {
	for _, f := range i {
		if f.Key == key {
			return f.Value
		}
	}
	return ""
}

// Values returns all values of a key.
func (i Info) Values(key string) []string {
	var values []string
	for _, f := range i {
		if f.Key == key {
			values = append(values, f.Value)
		}
	}
	return values
}

// Depends returns the modules whose symbols this one uses, as their files are
// spelt (scripts/mod/modpost.c, add_depends).
func (i Info) Depends() []string {
	return strings.FieldsFunc(i.Value("depends"), func(r rune) bool { return r == ',' })
}
