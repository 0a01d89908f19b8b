// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// cardTime is how long a card may take to answer after its slot was given power: a
// second until the link is up (PCI Express 4.0, 6.7.3.3), and a tenth of one from
// then until configuration space may be read (6.6.1).
const cardTime = 1100 * time.Millisecond

// A litSlot is a slot that PowerOn has given power.
type litSlot struct {
	dev   Device // the port
	since time.Time
}

// PowerOn gives power to the hot-plug slots that have none and in which neither
// their port nor the kernel knows of a card, and returns the addresses of their
// ports. What Rescan finds then would have been hidden from it.
//
// That is of use after a migration alone: the state of a port comes from the old
// host, so a port that was empty there hides the card that is in it here (QEMU
// since 7.0 does that). Otherwise a port knows its card, and whoever is in charge
// of hot-plug gives it power. The slots that stay empty are to lose their power
// again: the kernel's hot-plug driver takes one that has power for one that is in
// use (drivers/pci/hotplug/pciehp_ctrl.c, __pciehp_enable_slot). See WaitPower and
// SettlePower.
func (t *Tree) PowerOn(ctx context.Context) ([]string, error) {
	t.power.Lock()
	defer t.power.Unlock()
	dir := filepath.Join(t.sysfs, "bus", "pci", "devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &OpError{"power on slots of", "pci", err}
	}
	var (
		ports []string
		errs  []error
	)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return ports, errors.Join(append(errs, &OpError{"power on slots of", "pci", err})...)
		}
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // it has just gone
		}
		dev := Device{Bus: "pci", Address: e.Name(), Path: filepath.Join(dir, to)}
		switch lit, err := t.light(ctx, dev); {
		case err != nil && t.exists(dev):
			errs = append(errs, &OpError{"power on the slot of", dev.String(), err})
		case err == nil && lit:
			ports = append(ports, dev.Address)
		}
	}
	return ports, errors.Join(errs...)
}

// light gives power to the slot of a port if that is dark, and reports whether it
// now has power to no other end than to be looked at.
func (t *Tree) light(ctx context.Context, port Device) (bool, error) {
	if class, err := pci.ReadClass(port.Path); err != nil || class>>8 != classBridge || below(port) {
		return false, err
	}
	slot, ok, err := pci.ReadSlot(port.Path)
	if err != nil || !ok {
		return false, err
	}
	switch _, ours := t.lit[port.Address]; {
	case slot.Dark():
		if err := t.control(ctx, port, slot, slot.On()); err != nil {
			return false, err
		}
		t.log.Debug("slot powered on to be looked at", "port", port.String())
	case slot.Lit():
		// By this Tree, or by that of a process that was killed over it.
	case !ours || slot.Occupied():
		return false, nil
	}
	t.lit[port.Address] = litSlot{port, time.Now()}
	return true, nil
}

// WaitPower waits until the cards in all slots that PowerOn has given power must
// answer. It reports whether there are such slots.
func (t *Tree) WaitPower(ctx context.Context) (lit bool, err error) {
	for {
		t.power.Lock()
		n, left := len(t.lit), time.Duration(0)
		for _, l := range t.lit {
			left = max(left, cardTime-time.Since(l.since))
		}
		t.power.Unlock()
		if n == 0 || left <= 0 {
			return n > 0, nil
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return true, &OpError{"wait for the power of", "pci", ctx.Err()}
		}
	}
}

// SettlePower takes the power away from the slots that PowerOn gave it to at least
// as long ago as WaitPower waits, and that have stayed empty.
func (t *Tree) SettlePower(ctx context.Context) error {
	t.power.Lock()
	defer t.power.Unlock()
	var errs []error
	for address, l := range t.lit {
		if time.Since(l.since) < cardTime {
			continue // another PowerOn came in between
		}
		if err := t.settle(ctx, l.dev); err != nil && t.exists(l.dev) {
			errs = append(errs, &OpError{"settle the slot of", l.dev.String(), err})
		}
		delete(t.lit, address)
	}
	return errors.Join(errs...)
}

func (t *Tree) settle(ctx context.Context, port Device) error {
	slot, ok, err := pci.ReadSlot(port.Path)
	switch {
	case err != nil || !ok || !slot.Powered():
		return err // somebody else was faster
	case below(port):
		return t.control(ctx, port, slot, slot.InUse())
	case slot.Occupied():
		// A card has come, and with it an event: the rest is up to whom that
		// is for.
		return nil
	}
	return t.control(ctx, port, slot, slot.Off())
}

// control writes the slot control register, and nothing but that: an access to the
// status register beside it would clear events.
func (t *Tree) control(ctx context.Context, port Device, s pci.Slot, value uint16) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.kernel.WriteConfig(filepath.Join(port.Path, "config"), int64(s.Offset), binary.LittleEndian.AppendUint16(nil, value))
}

// classBridge is base class and subclass of a PCI-to-PCI bridge.
const classBridge = 0x0604

// below reports whether the kernel knows a PCI function below a port.
func below(port Device) bool {
	entries, err := os.ReadDir(port.Path)
	if err != nil {
		return false
	}
	for _, e := range entries {
		// Services of the port itself have longer names: "0000:00:02.0:pcie001".
		if _, err := pci.ParseAddress(e.Name()); err == nil {
			return true
		}
	}
	return false
}
