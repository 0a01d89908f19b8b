// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package disks finds the one disk, or partition, that somebody means.
//
// It loads the drivers of disks and looks at what sysfs says of them. It must never know
// what is on a disk, nor open one.
package disks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers"
)

// Class is where the kernel lists block devices.
const Class = "/sys/class/block"

// ErrNone: there is none as it is looked for, or more than one.
var ErrNone = errors.New("no such disk")

// Wanted says by what a disk is known: one of the two.
type Wanted struct {
	Serial    string // of a whole disk
	Partition string // name in a GPT
}

func (w Wanted) String() string {
	if w.Partition != "" {
		return fmt.Sprintf("with a partition %q", w.Partition)
	}
	return fmt.Sprintf("with the serial number %q", w.Serial)
}

// Drivers are those with which disks are found.
type Drivers struct {
	log     *slog.Logger
	tree    *drivers.Tree
	modules []string
	told    bool
}

// NewDrivers takes the modules of which drivers may be needed. It loads none.
func NewDrivers(log *slog.Logger, modules []string) (*Drivers, error) {
	tree, err := drivers.New(drivers.WithLogger(log))
	if err != nil {
		return nil, err
	}
	return &Drivers{log: log, tree: tree, modules: modules}, nil
}

// Load loads those that a device of this machine asks for, and those that none ever asks
// for. It belongs before each look: what is plugged may be the first to ask for one. What
// cannot be loaded is told once, and nothing else becomes of it.
func (d *Drivers) Load(ctx context.Context) {
	if err := d.tree.LoadAsked(ctx, d.modules...); err != nil && !d.told {
		d.log.Warn("the disk may not be found", "err", err)
		d.told = true
	}
}

// Find returns the name of the one block device of those that class lists which is what
// is looked for. Errors match [ErrNone].
func Find(class string, want Wanted) (string, error) {
	entries, err := os.ReadDir(class)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var names []string
	for _, e := range entries {
		if is(filepath.Join(class, e.Name()), want) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		return "", fmt.Errorf("%w: none %s", ErrNone, want)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("%w: %v are all %s, want one", ErrNone, names, want)
}

// is reports whether the block device whose directory in sysfs this is is the one that is
// looked for. A disk's serial number is its own (virtio-blk) or its controller's (NVMe);
// a partition's name is in its uevent (Documentation/ABI/stable/sysfs-block).
func is(dir string, want Wanted) bool {
	if want.Partition != "" {
		text, _ := os.ReadFile(filepath.Join(dir, "uevent"))
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "PARTNAME="); ok {
				return name == want.Partition
			}
		}
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return false // device/ would be the disk's
	}
	for _, file := range []string{"serial", "device/serial"} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			return strings.TrimSpace(string(text)) == want.Serial
		}
	}
	return false
}
