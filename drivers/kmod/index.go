// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/umbra-vm/umbra/drivers/internal/ko"
	"github.com/umbra-vm/umbra/drivers/modalias"
)

// An Index is what depmod(8) knows about the modules of one kernel: files,
// dependencies, soft dependencies and aliases. It is read once and not written
// to afterwards: any number of goroutines may use it.
type Index struct {
	modules map[string]*Module
	soft    map[string]Soft
	aliases *modalias.Table
	// builtinAliases come after aliases in an answer: a driver in the kernel
	// image had its turn before any module could be loaded.
	builtinAliases modalias.Table
}

// A Module is one module of an Index.
type Module struct {
	Name    string   // as the kernel spells it, with underscores
	Path    string   // of the file; empty for a built-in module
	Needs   []string // names of all it needs, to be loaded from last to first
	Builtin bool
}

// ReadIndex reads modules.dep, which has to be there, and modules.alias,
// modules.softdep, modules.builtin and modules.builtin.modinfo, which may be
// missing, from dir, which usually is /lib/modules/RELEASE.
func ReadIndex(dir string) (*Index, error) {
	x := &Index{modules: make(map[string]*Module), aliases: new(modalias.Table)}
	for _, f := range []struct {
		name     string
		optional bool
		read     func(io.Reader) error
	}{
		{"modules.builtin", true, x.readBuiltin},
		{"modules.dep", false, func(r io.Reader) error { return x.readDep(dir, r) }},
		{"modules.softdep", true, func(r io.Reader) (err error) {
			x.soft, err = ParseSoftdep(r)
			return err
		}},
		{"modules.alias", true, func(r io.Reader) (err error) {
			x.aliases, err = modalias.Parse(r)
			return err
		}},
		{"modules.builtin.modinfo", true, func(r io.Reader) error {
			return ParseBuiltinModinfo(r, x.builtinAliases.Add)
		}},
	} {
		if err := readFile(filepath.Join(dir, f.name), f.read); err != nil {
			if f.optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("module index: %w", err)
		}
	}
	return x, nil
}

func readFile(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (x *Index) readBuiltin(r io.Reader) error {
	names, err := ParseBuiltin(r)
	for _, name := range names {
		x.modules[name] = &Module{Name: name, Builtin: true}
	}
	return err
}

func (x *Index) readDep(dir string, r io.Reader) error {
	deps, err := ParseDep(r)
	if err != nil {
		return err
	}
	for _, d := range deps {
		m := &Module{Path: filepath.Join(dir, d.Path)}
		if filepath.IsAbs(d.Path) {
			m.Path = d.Path // depmod writes so for modules outside dir
		}
		m.Name, _ = ko.Name(d.Path)
		for _, need := range d.Needs {
			name, _ := ko.Name(need)
			m.Needs = append(m.Needs, name)
		}
		x.modules[m.Name] = m
	}
	return nil
}

// Module returns the module of that name; '-' and '_' are the same.
func (x *Index) Module(name string) (*Module, bool) {
	m, ok := x.modules[modalias.Normalize(name)]
	return m, ok
}

// Match returns the modules that claim modalias, in the order of modules.alias,
// built-in ones last.
func (x *Index) Match(alias string) []*Module {
	var found []*Module
	seen := make(map[string]bool)
	for _, name := range append(x.aliases.Lookup(alias), x.builtinAliases.Lookup(alias)...) {
		// An alias file that names modules modules.dep does not have is of no
		// use to a caller that wants to load them.
		if m, ok := x.modules[name]; ok && !seen[name] {
			seen[name] = true
			found = append(found, m)
		}
	}
	return found
}

// ForDevices reports whether m serves devices, which ask for it by their modalias.
// What other modules do is asked for by programs.
func (x *Index) ForDevices(m *Module) bool {
	return x.aliases.OfDevices(m.Name) || x.builtinAliases.OfDevices(m.Name)
}

// Resolve returns what a name in a soft dependency or on a command line stands
// for: the module of that name, else the modules of which it is an alias. It
// fails with ErrNoModule when there is none.
func (x *Index) Resolve(name string) ([]*Module, error) {
	if m, ok := x.Module(name); ok {
		return []*Module{m}, nil
	}
	if found := x.Match(name); len(found) > 0 {
		return found, nil
	}
	return nil, &OpError{"resolve", modalias.Normalize(name), ErrNoModule}
}
