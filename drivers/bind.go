// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Bind gives dev to the driver of that name, whose module has to be loaded; a
// device that it has already is a success. It fails with ErrNotBound when the
// driver refuses, or when another one has the device.
func (t *Tree) Bind(ctx context.Context, dev Device, driver string) error {
	path := filepath.Join(t.sysfs, "bus", dev.Bus, "drivers", driver, "bind")
	err := t.write(ctx, path, dev.Address)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("no driver %s on bus %s: %w", driver, dev.Bus, err)
	case !t.exists(dev):
		err = fmt.Errorf("%w: %w", ErrNoDevice, err)
	default:
		if bound, _ := linkBase(filepath.Join(dev.Path, "driver")); bound == driver {
			return nil
		}
		err = fmt.Errorf("%w: %w", ErrNotBound, err)
	}
	return &OpError{"bind " + driver + " to", dev.String(), err}
}

// Unbind takes dev away from its driver; a device that has none is a success.
func (t *Tree) Unbind(ctx context.Context, dev Device) error {
	if !t.exists(dev) {
		return &OpError{"unbind", dev.String(), ErrNoDevice}
	}
	err := t.write(ctx, filepath.Join(dev.Path, "driver", "unbind"), dev.Address)
	if err != nil && !isGone(err) {
		return &OpError{"unbind", dev.String(), err}
	}
	return nil
}

// SetOverride makes the driver of that name the only one that may take dev,
// whatever ids it has; "" lifts it (driver_override). It does not bind.
func (t *Tree) SetOverride(ctx context.Context, dev Device, driver string) error {
	// An empty write would not reach the kernel: a line without text clears.
	return t.writeDevice(ctx, "override the driver of", dev, "driver_override", driver+"\n")
}

// Remove makes the kernel forget dev, as if it had been pulled: its driver lets
// go first. The device is found again by Rescan if it is there. Devices of a bus that
// is not scanned cannot be removed: errors.ErrUnsupported. On Xen's buses, a device that is alive
// only loses its driver, as no scan would find it again; and if the kernel has forgotten dev by
// itself, the error is ErrNoDevice, and what it has found at the address since is left alone.
func (t *Tree) Remove(ctx context.Context, dev Device) error {
	b, ok := t.bus(dev.Bus)
	if !ok {
		return &OpError{"remove", dev.String(), fmt.Errorf("a device on bus %q: %w", dev.Bus, errors.ErrUnsupported)}
	}
	return b.remove(ctx, t, dev)
}

// Rescan makes the kernel look for new devices, give them addresses and offer
// them to the drivers that are loaded. Devices it knows are left alone, even if
// their hardware is gone: Verify and Remove those first.
func (t *Tree) Rescan(ctx context.Context) error {
	for _, b := range t.buses {
		if err := b.rescan(ctx, t); err != nil {
			return &OpError{"rescan", b.name(), err}
		}
	}
	return nil
}

// forgotten returns an error if dev's address has the next device, or none.
func (t *Tree) forgotten(dev Device) error {
	if is, err := inode(dev.Path); err == nil && (dev.Inode == 0 || dev.Inode == is) {
		return nil
	}
	return &OpError{"remove", dev.String(), ErrNoDevice}
}

// writeDevice writes an attribute of dev.
func (t *Tree) writeDevice(ctx context.Context, op string, dev Device, attr, value string) error {
	err := t.write(ctx, filepath.Join(dev.Path, attr), value)
	if err == nil {
		return nil
	}
	// Two writers of "remove" race to the device; the second has nothing to do.
	if isGone(err) && !t.exists(dev) {
		err = fmt.Errorf("%w: %w", ErrNoDevice, err)
	}
	return &OpError{op, dev.String(), err}
}

func (t *Tree) write(ctx context.Context, path, value string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.kernel.WriteAttr(path, value)
}

func (t *Tree) exists(dev Device) bool {
	_, err := os.Stat(dev.Path)
	return err == nil
}
