// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/umbra-vm/umbra/image/machine"
)

// script returns run-qemu.sh: the image in a machine of its own, to be read and
// changed.
func (b *Bundle) script() ([]byte, error) {
	m := b.VM()
	m.Kernel, m.Initrd = KernelFile, b.Initramfs
	m.Accel = []string{"$ACCEL"}
	m.Console = machine.Chardev{Kind: machine.ToStdio}
	m.QMP, m.Ctl = "qmp.sock", "ctl.sock"
	m.NICs = []machine.NIC{b.nic()}
	args, err := m.Args()
	if err != nil {
		return nil, err
	}
	var s bytes.Buffer
	fmt.Fprintf(&s, `#!/bin/sh
# Boots %s in QEMU, its NIC a %s on a user-mode network. The console is
# this terminal: Ctrl-A X ends the machine. Further arguments go to QEMU.
# ACCEL=kvm uses hardware virtualization, QEMU another binary.
set -e
cd "$(dirname "$0")"
ACCEL=${ACCEL:-tcg}
rm -f qmp.sock ctl.sock
exec "${QEMU:-%s}"`, b.Name, b.Machine.NIC, machine.Program)
	for i, arg := range args {
		if strings.HasPrefix(arg, "-") || i == 0 {
			s.WriteString(" \\\n  ")
		} else {
			s.WriteByte(' ')
		}
		if arg == "$ACCEL" {
			s.WriteString(`"$ACCEL"`)
		} else {
			s.WriteString(quote(arg))
		}
	}
	s.WriteString(" \\\n  \"$@\"\n")
	return s.Bytes(), nil
}

// nic is the first NIC of a machine for the image: it serves the first role.
func (b *Bundle) nic() machine.NIC {
	id := "nic0"
	if len(b.Roles) > 0 {
		id = machine.Direct + b.Roles[0]
	}
	return machine.NIC{ID: id, Model: b.Machine.NIC, Address: "2", MAC: "52:54:00:12:34:56", Netdev: "user"}
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote makes a word that sh reads as s.
func quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
