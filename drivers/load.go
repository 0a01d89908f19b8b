// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Candidates returns the names of the modules that claim dev, in the order in
// which Load tries them: that of modules.alias, then built-in ones, which
// Builtin tells apart. It fails with ErrNoDriver when the modules directory has
// none.
func (t *Tree) Candidates(dev Device) ([]string, error) {
	var names []string
	for _, m := range t.index.Match(dev.Modalias) {
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return nil, &OpError{"find a driver for", dev.String(), fmt.Errorf("%w: %s", ErrNoDriver, dev.Modalias)}
	}
	return names, nil
}

// Load gives dev a driver: it loads the candidate modules one after the other,
// each with what it depends on, until the device is bound. Then it does the same
// for the children that this driver made, as a virtio function is of no use
// before its virtio device has a driver too. It returns the device as it is
// then, also next to an error.
//
// A module can claim a device and refuse it on a closer look: 8139too leaves
// revision 0x20 to 8139cp. Modules that were loaded in vain stay. When the
// module is loaded already, the device is offered to the drivers once more.
//
// The error is ErrNoDriver when no module in the image claims the device or a
// child, ErrNotBound when modules do and no driver takes it; then the reasons
// of modules that could not be loaded are in it.
func (t *Tree) Load(ctx context.Context, dev Device) (Device, error) {
	fresh, err := t.read(dev.Bus, dev.Address)
	if err != nil {
		return dev, &OpError{"load a driver for", dev.String(), err}
	}
	return t.load(ctx, fresh)
}

func (t *Tree) load(ctx context.Context, dev Device) (Device, error) {
	if dev.Driver == "" {
		var err error
		if dev, err = t.bindByModalias(ctx, dev); err != nil {
			return dev, err
		}
	}
	var errs []error
	for i, child := range dev.Children {
		if child.Modalias == "" {
			continue // bound by the driver that made it or not at all: PCIe port services
		}
		loaded, err := t.load(ctx, child)
		dev.Children[i] = loaded
		if err != nil {
			errs = append(errs, err)
		}
	}
	return dev, errors.Join(errs...)
}

// bindByModalias loads candidates until dev, which has no driver, is bound.
func (t *Tree) bindByModalias(ctx context.Context, dev Device) (Device, error) {
	op := func(err error) error { return &OpError{"load a driver for", dev.String(), err} }
	candidates, err := t.Candidates(dev)
	if err != nil {
		return dev, err
	}
	var failed []error
	for _, module := range candidates {
		if err := ctx.Err(); err != nil {
			return dev, op(err)
		}
		loaded := t.Loaded(module)
		if !loaded {
			err := t.loader.Load(ctx, module, "")
			switch {
			case errors.Is(err, unix.ENODEV): // xen-pcifront's word, for one, in a guest that is not PV
				t.log.Info("driver refused the device", "device", dev.String(), "module", module, "err", err)
			case err != nil:
				t.log.Warn("candidate not loaded", "device", dev.String(), "module", module, "err", err)
			}
			if err != nil {
				failed = append(failed, err)
				continue
			}
		}
		if dev, err = t.read(dev.Bus, dev.Address); err != nil {
			return dev, op(err)
		}
		if dev.Driver == "" && loaded {
			if dev, err = t.reprobe(dev); err != nil {
				return dev, op(err)
			}
		}
		if dev.Driver != "" {
			t.log.Info("driver loaded", "device", dev.String(), "driver", dev.Driver, "module", module)
			return dev, nil
		}
		t.log.Info("driver refused the device", "device", dev.String(), "module", module)
	}
	return dev, op(errors.Join(append([]error{ErrNotBound}, failed...)...))
}

// reprobe offers dev to the drivers that are there, in the kernel's order.
func (t *Tree) reprobe(dev Device) (Device, error) {
	path := filepath.Join(t.sysfs, "bus", dev.Bus, "drivers_probe")
	if err := t.kernel.WriteAttr(path, dev.Address); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return dev, ErrNoDevice
		}
		// The error of the last driver that was tried; the driver link tells.
		t.log.Debug("probe failed", "device", dev.String(), "err", err)
	}
	return t.read(dev.Bus, dev.Address)
}
