// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"context"
	"errors"
	"fmt"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// A Verdict is what became of a device the kernel believes in.
type Verdict = pci.Verdict

// The verdicts.
const (
	Unknown  = pci.Unknown  // with an error
	Alive    = pci.Alive    // the device the kernel programmed
	Absent   = pci.Absent   // nothing answers at its address
	Replaced = pci.Replaced // another model answers
	Reset    = pci.Reset    // the same model, but nobody has programmed it yet
)

// Verify reads what answers at the address of dev now and compares it with what
// the kernel believes to be there, and with dev.IDs where they are set. It reads
// configuration space and sysfs, changes nothing, and does not need the driver.
//
// A device that nobody touched is Alive, whatever has been started and given up
// around it; see pci.Compare for what counts. The error is ErrNoDevice when the
// kernel does not know dev any more, or is about to forget it: its files go before
// its directory does (drivers/base/core.c, device_del). It is ErrNotReady when the
// hardware asks for patience, and errors.ErrUnsupported for children, which have no
// hardware of their own: verify the function they belong to.
func (t *Tree) Verify(ctx context.Context, dev Device) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return Unknown, &OpError{"verify", dev.String(), err}
	}
	b, ok := t.bus(dev.Bus)
	if !ok {
		return Unknown, &OpError{"verify", dev.String(), fmt.Errorf("a device on bus %q: %w", dev.Bus, errors.ErrUnsupported)}
	}
	v, reason, err := b.verify(dev)
	if err != nil {
		if isGone(err) {
			err = fmt.Errorf("%w: %w", ErrNoDevice, err)
		}
		return Unknown, &OpError{"verify", dev.String(), err}
	}
	if t.changed(dev, v) && v != Alive {
		t.log.Info("device verified", "device", dev.String(), "verdict", v.String(), "reason", reason)
	}
	return v, nil
}

// changed reports whether the verdict is another than the last one on the device, which
// is asked for again and again.
func (t *Tree) changed(dev Device, v Verdict) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	last, ok := t.told[dev.String()]
	if v == Alive {
		delete(t.told, dev.String())
	} else {
		t.told[dev.String()] = v
	}
	return !ok || last != v
}
