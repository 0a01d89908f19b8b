// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"regexp"
	"strings"

	"github.com/umbra-vm/umbra/image/machine"
)

// LibvirtDir is where the domain of the image of that name looks for kernel and
// initramfs: libvirt wants absolute paths, and lets QEMU read there.
func LibvirtDir(name string) string { return "/var/lib/libvirt/images/" + name }

// hostAddress is the address of a PCI device as the host's kernel writes it.
var hostAddress = regexp.MustCompile(`^([0-9a-f]{4}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$`)

// libvirtXML returns a domain for libvirt's QEMU driver: kernel and initramfs
// booted directly, and the host's devices passed through, or without any an emulated
// NIC and a device as a comment.
func (b *Bundle) libvirtXML() []byte {
	dir := LibvirtDir(b.Name)
	var devices strings.Builder
	for i, address := range b.Machine.Hostdevs {
		devices.WriteString(hostdev(address, b.role(i)))
	}
	if len(b.Machine.Hostdevs) == 0 {
		model := b.Machine.NIC
		if model == "virtio-net-pci" {
			model = "virtio" // libvirt's name
		}
		fmt.Fprintf(&devices, `    <!-- In place of the emulated NIC, a device of this host:
%s    -->
    <interface type='network'>
      <source network='default'/>
      <model type='%s'/>
      <rom enabled='no'/>
      <alias name='ua-%s'/>
    </interface>
`, hostdev("0000:03:10.0", b.role(0)), escapeXML(model), b.role(0))
	}
	return fmt.Appendf(nil, `<!-- A domain for %[1]s (Linux %[2]s). Kernel and initramfs have to be where <os> says:
       install -D -t %[3]s %[4]s %[5]s
       virsh define %[1]s.libvirt.xml
     A device that is passed through keeps libvirt from migrating the domain: it is to
     be detached before, and attached on the other host. -->
<domain type='kvm'>
  <name>%[1]s</name>
  <memory unit='MiB'>%[6]d</memory>
  <vcpu>%[7]d</vcpu>
  <os>
    <type arch='x86_64' machine='%[8]s'>hvm</type>
    <kernel>%[3]s/%[4]s</kernel>
    <initrd>%[3]s/%[5]s</initrd>
    <cmdline>%[9]s</cmdline>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <controller type='usb' model='none'/>
    <!-- The port to the agent in the guest. -->
    <controller type='virtio-serial' index='0'>
      <address type='pci' domain='0x0000' bus='0x00' slot='%[10]s' function='0x0'/>
    </controller>
    <channel type='unix'>
      <source mode='bind'/>
      <target type='virtio' name='%[11]s'/>
    </channel>
    <serial type='pty'/>
    <memballoon model='none'/>
%[12]s  </devices>
</domain>
`, b.Name, escapeXML(b.Kernel.Release), dir, KernelFile, b.Initramfs, b.Machine.MemoryMB, b.Machine.CPUs, b.Machine.Type,
		escapeXML(b.Cmdline), machine.CtlSlot, machine.CtlPort, devices.String())
}

// role is what the device with that index is called: by the role that it is for, if
// there is one.
func (b *Bundle) role(i int) string {
	if i < len(b.Roles) {
		return machine.Direct + b.Roles[i]
	}
	return fmt.Sprintf("%sdev%d", machine.Direct, i)
}

// hostdev passes the host's PCI device at that address, which validate has seen,
// through. Its option ROM would
// be of no use.
func hostdev(address, role string) string {
	a := hostAddress.FindStringSubmatch(address)
	return fmt.Sprintf(`    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source>
        <address domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/>
      </source>
      <rom enabled='no'/>
      <alias name='ua-%s'/>
    </hostdev>
`, a[1], a[2], a[3], a[4], role)
}

func escapeXML(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s)) // a Buffer takes everything
	return b.String()
}
