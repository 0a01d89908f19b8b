// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package pci

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// An Address names a PCI function: segment (domain), bus, device (slot) and
// function.
type Address struct {
	Domain   uint32
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParseAddress reads the form the kernel uses in sysfs, "0000:00:02.0". The
// domain has four digits or more: Intel VMD's begin at 10000.
func ParseAddress(s string) (Address, error) {
	bad := fmt.Errorf("pci: %q is not an address of the form 0000:00:02.0", s)
	domain, rest, ok1 := strings.Cut(s, ":")
	bus, rest, ok2 := strings.Cut(rest, ":")
	dev, fn, ok3 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || !ok3 || len(domain) < 4 || len(bus) != 2 || len(dev) != 2 || len(fn) != 1 {
		return Address{}, bad
	}
	var n [4]uint64
	for i, part := range []struct {
		text string
		bits int
	}{{domain, 32}, {bus, 8}, {dev, 5}, {fn, 3}} {
		v, err := strconv.ParseUint(part.text, 16, part.bits)
		if err != nil {
			return Address{}, bad
		}
		n[i] = v
	}
	return Address{uint32(n[0]), uint8(n[1]), uint8(n[2]), uint8(n[3])}, nil
}

func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%d", a.Domain, a.Bus, a.Device, a.Function)
}

// Compare orders addresses as the kernel scans them.
func (a Address) Compare(b Address) int {
	return cmp.Or(
		cmp.Compare(a.Domain, b.Domain),
		cmp.Compare(a.Bus, b.Bus),
		cmp.Compare(a.Device, b.Device),
		cmp.Compare(a.Function, b.Function),
	)
}
