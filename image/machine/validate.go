// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package machine

import (
	"fmt"
	"strconv"
	"strings"
)

// validate finds what QEMU would refuse late, or would misread.
func (m Machine) validate() error {
	if m.Kernel == "" {
		return fmt.Errorf("Kernel: missing")
	}
	if m.Type != "" && m.Type != PC && m.Type != Q35 {
		return fmt.Errorf("Type: %q: want %s or %s", m.Type, PC, Q35)
	}
	if m.MemoryMB < 0 || m.CPUs < 0 {
		return fmt.Errorf("MemoryMB, CPUs: %d, %d: negative", m.MemoryMB, m.CPUs)
	}
	if m.ICount != nil && (*m.ICount < 0 || *m.ICount > 10) {
		return fmt.Errorf("ICount: %d: want 0 to 10", *m.ICount)
	}
	if m.GenerationID != "" && !guidPattern.MatchString(m.GenerationID) {
		return fmt.Errorf("GenerationID: %q: want a GUID or auto", m.GenerationID)
	}
	for _, s := range []struct{ field, path string }{{"QMP", m.QMP}, {"Ctl", m.Ctl}} {
		if err := checkSocket(s.path); err != nil {
			return fmt.Errorf("%s: %w", s.field, err)
		}
	}
	switch m.Console.Kind {
	case ToNull, ToStdio:
	case ToSocket:
		if err := checkSocket(m.Console.Path); err != nil {
			return fmt.Errorf("Console: %w", err)
		}
		fallthrough
	case ToFile:
		if m.Console.Path == "" {
			return fmt.Errorf("Console: missing path")
		}
	default:
		return fmt.Errorf("Console: no such kind %d", m.Console.Kind)
	}
	ids := map[string]string{"ctl0": "the control port", "vmgenid0": "the generation id"}
	for i, p := range m.Ports {
		field := "Ports[" + strconv.Itoa(i) + "]"
		if m.Type != Q35 {
			return fmt.Errorf("%s: machine type %s has no PCI Express", field, or(m.Type, PC))
		}
		if err := checkDevice(ids, field, p.ID, p.Address); err != nil {
			return err
		}
	}
	return m.validateNICs(ids)
}

func (m Machine) validateNICs(ids map[string]string) error {
	for i, n := range m.NICs {
		field := "NICs[" + strconv.Itoa(i) + "]"
		if err := checkDevice(ids, field, n.ID, n.Address); err != nil {
			return err
		}
		if !modelPattern.MatchString(n.Model) {
			return fmt.Errorf("%s.Model: %q: want the name of a QEMU device", field, n.Model)
		}
		if n.Bus != "" && !idPattern.MatchString(n.Bus) {
			return fmt.Errorf("%s.Bus: %q: not a bus name", field, n.Bus)
		}
		if n.MAC != "" && !macPattern.MatchString(n.MAC) {
			return fmt.Errorf("%s.MAC: %q: want six hex bytes with colons", field, n.MAC)
		}
		for option := range strings.SplitSeq(n.Netdev, ",") {
			if strings.HasPrefix(option, "id=") {
				return fmt.Errorf("%s.Netdev: %q: the id is not the caller's to choose", field, n.Netdev)
			}
		}
		if m.Ctl != "" && n.Bus == "" && addr(n.Address) == ",addr="+CtlSlot {
			return fmt.Errorf("%s.Address: slot %s is the control port's", field, CtlSlot)
		}
	}
	return nil
}

func checkDevice(ids map[string]string, field, id, address string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("%s.ID: %q: want a letter, then letters, digits and . _ -", field, id)
	}
	if other, dup := ids[id]; dup {
		return fmt.Errorf("%s.ID: %q: already the id of %s", field, id, other)
	}
	ids[id] = field
	if address == "" {
		return nil
	}
	if !addressPattern.MatchString(address) {
		return fmt.Errorf("%s.Address: %q: want slot or slot.function", field, address)
	}
	slot, _, _ := strings.Cut(address, ".")
	if n, _ := strconv.ParseUint(strings.TrimPrefix(slot, "0x"), base(slot), 8); n > 31 {
		return fmt.Errorf("%s.Address: %q: a bus has slots 0 to 31", field, address)
	}
	return nil
}

func checkSocket(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("%q: the path of a unix socket has at most %d bytes, this has %d", path, maxSocketPath, len(path))
	}
	return nil
}
