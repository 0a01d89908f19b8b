// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"slices"
	"strings"
)

// Class is a named set of drivers.
type Class struct {
	Name string
	Doc  string

	// Modules are the members of a class that lists them. They are brought
	// into the guest's memory at boot: a short list is meant.
	Modules []string

	// Below and Alias describe a class that is a sweep: every module below
	// one of these directories of the kernel tree with an alias that starts
	// so. Nothing of a sweep is brought into memory before a device asks for
	// it.
	Below []string
	Alias string

	// Drive says that the members are what the guest finds a volume with
	// configuration with. Those that a kernel does not
	// have are left out.
	Drive bool
}

// Classes are the sets that drivers.classes of a description can name.
func Classes() []Class {
	return []Class{
		{
			Name: "qemu-net",
			Doc:  "every NIC that QEMU 7.2 emulates for a PC",
			// hw/net/ of QEMU: e1000, e1000e, rtl8139 (which 8139cp drives and
			// 8139too refuses by its revision; of real cards 8139too drives
			// the older), pcnet, ne2k_pci, tulip, i8255x, vmxnet3, virtio-net.
			Modules: []string{"8139cp", "8139too", "e100", "e1000", "e1000e", "ne2k-pci", "pcnet32", "tulip", "virtio_net", "vmxnet3"},
		},
		{
			Name:    "xen-net",
			Doc:     "the paravirtual NIC of Xen",
			Modules: []string{"xen-netfront"},
		},
		{
			Name:    "xen-pci",
			Doc:     "PCI devices in a PV guest of Xen; beside the classes of the devices",
			Modules: []string{"xen-pcifront"},
		},
		{
			Name:  "net",
			Doc:   "every PCI Ethernet driver of the kernel, virtual functions included; large",
			Below: []string{"kernel/drivers/net/ethernet", "kernel/drivers/net/vmxnet3"},
			Alias: "pci:",
		},
		{
			Name:  "config-drive",
			Doc:   "what a NoCloud volume or an OpenStack config drive is read with: IDE, AHCI, virtio and Xen disks",
			Drive: true,
			// Debian mounts FAT with code page 437 and names in ASCII
			// (CONFIG_FAT_DEFAULT_CODEPAGE, CONFIG_FAT_DEFAULT_IOCHARSET).
			Modules: []string{
				"virtio_pci", "virtio_blk", "virtio_scsi", "ata_piix", "ahci", "xen-blkfront", "sr_mod", "sd_mod",
				"isofs", "nls_cp437", "nls_ascii", "vfat",
			},
		},
	}
}

func classByName(name string) (Class, bool) {
	for _, c := range Classes() {
		if c.Name == name {
			return c, true
		}
	}
	return Class{}, false
}

func classNames() []string {
	var names []string
	for _, c := range Classes() {
		names = append(names, c.Name)
	}
	return names
}

// bootModules are the modules of every image that no device asks for, in the
// order in which the guest loads them: the port to the host first, then what
// the shadows are made of, then the power button.
var bootModules = []struct {
	name     string
	optional bool // another kernel may do without
}{
	{"virtio_pci", true},
	{"virtio_console", true},
	{"bonding", false},
	{"tun", false},
	{"sch_plug", false},
	{"button", true},
	{"evdev", true}, // through which the power button is heard
}

// divertModule keeps the order of what is sent while a proxy's queueing discipline is
// exchanged. A recovery needs it, and nothing before.
const divertModule = "nft_fwd_netdev"

// deployModule is what QEMU's fw_cfg is read with, where the kernel has it as a module.
const deployModule = "qemu_fw_cfg"

// dataFileSystem is the module of the file system of the disk for data.
const dataFileSystem = "ext4"

// slotFileSystem is that of an EFI system partition.
const slotFileSystem = "vfat"

// What disks are found with, and what those for data and those with slots are mounted
// with. Modules that a kernel does not have are left out.
var (
	diskModules = []string{"virtio_pci", "virtio_blk", "virtio_scsi", "ata_piix", "ahci", "nvme", "xen-blkfront", "sd_mod"}
	dataModules = []string{"crc32c_generic", dataFileSystem}         // ext4 asks modprobe for the first when it mounts
	slotModules = []string{"nls_cp437", "nls_ascii", slotFileSystem} // see class config-drive
)

// vlanModule makes the interfaces of VLANs.
const vlanModule = "8021q"

// suggest returns a hint for a name that is not among the known ones: those
// that differ least from it, if they differ by little.
func suggest(name string, known []string) string {
	var nearest []string
	least := 1 + len(name)/5
	for _, k := range known {
		switch d := editDistance(normalize(name), normalize(k)); {
		case d < least:
			nearest, least = []string{k}, d
		case d == least:
			nearest = append(nearest, k)
		}
	}
	if len(nearest) == 0 || len(nearest) > 5 {
		return ""
	}
	slices.Sort(nearest)
	return " (did you mean " + strings.Join(nearest, " or ") + "?)"
}

func normalize(module string) string { return strings.ReplaceAll(module, "-", "_") }

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
