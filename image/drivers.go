// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers/kmod"
	"github.com/umbra-vm/umbra/image/kernel"
)

// selection is what an image takes of a kernel's modules.
type selection struct {
	files    []*kmod.Module // everything that has a file, sorted by path
	boot     []string       // loaded at boot, in this order
	prefetch []string       // drivers brought into memory at boot
}

// selectModules chooses the modules of the description from those of the
// kernel, with what they need. A module that the kernel does not have is a
// [*ConfigError] of its line.
func (c *Config) selectModules(k *kernel.Kernel) (*selection, error) {
	index, err := kmod.ReadIndex(k.Modules)
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
	}
	s := &selection{}
	var wanted []string // names to plan for
	var errs []error

	for _, m := range bootModules {
		found, ok := index.Module(m.name)
		switch {
		case ok && !found.Builtin:
			s.boot = append(s.boot, found.Name)
			wanted = append(wanted, found.Name)
		case !ok && !m.optional:
			errs = append(errs, fmt.Errorf("kernel %s has no module %s, without which there is no proxy", k.Release, m.name))
		}
	}
	driver := func(key, name string) {
		m, ok := index.Module(name)
		if !ok {
			names, err := moduleNames(k.Modules)
			if err != nil {
				errs = append(errs, err)
				return
			}
			errs = append(errs, c.fail(key, "%q: no such module in kernel %s%s", name, k.Release, suggest(name, names)))
			return
		}
		if !m.Builtin && !slices.Contains(s.prefetch, m.Name) {
			s.prefetch = append(s.prefetch, m.Name)
			wanted = append(wanted, m.Name)
		}
	}
	for i, name := range c.Drivers.Classes {
		class, _ := classByName(name)
		for _, m := range class.Modules {
			driver(fmt.Sprintf("drivers.classes[%d]", i), m)
		}
		swept, err := class.sweep(k.Modules, index)
		if err != nil {
			return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
		}
		wanted = append(wanted, swept...)
	}
	for i, name := range c.Drivers.Modules {
		driver(fmt.Sprintf("drivers.modules[%d]", i), name)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	plan, err := index.Plan(wanted...)
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
	}
	for _, step := range plan.Steps {
		s.files = append(s.files, step.Module)
	}
	slices.SortFunc(s.files, func(a, b *kmod.Module) int { return strings.Compare(a.Path, b.Path) })
	slices.Sort(s.prefetch)
	return s, nil
}

// sweep returns the names of the modules that a class without a list takes.
func (class Class) sweep(dir string, index *kmod.Index) ([]string, error) {
	if class.Alias == "" {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		pattern, ok := strings.CutPrefix(lines.Text(), "alias ")
		if !ok || !strings.HasPrefix(pattern, class.Alias) {
			continue
		}
		name := pattern[strings.LastIndexByte(pattern, ' ')+1:]
		m, ok := index.Module(name)
		if !ok || m.Builtin || slices.Contains(names, m.Name) {
			continue
		}
		rel, err := filepath.Rel(dir, m.Path)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(class.Below, func(b string) bool { return strings.HasPrefix(filepath.ToSlash(rel), b) }) {
			names = append(names, m.Name)
		}
	}
	return names, lines.Err()
}

// moduleNames returns the names of all modules in dir's index.
func moduleNames(dir string) ([]string, error) {
	f, err := os.Open(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	deps, err := kmod.ParseDep(f)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range deps {
		name, _, _ := strings.Cut(filepath.Base(d.Path), ".ko")
		names = append(names, name)
	}
	return names, nil
}
