// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/init/config"
)

// bare measures, for every NIC that turns up, what its driver takes to probe
// it, open it and get a link, with nothing else in the guest. The drivers are
// in memory and have never run, as they have in a guest that recovers.
//
// The machine is migrated from NIC to NIC like the other one. The emulator
// that it comes to has translated none of the guest's code yet, which is most
// of what a short path costs there, and both guests must pay it alike. It
// returns when it cannot go on.
func bare(ctx context.Context) error {
	if err := mounts(); err != nil {
		return err
	}
	tree, err := drivers.New()
	if err != nil {
		return err
	}
	f, err := os.Open(config.Path)
	if err != nil {
		return err
	}
	cfg, err := config.Load(f)
	f.Close()
	if err != nil {
		return err
	}
	probes, err := watchProbes()
	if err != nil {
		return err
	}
	// The NIC that the machine boots with is probed here.
	if err := tree.Prefetch(ctx, slices.Concat(cfg.Modules, cfg.Prefetch)...); err != nil {
		return fmt.Errorf("prefetch: %w", err)
	}
	say(record.Record{Kind: record.Start, Boottime: now(unix.CLOCK_BOOTTIME)})
	for unload := int64(0); ; {
		dev, scan, err := nextNIC(ctx, tree)
		if err != nil {
			return err
		}
		r, err := bringUp(ctx, tree, dev)
		if err != nil {
			return fmt.Errorf("%s %s: %w", dev.Address, dev.IDs, err)
		}
		if r.Probe, err = probes.took(dev.Address); err != nil {
			return err
		}
		// The kernel probes what it finds before it returns from the scan.
		r.Scan, r.Unload = max(0, scan-r.Probe), unload
		say(r)
		if err := gone(dev); err != nil {
			return err
		}
		t := now(unix.CLOCK_MONOTONIC)
		if err := errors.Join(tree.Unbind(ctx, dev), tree.Remove(ctx, dev)); err != nil {
			return err
		}
		unload = now(unix.CLOCK_MONOTONIC) - t
	}
}

func mounts() error {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// The kernel opened no console if the image has no node for it.
	tty, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup2(int(tty.Fd()), fd); err != nil {
			return err
		}
	}
	return nil
}

// look is how often the bus is looked at.
const look = 100 * time.Millisecond

// nextNIC scans the bus until there is a NIC. scan is what the last scan took.
func nextNIC(ctx context.Context, tree *drivers.Tree) (dev drivers.Device, scan int64, err error) {
	for {
		t := now(unix.CLOCK_MONOTONIC)
		if err := tree.Rescan(ctx); err != nil {
			return dev, 0, err
		}
		scan := now(unix.CLOCK_MONOTONIC) - t
		devs, err := tree.Scan(ctx)
		if err != nil {
			return dev, 0, err
		}
		for _, d := range devs {
			if d.Class>>16 == 0x02 {
				return d, scan, nil
			}
		}
		time.Sleep(look)
	}
}

// gone waits until the device's address does not hold it any more: the machine has
// moved, and the next NIC is there, or in another slot.
func gone(dev drivers.Device) error {
	for {
		b, err := os.ReadFile(filepath.Join(dev.Path, "config"))
		if err != nil {
			return err
		}
		if len(b) >= 4 && binary.LittleEndian.Uint32(b) != uint32(dev.IDs.Device)<<16|uint32(dev.IDs.Vendor) {
			return nil
		}
		time.Sleep(look)
	}
}

// bringUp takes the steps that every user of the device has to take.
func bringUp(ctx context.Context, tree *drivers.Tree, dev drivers.Device) (record.Record, error) {
	names, err := tree.ClassDevices(dev, "net")
	if err != nil {
		return record.Record{}, err
	}
	if len(names) == 0 {
		return record.Record{}, errors.New("no driver made an interface of it")
	}
	t1 := now(unix.CLOCK_MONOTONIC)
	l, err := netlink.LinkByName(names[0])
	if err != nil {
		return record.Record{}, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return record.Record{}, err
	}
	t2 := now(unix.CLOCK_MONOTONIC)
	if err := waitCarrier(names[0]); err != nil {
		return record.Record{}, err
	}
	t3 := now(unix.CLOCK_MONOTONIC)
	driver, err := filepath.EvalSymlinks(filepath.Join("/sys/class/net", names[0], "device/driver"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return record.Record{}, err
	}
	return record.Record{
		Kind: record.Bare, Device: dev.Address, Driver: filepath.Base(driver),
		Open: t2 - t1, Link: t3 - t2,
	}, nil
}

// waitCarrier polls: a program with nothing else to do can afford it, and
// hears of the link no later than by a message.
func waitCarrier(iface string) error {
	for {
		b, err := os.ReadFile(filepath.Join("/sys/class/net", iface, "carrier"))
		if err != nil {
			return err
		}
		if len(b) > 0 && b[0] == '1' {
			return nil
		}
		time.Sleep(100 * time.Microsecond)
	}
}
