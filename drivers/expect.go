// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"fmt"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// virtioVendor is that of virtio devices (Virtual I/O Device Specification 1.2, 4.1.2).
const virtioVendor = 0x1af4

// ExpectPCI returns the Device that a scan would find if a function with these ids were
// at the address, as far as Candidates asks for it. It has no Path: it is not there.
func ExpectPCI(address string, ids pci.IDs, class uint32) Device {
	d := Device{Bus: pciBus{}.name(), Address: address, Modalias: pci.Modalias(ids, class), IDs: ids, Class: class}
	if kind := virtioKind(ids); kind != 0 {
		d.Children = []Device{{
			Bus:      "virtio",
			Modalias: fmt.Sprintf("virtio:d%08Xv%08X", kind, ids.SubsystemVendor),
			IDs:      pci.IDs{Vendor: ids.SubsystemVendor, Device: kind},
		}}
	}
	return d
}

// virtioKind returns the type of the virtio device that a function offers, 0 for any
// other (drivers/virtio/virtio_pci_modern_dev.c, vp_modern_probe).
func virtioKind(ids pci.IDs) uint16 {
	const first, modern, last = 0x1000, 0x1040, 0x107f
	switch {
	case ids.Vendor != virtioVendor || ids.Device < first || ids.Device > last:
		return 0
	case ids.Device < modern: // a transitional one
		return ids.SubsystemDevice
	}
	return ids.Device - modern
}

// ExpectFrontend is ExpectPCI for a front end of Xen, such as kind "vif" at "vif-0".
func ExpectFrontend(kind, address string) Device {
	d := Device{Bus: xenBus{}.name(), Address: address, Modalias: "xen:" + kind, Class: unassignedClass}
	if class, ok := frontendClasses[kind]; ok {
		d.Class = class
	}
	return d
}
