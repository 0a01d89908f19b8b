// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
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

// XenCtl is the unix socket on a Xen host that leads to the agent of the HVM guest
// of that name.
func XenCtl(name string) string { return "/run/xen/umbra-" + name + ".ctl" }

// xlConfig returns a domain configuration for xl: an HVM guest with direct
// kernel boot, as PCI passthrough is security-supported for x86 PV and HVM only
// (Xen's SUPPORT.md), and a note on PV.
func (b *Bundle) xlConfig() []byte {
	vif := ""
	if !slices.Contains(b.Modules, "xen_netfront") {
		vif = "\n# The image has no xen-netfront: build it with classes = [\"xen-net\"] for this."
	}
	pci := `#pci = [ "0000:03:10.0@6,seize=1" ]`
	if len(b.Machine.Hostdevs) > 0 {
		var list []string
		for _, address := range b.Machine.Hostdevs {
			list = append(list, strconv.Quote(address+",seize=1"))
		}
		pci = "pci = [ " + strings.Join(list, ", ") + " ]"
	}
	ctl := machine.Machine{Ctl: XenCtl(b.Name)}.CtlArgs()
	for i, arg := range ctl {
		ctl[i] = strconv.Quote(arg)
	}
	return fmt.Appendf(nil, `# xl.cfg(5) for %[1]s (Linux %[2]s). Start it where this file lies:
#   xl create -c %[1]s.xl.cfg
# or make the two paths absolute.
name    = "%[1]s"
type    = "hvm"
kernel  = "%[3]s"
ramdisk = "%[4]s"
# With xen_nopv the guest does not know that it is one of Xen's: "xl save" stops it
# without its help, its devices in use.
cmdline = "%[5]s xen_nopv"
memory  = %[6]d
vcpus   = %[7]d
serial  = "pty"
vga     = "none"
vnc     = 0

# The port to the agent in the guest.
device_model_args_hvm = [ %[9]s ]

# The guest ends when its kernel panics.
on_reboot = "restart"
on_crash  = "destroy"

# The direct-access device, as "xl pci-assignable-list" names it, and after the @ its
# slot in the guest. Both may be others on every host: "xl restore OTHER.xl.cfg FILE"
# brings the destination's line.
%[10]s

# A paravirtual network card on a bridge of dom0, for a guest without xen_nopv.%[8]s
#vif = [ "bridge=xenbr0" ]

# As a PV guest: type = "pv", no serial line, no device_model_args_hvm, and in cmdline
# console=hvc0 in place of console=ttyS0, without xen_nopv. As a PVH guest it boots,
# but Xen passes no devices through to one.
`, b.Name, b.Kernel.Release, KernelFile, b.Initramfs, b.Cmdline, b.Machine.MemoryMB, b.Machine.CPUs, vif, strings.Join(ctl, ", "), pci)
}
