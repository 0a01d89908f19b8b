// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers/modalias"
	"github.com/umbra-vm/umbra/drivers/modinfo"
	"github.com/umbra-vm/umbra/image/kernel"
)

// selection is what an image takes of a kernel's modules.
type selection struct {
	modules  []*modinfo.Module // everything that has a file, in link order
	boot     []string          // loaded at boot, in this order, before any program runs
	prefetch []string          // what a recovery needs, brought into memory once the guest is up
	drive    []string          // with which a volume with configuration is found
	disks    []string          // with which disks for data and with slots are found and mounted
}

// selectModules chooses the modules of the description from those of the
// kernel, with what they need. A module that the kernel does not have is a
// [*ConfigError] of its line.
func (c *Config) selectModules(k *kernel.Kernel) (*selection, error) {
	set, err := modinfo.Open(k.Modules)
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
	}
	s := &selection{}
	var wanted []string
	var errs []error

	for _, m := range bootModules {
		found, ok := set.Module(m.name)
		switch {
		case ok:
			s.boot = append(s.boot, found.Name)
			wanted = append(wanted, found.Name)
		case !m.optional && !set.Builtin(m.name):
			errs = append(errs, fmt.Errorf("kernel %s has no module %s, without which there is no proxy", k.Release, m.name))
		}
	}
	if m, ok := set.Module(divertModule); ok {
		s.prefetch = append(s.prefetch, m.Name)
		wanted = append(wanted, m.Name)
	}
	if m, ok := set.Module(deployModule); ok {
		wanted = append(wanted, m.Name)
	}
	if c.Data.Enabled() {
		if _, ok := set.Module(dataFileSystem); !ok && !set.Builtin(dataFileSystem) {
			errs = append(errs, c.fail("data", "kernel %s has no module %s", k.Release, dataFileSystem))
		}
		s.disks = append(Class{Modules: diskModules}.found(set), Class{Modules: dataModules}.found(set)...)
	}
	if c.Update.Enabled() {
		if _, ok := set.Module(slotFileSystem); !ok && !set.Builtin(slotFileSystem) {
			errs = append(errs, c.fail("update.version", "kernel %s has no module %s", k.Release, slotFileSystem))
		}
		if len(s.disks) == 0 {
			s.disks = Class{Modules: diskModules}.found(set)
		}
		s.disks = append(s.disks, Class{Modules: slotModules}.found(set)...)
	}
	wanted = append(wanted, s.disks...)
	driver := func(key, name string) {
		m, ok := set.Module(name)
		switch {
		case ok && !slices.Contains(s.prefetch, m.Name):
			s.prefetch = append(s.prefetch, m.Name)
			wanted = append(wanted, m.Name)
		case !ok && !set.Builtin(name):
			errs = append(errs, c.fail(key, "%q: no such module in kernel %s%s", name, k.Release, suggest(name, moduleNames(set))))
		}
	}
	for i, name := range c.Drivers.Classes {
		class, _ := classByName(name)
		if class.Drive {
			s.drive = class.found(set)
			wanted = append(wanted, s.drive...)
			continue
		}
		for _, m := range class.Modules {
			driver(fmt.Sprintf("drivers.classes[%d]", i), m)
		}
		swept, err := class.sweep(set)
		if err != nil {
			return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
		}
		wanted = append(wanted, swept...)
	}
	for i, name := range c.Drivers.Modules {
		m, ok := set.Module(name)
		asked := true
		if ok {
			info, err := set.Info(m.Name)
			if err != nil {
				return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
			}
			asked = slices.ContainsFunc(info.Values("alias"), modalias.OfDevice)
		}
		switch {
		case asked:
			driver(fmt.Sprintf("drivers.modules[%d]", i), name)
		case !slices.Contains(s.boot, m.Name): // a program asks for it, and must find it
			s.boot = append(s.boot, m.Name)
			wanted = append(wanted, m.Name)
		}
	}
	for i, r := range c.Roles {
		m, ok := set.Module(vlanModule)
		switch {
		case len(r.VLANs) == 0 || set.Builtin(vlanModule):
		case !ok:
			errs = append(errs, c.fail(fmt.Sprintf("role[%d].vlan", i), "kernel %s has no module %s", k.Release, vlanModule))
		case !slices.Contains(s.boot, m.Name):
			s.boot = append(s.boot, m.Name)
			wanted = append(wanted, m.Name)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if s.modules, err = set.Closure(wanted...); err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
	}
	slices.Sort(s.prefetch)
	return s, nil
}

// sweep returns the names of the modules that a class without a list takes.
func (class Class) sweep(set *modinfo.Set) ([]string, error) {
	var names []string
	for _, dir := range class.Below {
		for _, name := range set.Under(dir) {
			info, err := set.Info(name)
			if err != nil {
				return nil, err
			}
			serves := func(alias string) bool { return strings.HasPrefix(alias, class.Alias) }
			if slices.ContainsFunc(info.Values("alias"), serves) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// found returns those of the class's modules that the kernel has as such.
func (class Class) found(set *modinfo.Set) []string {
	var names []string
	for _, name := range class.Modules {
		if m, ok := set.Module(name); ok {
			names = append(names, m.Name)
		}
	}
	return names
}

// moduleNames returns the names of all modules as their files are spelt.
func moduleNames(set *modinfo.Set) []string {
	var names []string
	for _, m := range set.Modules() {
		name, _, _ := strings.Cut(filepath.Base(m.Path), ".ko")
		names = append(names, name)
	}
	return names
}
