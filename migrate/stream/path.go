// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"fmt"
	"strings"
)

// A Path is where a PCI device sits, as QEMU writes it in section names: the
// slot and function on the root bus, then on each bus behind a bridge. Bus
// numbers are the guest's to choose and no part of it.
type Path struct {
	Domain uint16
	// Bus is the root bus: 0, or the number of a PCI expander bridge.
	Bus   uint8
	Slots []Slot
}

// A Slot is one step of a Path.
type Slot struct {
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParsePath reads the form of String.
func ParsePath(s string) (Path, error) {
	parts := strings.Split(s, ":")
	var p Path
	if len(parts) < 3 {
		return p, fmt.Errorf("PCI path %q: want DOMAIN:BUS:SLOT.FUNCTION", s)
	}
	if _, err := fmt.Sscanf(parts[0]+" "+parts[1], "%4x %2x", &p.Domain, &p.Bus); err != nil {
		return p, fmt.Errorf("PCI path %q: %w", s, err)
	}
	for _, part := range parts[2:] {
		var slot Slot
		if _, err := fmt.Sscanf(part, "%2x.%1x", &slot.Device, &slot.Function); err != nil {
			return p, fmt.Errorf("PCI path %q: %w", s, err)
		}
		p.Slots = append(p.Slots, slot)
	}
	if p.String() != s || !p.valid() {
		return p, fmt.Errorf("PCI path %q: not of the form DOMAIN:BUS:SLOT.FUNCTION[:SLOT.FUNCTION...]", s)
	}
	return p, nil
}

func (p Path) valid() bool {
	for _, s := range p.Slots {
		if s.Device > 31 || s.Function > 7 {
			return false
		}
	}
	return len(p.Slots) > 0
}

// String returns "0000:00:02.0" for slot 2 of the root bus and
// "0000:00:03.0:00.0" for slot 0 behind the bridge in slot 3
// (pcibus_get_dev_path in hw/pci/pci.c).
func (p Path) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%04x:%02x", p.Domain, p.Bus)
	for _, s := range p.Slots {
		fmt.Fprintf(&b, ":%02x.%x", s.Device, s.Function)
	}
	return b.String()
}

// owns reports whether name, of a section or a RAM block, belongs to the device.
func (p Path) owns(name string) bool {
	return strings.HasPrefix(name, p.String()+"/")
}
