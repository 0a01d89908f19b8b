// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package machine describes one QEMU virtual machine as data and turns it into
// QEMU's command line.
//
// The command line obeys what a migration between unlike machines needs: no
// default devices, no option ROMs (their RAM blocks would have to exist on
// both sides), the control port always in the same slot. The package must
// never know what runs in the machine, nor start, watch or talk to QEMU.
package machine

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Program is the name of the QEMU binary that understands [Machine.Args].
const Program = "qemu-system-x86_64"

// CtlPort is the name of the virtio-serial port between host and guest. The
// guest finds it in /sys/class/virtio-ports/*/name.
const CtlPort = "org.umbra.ctl"

// CtlSlot is the PCI slot of the virtio-serial controller. It is fixed, so
// that the device sits at the same place on both sides of a migration, and
// leaves the slots 2 to 6 to NICs.
const CtlSlot = "0x7"

// Direct is the prefix of the IDs of devices with direct access to hardware,
// which no migration carries to another host: direct-net0 serves role net0.
const Direct = "direct-"

// ErrInvalid is matched by every error of [Machine.Args].
var ErrInvalid = errors.New("invalid machine")

// Type is a QEMU machine type.
type Type string

// The machine types umbra is tested on. The empty Type means PC.
const (
	PC  Type = "pc"  // i440FX, ACPI hot-plug
	Q35 Type = "q35" // PCI Express
)

// Machine is a virtual machine.
type Machine struct {
	Name string // for the process list, optional

	// Disk, raw or by its suffix qcow2, or CD is what the firmware boots from, without
	// Kernel, Initrd and Cmdline. It hangs on the chipset's own controller, which takes
	// no slot; what is written to it is lost with the machine, unless it is kept.
	Disk, CD string

	// Keep keeps what is written to Disk, and has the machine start again when the guest
	// reboots, instead of ending.
	Keep bool

	// Firmware is the path of an UEFI firmware, code and variables in one file.
	// Default: QEMU's BIOS.
	Firmware string

	Kernel  string // bzImage
	Initrd  string // optional
	Cmdline string // appended to nothing: the caller gives all of it

	MemoryMB int // default 256
	CPUs     int // default 1

	Type Type

	// Accel are the accelerators to try, in order. Default: tcg alone, which
	// needs no privilege and behaves alike everywhere.
	Accel []string

	// CPU is the CPU model, qemu64 by default: the least that every host and
	// accelerator offers, as both sides of a migration must agree on it.
	CPU string

	// Ports are PCI Express root ports, Q35 only; a NIC is plugged into one
	// by its Bus.
	Ports []RootPort
	NICs  []NIC

	Console Chardev // first serial port, ttyS0 in the guest

	QMP string // path of the QMP server's unix socket, optional
	Ctl string // path of the control port's unix socket, optional

	// GenerationID is the GUID of the VM generation id device, "auto" for a
	// random one, empty for no device.
	GenerationID string

	// Config is the path of a document for [Document], optional.
	Config string

	// Incoming makes the machine wait for a migration: "unix:PATH" or "defer".
	Incoming string

	// ICount makes an instruction take 2^ICount virtual nanoseconds instead
	// of host time, so that instruction counts are repeatable. TCG only.
	ICount *int

	Extra []string // further arguments, as they are
}

// RootPort is a PCI Express slot into which one device can be (hot-)plugged.
type RootPort struct {
	ID      string
	Address string // slot on the root bus, see NIC.Address
}

// NIC is a network card and what it is connected to.
type NIC struct {
	ID    string // QEMU device id; Direct + role for a direct-access device
	Model string // QEMU device name: e1000, e1000e, rtl8139, virtio-net-pci …
	// Address is slot or slot.function on the bus, "2", "0x5" or "5.0".
	// Empty: QEMU takes the first free one.
	Address string
	Bus     string // PCI bus, the root bus by default
	MAC     string

	// Netdev is QEMU's back end without its id, "user" or
	// "stream,server=off,addr.type=unix,addr.path=/tmp/s". Empty: no cable.
	Netdev string
}

