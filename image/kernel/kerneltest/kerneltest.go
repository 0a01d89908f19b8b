// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package kerneltest makes kernels, modules and packages that look real enough
// to be selected, indexed and packed, and take milliseconds to do so. They do
// not boot.
package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/drivers/modinfo"
	"github.com/umbra-vm/umbra/image/deb/debtest"
)

// Release is the release of the kernels that New makes.
const Release = "6.1.0-test"

// File is a file of a package.
type File struct {
	Name    string
	Content []byte
}

// New returns the files of a kernel package: a bzImage and modules with the
// names and places that an image needs, e1000 and virtio_net among the drivers.
func New() []File {
	dir := "./lib/modules/" + Release + "/"
	module := func(at, depends string, more ...string) File {
		name := strings.TrimSuffix(path.Base(at), ".ko")
		file := Module(Release, append([]string{"name=" + name, "depends=" + depends}, more...)...)
		return File{dir + at, append(file, modinfo.SignatureMark...)} // signs nothing
	}
	return []File{
		{"./boot/vmlinuz-" + Release, BzImage(Release)},
		{"./boot/System.map-" + Release, []byte("of no use")},
		module("kernel/drivers/net/bonding/bonding.ko", "tls"),
		module("kernel/net/tls/tls.ko", ""),
		module("kernel/drivers/net/tun.ko", "", "alias=devname:net/tun"),
		module("kernel/net/sched/sch_plug.ko", ""),
		module("kernel/drivers/virtio/virtio.ko", ""),
		module("kernel/drivers/virtio/virtio_pci.ko", "virtio", "alias=pci:v00001AF4d*sv*sd*bc*sc*i*"),
		module("kernel/drivers/char/virtio_console.ko", "virtio"),
		module("kernel/drivers/net/ethernet/intel/e1000/e1000.ko", "", "alias=pci:v00008086d0000100Esv*sd*bc*sc*i*"),
		module("kernel/drivers/net/ethernet/other/soc-nic.ko", "", "alias=of:N*T*Csoc,nic"),
		module("kernel/drivers/net/virtio_net.ko", "net_failover", "alias=virtio:d00000001v*"),
		module("kernel/drivers/net/net_failover.ko", "failover"),
		module("kernel/net/core/failover.ko", ""),
		module("kernel/net/8021q/8021q.ko", "", "alias=rtnl-link-vlan"),
		module("kernel/drivers/firmware/qemu_fw_cfg.ko", "", "alias=acpi*:QEMU0002:*"),
		module("kernel/fs/isofs/isofs.ko", "", "alias=fs-iso9660"),
		module("kernel/fs/fat/vfat.ko", "", "alias=fs-vfat"),
		module("kernel/sound/beep.ko", "", "softdep=pre: tun"),
		{dir + "modules.builtin", []byte("kernel/drivers/virt/vmgenid.ko\n")},
		{dir + "modules.order", []byte("kernel/drivers/net/tun.ko\n")},
		{"./usr/share/doc/linux/copyright", []byte("of no use")},
	}
}

// BzImage returns the header of a bzImage of that release
// (Documentation/x86/boot.rst).
func BzImage(release string) []byte {
	b := make([]byte, 0x400)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], release+" (builder@host) #1 SMP")
	return b
}

// Module returns an ELF file whose .modinfo section has the fields, KEY=VALUE,
// and the vermagic of the release.
func Module(release string, fields ...string) []byte {
	fields = append(fields, "vermagic="+release+" SMP preempt mod_unload modversions ")
	info := []byte(strings.Join(fields, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const ehdr, shdr = 64, 64
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err) // v has no fixed size
		}
	}
	put(elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: uint64(ehdr + len(info) + len(names)), Ehsize: ehdr, Shentsize: shdr, Shnum: 3, Shstrndx: 2,
	})
	b.Write(info)
	b.Write(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Off: ehdr, Size: uint64(len(info)), Addralign: 1})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(ehdr + len(info)), Size: uint64(len(names)), Addralign: 1})
	return b.Bytes()
}

// sizeofSignature is the size of struct module_signature, whose last four bytes are the
// length of the signature in front of it (include/linux/module_signature.h).
const sizeofSignature = 12

// Unsigned returns a module without its signature; ok is false if it has none.
func Unsigned(module []byte) (unsigned []byte, ok bool) {
	b, ok := bytes.CutSuffix(module, []byte(modinfo.SignatureMark))
	end := len(b) - sizeofSignature
	if !ok || end < 0 {
		return nil, false
	}
	size := int64(binary.BigEndian.Uint32(b[len(b)-4:]))
	if size > int64(end) {
		return nil, false
	}
	return b[:int64(end)-size], true
}

// Deb returns a Debian package of that name with the files.
func Deb(tb testing.TB, name string, files []File) []byte {
	tb.Helper()
	var members []debtest.File
	for _, f := range files {
		members = append(members, debtest.File{Name: f.Name, Content: string(f.Content)})
	}
	return debtest.Deb(tb, debtest.Control(name), members)
}
