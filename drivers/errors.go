// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"errors"
	"fmt"

	"github.com/umbra-vm/umbra/drivers/kmod"
)

// Errors that callers act on. They come wrapped: use errors.Is.
var (
	// ErrNoDevice: the kernel knows no device at that address.
	ErrNoDevice = errors.New("no such device")
	// ErrNoDriver: no module in the modules directory claims the device.
	ErrNoDriver = errors.New("no module for this device")
	// ErrNotBound: modules claim the device and none of their drivers took it.
	ErrNotBound = errors.New("no driver took the device")
	// ErrNotReady: the device answers that it is not ready yet; ask again.
	ErrNotReady = errors.New("device is not ready")

	// ErrNoModule: no module, and no alias, has that name.
	ErrNoModule = kmod.ErrNoModule
	// ErrCycle: modules.dep says that a module needs itself.
	ErrCycle = kmod.ErrCycle
	// ErrInUse: the module cannot be unloaded now; the text names the holders.
	ErrInUse = kmod.ErrInUse
	// ErrBuiltin: the module is part of the kernel image.
	ErrBuiltin = kmod.ErrBuiltin
	// ErrLoaded: parameters were given for a module that is loaded already.
	ErrLoaded = kmod.ErrLoaded
)

// An OpError is an operation on a device that failed.
type OpError struct {
	Op     string // such as "load", "bind" or "verify"
	Device string // "pci 0000:00:02.0"; a bus only, when a scan failed
	Err    error
}

func (e *OpError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Device, e.Err) }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