// Chardev is the host's end of a serial port.
type Chardev struct {
	Kind ChardevKind
	Path string // of ToFile and ToSocket
}

// ChardevKind says what a Chardev is.
type ChardevKind int

// The kinds of host ends.
const (
	ToNull   ChardevKind = iota // what is written is lost, nothing is ever read
	ToStdio                     // QEMU's stdin and stdout; Ctrl-A X ends QEMU, Ctrl-C goes to the guest
	ToFile                      // appended to Path
	ToSocket                    // QEMU listens on unix socket Path and does not wait for a client
)

var (
	idPattern      = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`) // QEMU: util/id.c, id_wellformed
	modelPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	addressPattern = regexp.MustCompile(`^(0x[0-9a-fA-F]{1,2}|[0-9]{1,2})(\.[0-7])?$`)
	macPattern     = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
	guidPattern    = regexp.MustCompile(`^(auto|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$`)
)

// maxSocketPath is what fits into sockaddr_un.sun_path with its NUL (unix(7)).
const maxSocketPath = 107

// Args returns the arguments for [Program]. It never starts anything; the same
// machine gives the same arguments. Errors match [ErrInvalid] and name the
// field at fault.
func (m Machine) Args() ([]string, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	a := new(args)
	if m.Name != "" {
		a.add("-name", escape(m.Name))
	}
	a.add("-nodefaults", "-no-user-config", "-display", "none")
	if !m.Keep {
		a.add("-no-reboot")
	}
	a.add("-machine", string(or(m.Type, PC)))
	for _, accel := range m.accel() {
		a.add("-accel", accel)
	}
	a.add("-cpu", or(m.CPU, "qemu64"), "-m", ramSize(or(m.MemoryMB, 256)), "-smp", strconv.Itoa(or(m.CPUs, 1)))
	if m.ICount != nil {
		a.add("-icount", "shift="+strconv.Itoa(*m.ICount))
	}
	a.boot(m)
	a.console(m.Console)
	if m.QMP != "" {
		a.add("-chardev", socketServer("qmp", m.QMP), "-mon", "chardev=qmp,mode=control")
	}
	a.add(m.CtlArgs()...)
	if m.Config != "" {
		a.add("-fw_cfg", Document(m.Config))
	}
	if m.GenerationID != "" {
		a.add("-device", "vmgenid,id=vmgenid0,guid="+m.GenerationID)
	}
	for i, p := range m.Ports {
		a.add("-device", fmt.Sprintf("pcie-root-port,id=%s,chassis=%d%s", p.ID, i+1, addr(p.Address)))
	}
	for _, n := range m.NICs {
		a.nic(n)
	}
	if m.Incoming != "" {
		a.add("-incoming", m.Incoming)
	}
	a.add(m.Extra...)
	return a.list, nil
}

// CtlArgs are those of the arguments that make the control port, none without one.
// They are also those of the device model of a Xen guest.
func (m Machine) CtlArgs() []string {
	if m.Ctl == "" {
		return nil
	}
	return []string{
		"-device", "virtio-serial-pci,id=ctl0,addr=" + CtlSlot,
		"-chardev", socketServer("ctl", m.Ctl),
		"-device", "virtserialport,bus=ctl0.0,nr=1,chardev=ctl,name=" + CtlPort,
	}
}

// Document is the value of -fw_cfg that gives the guest what is configured at deploy
// time, from the file at path.
func Document(path string) string { return "name=opt/org.umbra/config,file=" + escape(path) }

// Netdev is the id of the back end of the NIC with that id, as a hot-plug of
// the NIC needs it.
func Netdev(nic string) string { return "nd-" + nic }

// DeviceOptions returns the -device option of the NIC, which is also what
// device_add takes.
func (n NIC) DeviceOptions() string {
	var b strings.Builder
	b.WriteString(n.Model + ",id=" + n.ID)
	if n.Netdev != "" {
		b.WriteString(",netdev=" + Netdev(n.ID))
	}
	if n.MAC != "" {
		b.WriteString(",mac=" + n.MAC)
	}
	if n.Bus != "" {
		b.WriteString(",bus=" + n.Bus)
	}
	b.WriteString(addr(n.Address))
	// An option ROM is a RAM block of its own, which the other side of a
	// migration would have to have as well.
	b.WriteString(",romfile=")
	return b.String()
}

// ramSize is the value of -m for so many MiB: 8 KiB less, the smallest amount
// that QEMU does not round, so that the size is no multiple of 256 KiB.
//
// For a block of RAM whose size is one, QEMU before 9.0 takes a short cut in
// reading which pages were written to (include/exec/ram_addr.h,
// cpu_physical_memory_sync_dirty_bitmap). It clears the marks and leaves TCG's
// TLB entries that say "marked already", so that writes after it are not
// marked, not sent, and lost by a live migration. Both ends of a migration need
// the same size, so it does not depend on the accelerator.
func ramSize(mb int) string { return strconv.Itoa(mb<<10-8) + "k" }

type args struct{ list []string }

func (a *args) add(s ...string) { a.list = append(a.list, s...) }

// BackEndOptions returns the -netdev option of the NIC, "" if it has no cable.
func (n NIC) BackEndOptions() string {
	if n.Netdev == "" {
		return ""
	}
	kind, rest, more := strings.Cut(n.Netdev, ",")
	option := kind + ",id=" + Netdev(n.ID)
	if more {
		option += "," + rest
	}
	return option
}

func (a *args) nic(n NIC) {
	if o := n.BackEndOptions(); o != "" {
		a.add("-netdev", o)
	}
	a.add("-device", n.DeviceOptions())
}

// boot adds what the machine starts: a kernel, or what is on a medium.
func (a *args) boot(m Machine) {
	if m.Firmware != "" {
		a.add("-bios", m.Firmware)
	}
	if m.Kernel != "" {
		a.add("-kernel", m.Kernel)
	}
	if m.Initrd != "" {
		a.add("-initrd", m.Initrd)
	}
	if m.Cmdline != "" {
		a.add("-append", m.Cmdline)
	}
	if m.Disk != "" {
		snapshot := "on"
		if m.Keep {
			snapshot = "off"
		}
		a.add("-drive", "if=none,id=boot,snapshot="+snapshot+",format="+diskFormat(m.Disk)+",file="+escape(m.Disk), "-device", "ide-hd,drive=boot,bus=ide.0")
	}
	if m.CD != "" {
		a.add("-drive", "if=none,id=boot,read-only=on,format=raw,file="+escape(m.CD), "-device", "ide-cd,drive=boot,bus=ide.0")
	}
}

// diskFormat names the format of a disk, by its file's name: QEMU's guess by content
// would let the guest choose.
func diskFormat(name string) string {
	if strings.HasSuffix(name, ".qcow2") {
		return "qcow2"
	}
	return "raw"
}

func (a *args) console(c Chardev) {
	switch c.Kind {
	case ToNull:
		a.add("-chardev", "null,id=console")
	case ToStdio:
		a.add("-chardev", "stdio,id=console,mux=on,signal=off", "-mon", "chardev=console,mode=readline")
	case ToFile:
		a.add("-chardev", "file,id=console,append=on,path="+escape(c.Path))
	case ToSocket:
		a.add("-chardev", socketServer("console", c.Path))
	}
	a.add("-serial", "chardev:console")
}

func socketServer(id, path string) string {
	return "socket,id=" + id + ",server=on,wait=off,path=" + escape(path)
}

// escape doubles commas, QEMU's way of having one inside an option's value.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func addr(address string) string {
	if address == "" {
		return ""
	}
	slot, function, multi := strings.Cut(address, ".")
	n, err := strconv.ParseUint(strings.TrimPrefix(slot, "0x"), base(slot), 8)
	if err != nil {
		return ",addr=" + address // validate has refused it
	}
	out := fmt.Sprintf(",addr=0x%x", n)
	if multi {
		out += "." + function
	}
	return out
}

func base(slot string) int {
	if strings.HasPrefix(slot, "0x") {
		return 16
	}
	return 10
}

func (m Machine) accel() []string {
	if len(m.Accel) == 0 {
		return []string{"tcg"}
	}
	return m.Accel
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
