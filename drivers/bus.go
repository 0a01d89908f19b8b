// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/drivers/internal/sysfs"
	"github.com/umbra-vm/umbra/drivers/pci"
)

// A bus is one that is scanned for devices of its own, as opposed to buses whose
// devices are children of another's. What is the same for all buses, the driver
// model's files, is not in here.
type bus interface {
	// name is the directory below /sys/bus.
	name() string
	// compare orders two addresses as the bus scans them.
	compare(a, b string) int
	// describe fills in what only this bus knows, from the files in dev.Path.
	describe(dev *Device) error
	// verify judges what answers for dev now.
	verify(dev Device) (v Verdict, reason string, err error)
	// rescan makes the kernel look for devices that it does not know.
	rescan(ctx context.Context, t *Tree) error
	// remove makes the kernel forget dev.
	remove(ctx context.Context, t *Tree, dev Device) error
}

// bus returns the scanned bus called name.
func (t *Tree) bus(name string) (bus, bool) {
	for _, b := range t.buses {
		if b.name() == name {
			return b, true
		}
	}
	return nil, false
}

type pciBus struct{}

func (pciBus) name() string { return "pci" }

func (pciBus) compare(a, b string) int {
	x, errX := pci.ParseAddress(a)
	y, errY := pci.ParseAddress(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	return x.Compare(y)
}

func (pciBus) describe(dev *Device) (err error) {
	dev.IDs, dev.Class, err = pci.ReadIDs(dev.Path, dev.Modalias)
	return err
}

func (pciBus) verify(dev Device) (Verdict, string, error) {
	belief, err := pci.ReadBelief(dev.Path)
	if err != nil {
		return Unknown, "", err
	}
	if dev.IDs != (pci.IDs{}) && dev.IDs != belief.IDs {
		return Replaced, "the kernel has found another device there since", nil
	}
	return judge(belief, func() (pci.Config, error) { return pci.ReadConfig(dev.Path) })
}

// judge compares what read returns with the kernel's belief. A migration in the middle of
// a read makes it half of each host's, which looks like another device, or a fresh one:
// such a verdict needs a read that began afterwards.
func judge(belief pci.Belief, read func() (pci.Config, error)) (v Verdict, reason string, err error) {
	for again := false; ; again = true {
		config, err := read()
		if err != nil {
			return Unknown, "", err
		}
		if config.Starting {
			return Unknown, "", ErrNotReady
		}
		if v, reason = pci.Compare(belief, config); again || v == Alive || v == Absent {
			return v, reason, nil
		}
	}
}

// rescan leaves alone what Xen's PCI front end has: that finds its devices by itself, and a
// scan, which it does not expect, gives them addresses that they do not have
// (pcifront_rescan_root and pcifront_claim_resource in drivers/pci/xen-pcifront.c). A guest
// that has one has no other PCI bus.
func (b pciBus) rescan(ctx context.Context, t *Tree) error {
	if t.hasPCIFrontEnd() {
		return nil
	}
	return t.write(ctx, filepath.Join(t.sysfs, "bus", b.name(), "rescan"), "1")
}

// remove takes the device from its driver only, if no scan would find it again.
func (b pciBus) remove(ctx context.Context, t *Tree, dev Device) error {
	if t.hasPCIFrontEnd() {
		if err := t.forgotten(dev); err != nil {
			return err
		}
		if v, _, err := b.verify(dev); err == nil && v != Absent {
			return t.Unbind(ctx, dev)
		}
	}
	return t.writeDevice(ctx, "remove", dev, "remove", "1")
}

// hasPCIFrontEnd says whether the devices on PCI are those of a paravirtual guest of Xen.
// Nobody else gets the driver (pcifront_init).
func (t *Tree) hasPCIFrontEnd() bool {
	_, err := os.Stat(filepath.Join(t.sysfs, "bus", "xen", "drivers", "pcifront"))
	return err == nil
}

// describeChild fills in the ids of a device of a bus that is not scanned, where
// it has such: virtio devices have "vendor" and "device".
func describeChild(dev *Device) {
	for name, to := range map[string]*uint16{"vendor": &dev.IDs.Vendor, "device": &dev.IDs.Device} {
		text, err := sysfs.Read(dev.Path, name)
		if err != nil {
			continue
		}
		if v, err := strconv.ParseUint(text, 0, 16); err == nil {
			*to = uint16(v)
		}
	}
}

// linkBase returns the last element of what a sysfs link points to, "" when
// there is no such link.
func linkBase(path string) (string, error) {
	to, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return filepath.Base(to), nil
}
