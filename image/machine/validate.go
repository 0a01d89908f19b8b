// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package machine

import (
	"fmt"
	"strconv"
	"strings"
)

// field makes the error about a field of a Machine.
func field(name, format string, args ...any) error {
	return fmt.Errorf(name+": "+format, args...)
}

// validate finds what QEMU would refuse late, or would misread.
func (m Machine) validate() error {
	switch given := count(m.Kernel, m.Disk, m.CD); {
	case given == 0:
		return field("Kernel", "missing, and neither Disk nor CD is given")
	case given > 1:
		return field("Kernel, Disk, CD", "want one of them")
	case m.Kernel == "" && count(m.Initrd, m.Cmdline) > 0:
		return field("Initrd, Cmdline", "they are Kernel's")
	case m.Keep && m.Disk == "":
		return field("Keep", "there is no Disk to keep")
	}
	if m.Type != "" && m.Type != PC && m.Type != Q35 {
		return field("Type", "%q: want %s or %s", m.Type, PC, Q35)
	}
	if m.MemoryMB < 0 || m.CPUs < 0 {
		return field("MemoryMB, CPUs", "%d, %d: negative", m.MemoryMB, m.CPUs)
	}
	if m.ICount != nil && (*m.ICount < 0 || *m.ICount > 10) {
		return field("ICount", "%d: want 0 to 10", *m.ICount)
	}
	if m.GenerationID != "" && !guidPattern.MatchString(m.GenerationID) {
		return field("GenerationID", "%q: want a GUID or auto", m.GenerationID)
	}
	for _, s := range []struct{ field, path string }{{"QMP", m.QMP}, {"Ctl", m.Ctl}} {
		if err := checkSocket(s.path); err != nil {
			return field(s.field, "%w", err)
		}
	}
	switch m.Console.Kind {
	case ToNull, ToStdio:
	case ToSocket:
		if err := checkSocket(m.Console.Path); err != nil {
			return field("Console", "%w", err)
		}
		fallthrough
	case ToFile:
		if m.Console.Path == "" {
			return field("Console", "missing path")
		}
	default:
		return field("Console", "no such kind %d", m.Console.Kind)
	}
	ids := map[string]string{"ctl0": "the control port", "vmgenid0": "the generation id"}
	for i, p := range m.Ports {
		name := "Ports[" + strconv.Itoa(i) + "]"
		if m.Type != Q35 {
			return field(name, "machine type %s has no PCI Express", or(m.Type, PC))
		}
		if err := checkDevice(ids, name, p.ID, p.Address); err != nil {
			return err
		}
	}
	return m.validateNICs(ids)
}

// count returns how many of the values are given.
func count(values ...string) (n int) {
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}

func (m Machine) validateNICs(ids map[string]string) error {
	for i, n := range m.NICs {
		name := "NICs[" + strconv.Itoa(i) + "]"
		if err := checkDevice(ids, name, n.ID, n.Address); err != nil {
			return err
		}
		if !modelPattern.MatchString(n.Model) {
			return field(name+".Model", "%q: want the name of a QEMU device", n.Model)
		}
		if n.Bus != "" && !idPattern.MatchString(n.Bus) {
			return field(name+".Bus", "%q: not a bus name", n.Bus)
		}
		if n.MAC != "" && !macPattern.MatchString(n.MAC) {
			return field(name+".MAC", "%q: want six hex bytes with colons", n.MAC)
		}
		for option := range strings.SplitSeq(n.Netdev, ",") {
			if strings.HasPrefix(option, "id=") {
				return field(name+".Netdev", "%q: the id is not the caller's to choose", n.Netdev)
			}
		}
		if m.Ctl != "" && n.Bus == "" && addr(n.Address) == ",addr="+CtlSlot {
			return field(name+".Address", "slot %s is the control port's", CtlSlot)
		}
	}
	return nil
}

func checkDevice(ids map[string]string, name, id, address string) error {
	if !idPattern.MatchString(id) {
		return field(name+".ID", "%q: want a letter, then letters, digits and . _ -", id)
	}
	if other, dup := ids[id]; dup {
		return field(name+".ID", "%q: already the id of %s", id, other)
	}
	ids[id] = name
	if address == "" {
		return nil
	}
	if !addressPattern.MatchString(address) {
		return field(name+".Address", "%q: want slot or slot.function", address)
	}
	slot, _, _ := strings.Cut(address, ".")
	if n, _ := strconv.ParseUint(strings.TrimPrefix(slot, "0x"), base(slot), 8); n > 31 {
		return field(name+".Address", "%q: a bus has slots 0 to 31", address)
	}
	return nil
}

func checkSocket(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("%q: the path of a unix socket has at most %d bytes, this has %d", path, maxSocketPath, len(path))
	}
	return nil
}
