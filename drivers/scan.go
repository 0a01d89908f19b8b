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
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers/internal/sysfs"
)

// Scan returns the devices of all scanned buses, in bus order. A device that
// disappears meanwhile is left out.
func (t *Tree) Scan(ctx context.Context) ([]Device, error) {
	var all []Device
	for _, b := range t.buses {
		found, err := t.scanBus(ctx, b)
		if err != nil {
			return nil, &OpError{"scan", b.name(), err}
		}
		all = append(all, found...)
	}
	return all, nil
}

func (t *Tree) scanBus(ctx context.Context, b bus) ([]Device, error) {
	entries, err := os.ReadDir(filepath.Join(t.sysfs, "bus", b.name(), "devices"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without this bus
	}
	if err != nil {
		return nil, err
	}
	devices := make([]Device, 0, len(entries))
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		dev, err := t.read(b.name(), e.Name())
		// Its files go before its directory does (drivers/base/core.c, device_del).
		if errors.Is(err, ErrNoDevice) || isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		devices = append(devices, dev)
	}
	slices.SortFunc(devices, func(x, y Device) int { return b.compare(x.Address, y.Address) })
	return devices, nil
}

// Device returns the device at an address of a scanned bus, with its children as
// they are now. It fails with ErrNoDevice when the kernel knows none there.
func (t *Tree) Device(ctx context.Context, address string) (Device, error) {
	if err := ctx.Err(); err != nil {
		return Device{}, &OpError{"find", address, err}
	}
	for _, b := range t.buses {
		dev, err := t.read(b.name(), address)
		if errors.Is(err, ErrNoDevice) {
			continue
		}
		if err != nil {
			return Device{}, &OpError{"find", b.name() + " " + address, err}
		}
		return dev, nil
	}
	return Device{}, &OpError{"find", address, ErrNoDevice}
}

// read returns the device at an address of any bus. The error is ErrNoDevice
// also when the device goes away during the reading.
func (t *Tree) read(busName, address string) (Device, error) {
	link := filepath.Join(t.sysfs, "bus", busName, "devices", address)
	to, err := os.Readlink(link)
	if err != nil {
		return Device{}, ErrNoDevice
	}
	return t.readAt(busName, filepath.Join(filepath.Dir(link), to))
}

// readAt returns the device whose directory is path.
func (t *Tree) readAt(busName, path string) (Device, error) {
	dev := Device{Bus: busName, Address: filepath.Base(path), Path: path}
	err := t.fill(&dev)
	if isGone(err) {
		if _, statErr := os.Stat(path); statErr != nil {
			return Device{}, ErrNoDevice
		}
	}
	return dev, err
}

// isGone reports whether err is what sysfs says of a device that is being
// removed: its files vanish, or are open and read as ENODEV.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// inode tells the directory of a device from that of the next one at its address: sysfs
// counts them up (kernfs_new_node in fs/kernfs/dir.c).
func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

func (t *Tree) fill(dev *Device) error {
	var err error
	if dev.Inode, err = inode(dev.Path); err != nil {
		return err
	}
	if dev.Modalias, err = sysfs.Read(dev.Path, "modalias"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if dev.Driver, err = linkBase(filepath.Join(dev.Path, "driver")); err != nil {
		return err
	}
	if dev.Driver != "" {
		if dev.Module, err = linkBase(filepath.Join(dev.Path, "driver", "module")); err != nil {
			return err
		}
	}
	if t.Builtin(dev.Module) {
		dev.Module = ""
	}
	if b, ok := t.bus(dev.Bus); ok {
		if err := b.describe(dev); err != nil {
			return err
		}
	} else {
		describeChild(dev)
	}
	if dev.Driver != "" { // which is what makes them
		dev.Children, err = t.children(dev.Path)
	}
	return err
}

// children returns the devices right below the directory of another one that
// are on a bus which is not scanned by itself.
func (t *Tree) children(path string) ([]Device, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var children []Device
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		child := filepath.Join(path, e.Name())
		subsystem, err := os.Readlink(filepath.Join(child, "subsystem"))
		if err != nil {
			continue // no device: "power", "net", "msi_irqs"
		}
		if filepath.Base(filepath.Dir(subsystem)) != "bus" {
			continue // a class device: see ClassDevices
		}
		busName := filepath.Base(subsystem)
		if _, scanned := t.bus(busName); scanned {
			continue
		}
		dev, err := t.readAt(busName, child)
		// Its files go before its directory does (drivers/base/core.c, device_del).
		if errors.Is(err, ErrNoDevice) || isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		children = append(children, dev)
	}
	return children, nil
}

// ClassDevices returns the names of the devices of a class, such as "net" or
// "block", that belong to dev: its own and those of its children, not those of
// PCI functions behind it when dev is a bridge. The names are sorted. A device that is
// only expected has none.
func (t *Tree) ClassDevices(dev Device, class string) ([]string, error) {
	if dev.Path == "" {
		return nil, nil
	}
	dir := filepath.Join(t.sysfs, "class", class)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the class comes with its first module
	}
	if err != nil {
		return nil, &OpError{"list class " + class + " of", dev.String(), err}
	}
	var names []string
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // net/bonding_masters is a file; others have just gone
		}
		below, ok := strings.CutPrefix(filepath.Join(dir, to), dev.Path+"/")
		if ok && !t.crossesDevice(dev.Path, below) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// crossesDevice reports whether the path below dir leads through a device of a
// scanned bus.
func (t *Tree) crossesDevice(dir, below string) bool {
	for _, part := range strings.Split(below, "/") {
		dir = filepath.Join(dir, part)
		subsystem, err := os.Readlink(filepath.Join(dir, "subsystem"))
		if err != nil || filepath.Base(filepath.Dir(subsystem)) != "bus" {
			continue
		}
		if _, scanned := t.bus(filepath.Base(subsystem)); scanned {
			return true
		}
	}
	return false
}
