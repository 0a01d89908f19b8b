// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modinfo

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers/internal/ko"
	"github.com/umbra-vm/umbra/drivers/kmod"
	"github.com/umbra-vm/umbra/drivers/modalias"
)

// ErrNoModule: the set has no module, and no alias, of that name.
var ErrNoModule = kmod.ErrNoModule

// A Set is all modules below a modules directory. Its methods are not safe for
// concurrent use: module files are read when they are first asked for.
type Set struct {
	dir      string
	modules  []*Module // in depmod's order
	byName   map[string]*Module
	builtin  map[string]bool
	inKernel modalias.Table  // aliases of built-in modules
	aliases  *modalias.Table // of all modules, once they were needed
}

// A Module is one file of a Set.
type Module struct {
	Name string // as the kernel spells it, with underscores
	Path string // relative to the modules directory
	info Info
}

// Open lists the module files below dir, which usually is lib/modules/RELEASE of
// an unpacked kernel package, and reads modules.order, modules.builtin and
// modules.builtin.modinfo, which come with a kernel and not from depmod. Each of
// the three may be missing.
func Open(dir string) (*Set, error) {
	s := &Set{dir: dir, byName: make(map[string]*Module), builtin: make(map[string]bool)}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, ok := ko.Name(path)
		if !ok || d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if other, ok := s.byName[name]; ok {
			return fmt.Errorf("two files for one module: %s and %s", other.Path, rel)
		}
		s.byName[name] = &Module{Name: name, Path: rel}
		s.modules = append(s.modules, s.byName[name])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	if err := s.sort(); err != nil {
		return nil, err
	}
	err = s.optional("modules.builtin", func(r io.Reader) error {
		names, err := kmod.ParseBuiltin(r)
		for _, name := range names {
			s.builtin[name] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.optional("modules.builtin.modinfo", func(r io.Reader) error {
		return kmod.ParseBuiltinModinfo(r, s.inKernel.Add)
	})
	return s, err
}

// sort puts the modules into the order of modules.order, the link order of the
// drivers, and those it does not list behind them by path. The order decides
// which of two drivers for one device comes first.
func (s *Set) sort() error {
	rank := make(map[string]int) // by path without compression
	err := s.optional("modules.order", func(r io.Reader) error {
		text, err := io.ReadAll(r)
		for line := range strings.Lines(string(text)) {
			rank[strings.TrimSpace(line)] = len(rank) - len(text) // below the 0 of unlisted ones
		}
		return err
	})
	plain := func(m *Module) string { return m.Path[:strings.LastIndex(m.Path, ".ko")+len(".ko")] }
	slices.SortFunc(s.modules, func(a, b *Module) int {
		return cmp.Or(cmp.Compare(rank[plain(a)], rank[plain(b)]), cmp.Compare(a.Path, b.Path))
	})
	return err
}

func (s *Set) optional(name string, read func(io.Reader) error) error {
	f, err := os.Open(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return nil
}

// Dir returns the modules directory.
func (s *Set) Dir() string { return s.dir }

// Modules returns all modules of the set in depmod's order.
func (s *Set) Modules() []*Module { return slices.Clone(s.modules) }

// Under returns the names of the modules whose file is below a directory of the
// modules directory, such as "kernel/drivers/net/ethernet", in depmod's order.
func (s *Set) Under(dir string) []string {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	var names []string
	for _, m := range s.modules {
		if strings.HasPrefix(m.Path, prefix) {
			names = append(names, m.Name)
		}
	}
	return names
}

// Module returns the module of that name; '-' and '_' are the same.
func (s *Set) Module(name string) (*Module, bool) {
	m, ok := s.byName[modalias.Normalize(name)]
	return m, ok
}

// Builtin reports whether the module of that name is part of the kernel image.
func (s *Set) Builtin(name string) bool { return s.builtin[modalias.Normalize(name)] }

// Info returns what the module of that name says about itself.
func (s *Set) Info(name string) (Info, error) {
	m, ok := s.Module(name)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrNoModule)
	}
	if m.info == nil {
		info, err := ReadFile(filepath.Join(s.dir, m.Path))
		if err != nil {
			return nil, err
		}
		m.info = info
	}
	return m.info, nil
}

// Match returns the names of the modules that claim a modalias, in the order of
// modules.alias. The first call reads all modules of the set.
func (s *Set) Match(alias string) ([]string, error) {
	if s.aliases == nil {
		t := new(modalias.Table)
		for _, m := range s.modules {
			info, err := s.Info(m.Name)
			if err != nil {
				return nil, err
			}
			for _, pattern := range info.Values("alias") {
				t.Add(pattern, m.Name)
			}
		}
		s.aliases = t
	}
	return s.aliases.Lookup(alias), nil
}

// Closure returns the modules called names and everything they need to work, in
// depmod's order: dependencies and, where they exist, soft dependencies, of each
// in turn. A name can be an alias. Built-in modules add nothing. It fails with
// ErrNoModule for a name, or a dependency, that is nowhere.
func (s *Set) Closure(names ...string) ([]*Module, error) {
	in := make(map[*Module]bool)
	for _, name := range names {
		found, err := s.resolve(name)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 && !s.provided(name) {
			return nil, fmt.Errorf("%s: %w", name, ErrNoModule)
		}
		for _, m := range found {
			if err := s.include(m, in); err != nil {
				return nil, err
			}
		}
	}
	var all []*Module
	for _, m := range s.modules {
		if in[m] {
			all = append(all, m)
		}
	}
	return all, nil
}

// include adds m and what it needs to in.
func (s *Set) include(m *Module, in map[*Module]bool) error {
	if in[m] {
		return nil
	}
	in[m] = true
	info, err := s.Info(m.Name)
	if err != nil {
		return err
	}
	for _, name := range info.Depends() {
		need, ok := s.Module(name)
		if !ok {
			if s.Builtin(name) {
				continue
			}
			return fmt.Errorf("%s needs %s: %w", m.Name, name, ErrNoModule)
		}
		if err := s.include(need, in); err != nil {
			return err
		}
	}
	for _, value := range info.Values("softdep") {
		soft := kmod.ParseSoft(value)
		for _, name := range append(soft.Pre, soft.Post...) {
			found, err := s.resolve(name)
			if err != nil {
				return err
			}
			for _, need := range found {
				if err := s.include(need, in); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// resolve returns the modules a name stands for, none if the kernel image
// provides it or it is nowhere.
func (s *Set) resolve(name string) ([]*Module, error) {
	if m, ok := s.Module(name); ok {
		return []*Module{m}, nil
	}
	if s.Builtin(name) {
		return nil, nil
	}
	matches, err := s.Match(name)
	if err != nil {
		return nil, err
	}
	found := make([]*Module, len(matches))
	for i, match := range matches {
		found[i] = s.byName[match]
	}
	return found, nil
}

// provided reports whether the kernel image is or has what name stands for.
func (s *Set) provided(name string) bool {
	return s.Builtin(name) || len(s.inKernel.Lookup(name)) > 0
}
