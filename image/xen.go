// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/image/machine"
)

// XenKind is a kind of Xen's guests, as xl.cfg(5) calls it.
type XenKind string

// The kinds that an image boots as. Devices can be passed through to HVM and PV guests
// (Xen's SUPPORT.md).
const (
	XenHVM XenKind = "hvm"
	XenPV  XenKind = "pv"
	XenPVH XenKind = "pvh"
)

var xenKinds = []XenKind{XenHVM, XenPV, XenPVH}

// File is the name of the domain configuration for the image of that name.
func (k XenKind) File(name string) string {
	if k == XenHVM {
		return name + ".xl.cfg"
	}
	return name + "." + string(k) + ".xl.cfg"
}

// Cmdline is what the kernel of a guest of that kind is told, with cmdline that of the
// image in QEMU. HVM guests have a serial line, and do not know that they are Xen's.
func (k XenKind) Cmdline(cmdline string) string {
	if k == XenHVM {
		return cmdline + " xen_nopv"
	}
	words := strings.Fields(cmdline)
	for i, w := range words {
		if w == serialConsole {
			words[i] = "console=hvc0"
		}
	}
	return strings.Join(words, " ")
}

// XenCtl is the unix socket on a Xen host that leads to the agent of the guest of that
// name.
func XenCtl(name string) string { return "/run/xen/umbra-" + name + ".ctl" }

// XenChannels are the channels of xl.cfg(5) of a PV or PVH guest; the last one is the port
// to its agent. The one before it is there for what it takes: xl of Xen 4.17 gives the
// first channel the number of the guest's console, which then replaces it
// (tools/xl/xl_parse.c: ARRAY_EXTEND_INIT sets devid).
func XenChannels(name string) []string {
	return []string{
		"connection=pty,name=" + machine.CtlPort + ".unused",
		"connection=socket,name=" + machine.CtlPort + ",path=" + XenCtl(name),
	}
}

// xlConfig returns a domain configuration for xl, with direct kernel boot.
func (b *Bundle) xlConfig(kind XenKind) []byte {
	var s strings.Builder
	file := kind.File(b.Name)
	fmt.Fprintf(&s, `# xl.cfg(5) for %[1]s (Linux %[2]s). Start it where this file lies:
#   xl create -c %[3]s
# or make the two paths absolute.
#
%[4]s
name    = "%[1]s"
type    = "%[5]s"
kernel  = "%[6]s"
ramdisk = "%[7]s"
`, b.Name, b.Kernel.Release, file, xenKindText[kind], kind, KernelFile, b.Initramfs)
	if kind == XenHVM {
		s.WriteString("# With xen_nopv the guest does not know that it is one of Xen's: \"xl save\" stops it\n" +
			"# without its help, its devices in use. Without it they have to be given back before.\n")
	}
	fmt.Fprintf(&s, "cmdline = %q\nmemory  = %d\nvcpus   = %d\n", kind.Cmdline(b.Cmdline), b.Machine.MemoryMB, b.Machine.CPUs)
	if kind == XenHVM {
		s.WriteString("serial  = \"pty\"\nvga     = \"none\"\nvnc     = 0\n")
	}
	s.WriteString("\n# The port to the agent in the guest.\n")
	if kind == XenHVM {
		fmt.Fprintf(&s, "device_model_args_hvm = %s\n", XLList(machine.Machine{Ctl: XenCtl(b.Name)}.CtlArgs()))
	} else {
		fmt.Fprintf(&s, "channel = %s\n", XLList(XenChannels(b.Name)))
	}
	s.WriteString("\n# The guest ends when its kernel panics.\non_reboot = \"restart\"\non_crash  = \"destroy\"\n")
	s.WriteString(b.xlDevices(kind))
	return []byte(s.String())
}

// xenKindText says what a kind is for.
var xenKindText = map[XenKind]string{
	XenHVM: `# An HVM guest: devices can be passed through, and it is moved with them in use.`,
	XenPV: `# A PV guest: devices can be passed through. It is moved with them in use if Xen is patched
# and umbra helps, else unplugged before; its kernel takes part in that.`,
	XenPVH: `# A PVH guest: Xen 4.17 passes no devices through to one. It is moved with a paravirtual
# network card; its kernel takes part in that.`,
}

// xlDevices are the lines for the network cards of a guest of that kind.
func (b *Bundle) xlDevices(kind XenKind) string {
	var s strings.Builder
	if kind != XenPVH {
		slot := map[XenKind]string{XenHVM: "@6"}[kind]
		pci := `#pci = [ "0000:03:10.0` + slot + `,seize=1" ]`
		if len(b.Machine.Hostdevs) > 0 {
			var list []string
			for _, address := range b.Machine.Hostdevs {
				list = append(list, address+",seize=1")
			}
			pci = "pci = " + XLList(list)
		}
		s.WriteString("\n# The direct-access device, as \"xl pci-assignable-list\" names it")
		if kind == XenHVM {
			s.WriteString(", and after the @ its\n# slot in the guest. Both may be others on every host: \"xl restore OTHER.xl.cfg FILE\"\n" +
				"# brings the destination's line.\n")
		} else {
			s.WriteString(".\n" + b.lacks("xen_pcifront", "xen-pci"))
		}
		s.WriteString(pci + "\n")
		if kind == XenPV {
			s.WriteString("# For \"xl pci-attach\" to a guest that has begun without one:\n" +
				"#passthrough = \"enabled\"\n#e820_host = 1\n")
		}
	}
	s.WriteString("\n# A paravirtual network card on a bridge of dom0")
	if kind == XenHVM {
		s.WriteString(", for a guest without xen_nopv")
	}
	s.WriteString(".\n" + b.lacks("xen_netfront", "xen-net") + "#vif = [ \"type=vif,bridge=xenbr0\" ]\n")
	return s.String()
}

// lacks says so if the image has not the driver of a front end, which a class of drivers
// has.
func (b *Bundle) lacks(module, class string) string {
	if slices.Contains(b.Modules, module) {
		return ""
	}
	return fmt.Sprintf("# The image has no %s: build it with classes = [%q] for this.\n", strings.ReplaceAll(module, "_", "-"), class)
}

// XLList writes a list as xl.cfg(5) has it.
func XLList(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strconv.Quote(s)
	}
	return "[ " + strings.Join(out, ", ") + " ]"
}
