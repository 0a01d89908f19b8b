// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/drivers/internal/sysfs"
	"github.com/umbra-vm/umbra/drivers/xenstore"
)

// xenBus is the bus of the front ends of paravirtual devices. Their hardware is a
// back end in another domain, and what there is of both stands in xenstore.
type xenBus struct {
	store func() (*xenstore.Conn, error)
}

func (xenBus) name() string { return "xen" }

// compare orders by kind, then by number: "vif-2" is before "vif-10".
func (xenBus) compare(a, b string) int {
	kindA, numberA := splitFrontend(a)
	kindB, numberB := splitFrontend(b)
	return cmp.Or(strings.Compare(kindA, kindB), cmp.Compare(numberA, numberB), strings.Compare(a, b))
}

func splitFrontend(address string) (kind string, number int) {
	kind, text, _ := strings.Cut(address, "-")
	number, err := strconv.Atoi(text)
	if err != nil {
		return address, 0
	}
	return kind, number
}

// frontendClasses has the class of PCI hardware that does what a front end does, so
// that whoever asks for a class finds both.
var frontendClasses = map[string]uint32{
	"vif": 0x020000, // Ethernet controller
	"vbd": 0x018000, // other mass storage
	"vfb": 0x038000, // other display
}

// unassignedClass is that of every other front end ("does not fit in any defined
// class").
const unassignedClass = 0xff0000

// describe reports a device that has neither a driver nor a node in xenstore as
// gone: the kernel keeps it after a migration to a host without it, and has no way
// to be told.
func (b xenBus) describe(dev *Device) error {
	kind, err := sysfs.Read(dev.Path, "devtype")
	if err != nil {
		return err
	}
	dev.Class = unassignedClass
	if class, ok := frontendClasses[kind]; ok {
		dev.Class = class
	}
	if dev.Driver != "" {
		return nil
	}
	v, _, err := b.verify(*dev)
	switch {
	case errors.Is(err, xenstore.ErrNoXen): // a tree that is looked at from elsewhere
	case err != nil:
		return err
	case v == Absent:
		return ErrNoDevice
	}
	return nil
}

// States of a back end that serves nobody any more (enum xenbus_state of
// xen/include/public/io/xenbus.h).
const (
	stateClosing = "5"
	stateClosed  = "6"
)

// verify asks xenstore for the device and its back end. A front end that has to
// connect anew after a migration does so by itself, and is alive.
func (b xenBus) verify(dev Device) (Verdict, string, error) {
	node, err := sysfs.Read(dev.Path, "nodename")
	if err != nil {
		return Unknown, "", err
	}
	c, err := b.store()
	if err != nil {
		return Unknown, "", err
	}
	defer c.Close()
	backend, err := c.Read(node + "/backend")
	if errors.Is(err, xenstore.ErrNoEntry) {
		return Absent, "xenstore has no " + node, nil
	}
	if err != nil {
		return Unknown, "", err
	}
	state, err := c.Read(backend + "/state")
	switch {
	case errors.Is(err, xenstore.ErrNoEntry), errors.Is(err, xenstore.ErrDenied):
		return Absent, "its back end is gone", nil
	case err != nil:
		return Unknown, "", err
	case state == stateClosing, state == stateClosed:
		return Absent, "its back end is closed", nil
	}
	return Alive, "", nil
}

// rescan makes the kernel see front ends that xenstore has and it has not: it
// learns of nodes that are touched, and none is by a migration (xenbus_dev_changed
// in drivers/xen/xenbus/xenbus_probe.c).
func (b xenBus) rescan(ctx context.Context, t *Tree) error {
	if _, err := os.Stat(filepath.Join(t.sysfs, "bus", b.name())); err != nil {
		return nil // no Xen
	}
	c, err := b.store()
	if errors.Is(err, xenstore.ErrNoXen) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	kinds, err := list(c, "device")
	if err != nil {
		return err
	}
	var errs []error
	for _, kind := range kinds {
		ids, err := list(c, "device/"+kind)
		errs = append(errs, err)
		for _, id := range ids {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := os.Lstat(filepath.Join(t.sysfs, "bus", b.name(), "devices", kind+"-"+id)); err == nil {
				continue
			}
			errs = append(errs, touch(c, "device/"+kind+"/"+id+"/state"))
		}
	}
	return errors.Join(errs...)
}

// list returns the nodes below a node, none where that is missing.
func list(c *xenstore.Conn, node string) ([]string, error) {
	names, err := c.List(node)
	if errors.Is(err, xenstore.ErrNoEntry) {
		return nil, nil
	}
	slices.Sort(names)
	return names, err
}

// touch writes a node's own value into it. One that is missing is no front end's:
// "device/suspend" has the kernel's event channel.
func touch(c *xenstore.Conn, node string) error {
	value, err := c.Read(node)
	if errors.Is(err, xenstore.ErrNoEntry) {
		return nil
	}
	if err == nil {
		err = c.Write(node, value)
	}
	if err != nil {
		return fmt.Errorf("touch %s: %w", node, err)
	}
	return nil
}

// remove takes the device from its driver. The bus has no removal: see describe.
func (xenBus) remove(ctx context.Context, t *Tree, dev Device) error {
	if err := t.forgotten(dev); err != nil {
		return err
	}
	return t.Unbind(ctx, dev)
}
