// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/umbra-vm/umbra/drivers/modinfo"
	"github.com/umbra-vm/umbra/image/kernel"
)

// Security says what the guest's kernel refuses to root.
type Security struct {
	// Modules are those that can be loaded: by default only with a signature of
	// whoever made the kernel.
	Modules ModulePolicy `toml:"modules"`
	// Lockdown keeps root from changing the running kernel (kernel_lockdown(7)).
	Lockdown Lockdown `toml:"lockdown"`
}

// ModulePolicy says which modules a guest's kernel loads.
type ModulePolicy string

// The policies for modules.
const (
	SignedModules ModulePolicy = "signed"
	AnyModules    ModulePolicy = "any" // for a kernel whose modules are not signed
)

// Lockdown is a level of the kernel's lockdown.
type Lockdown string

// The levels of lockdown. The kernel's third, confidentiality, forbids what the shadow
// needs: eBPF programs that read the kernel's memory.
const (
	// LockdownOff is the default: with any other, the agent cannot give power to slots
	// of PCI Express, which takes a write to configuration space.
	LockdownOff       Lockdown = "off"
	LockdownIntegrity Lockdown = "integrity"
)

func (s *Security) setDefaults() {
	if s.Modules == "" {
		s.Modules = SignedModules
	}
	if s.Lockdown == "" {
		s.Lockdown = LockdownOff
	}
}

func (c *Config) validateSecurity() (errs []error) {
	s := c.Security
	if all := []ModulePolicy{SignedModules, AnyModules}; !slices.Contains(all, s.Modules) {
		errs = append(errs, c.fail("security.modules", "%q: want one of %v", s.Modules, all))
	}
	if all := []Lockdown{LockdownOff, LockdownIntegrity}; !slices.Contains(all, s.Lockdown) {
		errs = append(errs, c.fail("security.lockdown", "%q: want one of %v", s.Lockdown, all))
	}
	if s.Modules == AnyModules && s.Lockdown == LockdownIntegrity {
		errs = append(errs, c.fail("security.modules", "%q: a kernel in lockdown refuses modules without a signature",
			s.Modules))
	}
	return errs
}

// words are those of the kernel command line.
func (s Security) words() (words []string) {
	if s.Modules == SignedModules {
		words = append(words, "module.sig_enforce=1")
	}
	if s.Lockdown != LockdownOff {
		words = append(words, "lockdown="+string(s.Lockdown))
	}
	return words
}

// checkSignatures finds modules below dir that the guest would refuse: without them it
// would boot, and have no network.
func (c *Config) checkSignatures(dir string, modules []*modinfo.Module) error {
	if c.Security.Modules != SignedModules {
		return nil
	}
	for _, m := range modules {
		signed, err := kernel.Signed(filepath.Join(dir, m.Path))
		if err != nil {
			return fmt.Errorf("signature of module %s: %w", m.Name, err)
		}
		if !signed {
			return c.fail("security.modules",
				"module %s has no signature, so the guest would not load it: a kernel with such modules wants %q",
				m.Name, AnyModules)
		}
	}
	return nil
}
