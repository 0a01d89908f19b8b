// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/umbra-vm/umbra/drivers/internal/sysfs"
)

// LoadAsked loads those of the modules that a device on any bus asks for, scanned or
// not, those that devices ask for which appear by that, and then the modules that no
// device ever asks for, such as file systems. Those of hardware that is not there, each
// with what it needs, would cost a guest time and memory.
//
// It tries each module once, as [Tree.Prefetch] does, and binds nothing that the kernel
// does not bind by itself. What is there when it returns includes what modules went on
// with in the background: the kernel ends the start of a module only after that
// (kernel/module/main.c, do_init_module).
func (t *Tree) LoadAsked(ctx context.Context, modules ...string) error {
	waiting := make(map[string]bool)
	var others []string
	for _, name := range modules {
		m, ok := t.index.Module(name)
		switch {
		case !ok || !t.index.ForDevices(m):
			others = append(others, name)
		case !t.Loaded(m.Name):
			waiting[m.Name] = true
		}
	}
	var errs []error
	for asked := t.askedFor(waiting); len(asked) > 0; asked = t.askedFor(waiting) {
		errs = append(errs, t.Prefetch(ctx, asked...))
	}
	return errors.Join(append(errs, t.Prefetch(ctx, others...))...)
}

// askedFor takes what the devices of this machine ask for out of waiting.
func (t *Tree) askedFor(waiting map[string]bool) (asked []string) {
	if len(waiting) == 0 {
		return nil
	}
	// An error is that of a pattern.
	devices, _ := filepath.Glob(filepath.Join(t.sysfs, "bus", "*", "devices", "*"))
	for _, dir := range devices {
		alias, err := sysfs.Read(dir, "modalias")
		if err != nil {
			continue // it has none, or is gone
		}
		for _, m := range t.index.Match(alias) {
			if waiting[m.Name] {
				asked = append(asked, m.Name)
				delete(waiting, m.Name)
			}
		}
	}
	return asked
}
