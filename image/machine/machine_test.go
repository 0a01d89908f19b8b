// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package machine_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/machine"
)

func TestArgs(t *testing.T) {
	shift := 0
	for _, tt := range []struct {
		name string
		m    machine.Machine
		want string // one argument a line
	}{
		{"a kernel alone gets the defaults", machine.Machine{Kernel: "vmlinuz"}, `
-nodefaults
-no-user-config
-display
none
-no-reboot
-machine
pc
-accel
tcg
-cpu
qemu64
-m
262136k
-smp
1
-kernel
vmlinuz
-chardev
null,id=console
-serial
chardev:console`},
		{"every field has its argument", machine.Machine{
			Name: "a,b", Kernel: "k", Initrd: "i", Cmdline: "console=ttyS0 quiet", MemoryMB: 512, CPUs: 2, Type: machine.Q35,
			Accel: []string{"kvm", "tcg"}, CPU: "host",
			Ports: []machine.RootPort{{ID: "rp0", Address: "10"}},
			NICs: []machine.NIC{
				{ID: "direct-net0", Model: "e1000e", Bus: "rp0", MAC: "52:54:00:00:00:01", Netdev: "stream,server=off,addr.type=unix,addr.path=/s"},
				{ID: "spare", Model: "virtio-net-pci", Address: "5.1", Netdev: "user"},
				{ID: "loose", Model: "rtl8139", Address: "0x1E"},
			},
			Console:      machine.Chardev{Kind: machine.ToFile, Path: "/tmp/a,b"},
			QMP:          "/q",
			Ctl:          "/c",
			Config:       "/d,e",
			GenerationID: "00112233-4455-6677-8899-aabbccddeeff",
			Incoming:     "defer",
			ICount:       &shift,
			Extra:        []string{"-S"},
		}, `
-name
a,,b
-nodefaults
-no-user-config
-display
none
-no-reboot
-machine
q35
-accel
kvm
-accel
tcg
-cpu
host
-m
524280k
-smp
2
-icount
shift=0
-kernel
k
-initrd
i
-append
console=ttyS0 quiet
-chardev
file,id=console,append=on,path=/tmp/a,,b
-serial
chardev:console
-chardev
socket,id=qmp,server=on,wait=off,path=/q
-mon
chardev=qmp,mode=control
-device
virtio-serial-pci,id=ctl0,addr=0x7
-chardev
socket,id=ctl,server=on,wait=off,path=/c
-device
virtserialport,bus=ctl0.0,nr=1,chardev=ctl,name=org.umbra.ctl
-fw_cfg
name=opt/org.umbra/config,file=/d,,e
-device
vmgenid,id=vmgenid0,guid=00112233-4455-6677-8899-aabbccddeeff
-device
pcie-root-port,id=rp0,chassis=1,addr=0xa
-netdev
stream,id=nd-direct-net0,server=off,addr.type=unix,addr.path=/s
-device
e1000e,id=direct-net0,netdev=nd-direct-net0,mac=52:54:00:00:00:01,bus=rp0,romfile=
-netdev
user,id=nd-spare
-device
virtio-net-pci,id=spare,netdev=nd-spare,addr=0x5.1,romfile=
-device
rtl8139,id=loose,addr=0x1e,romfile=
-incoming
defer
-S`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.m.Args()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(strings.TrimSpace(tt.want), "\n"), got); diff != "" {
				t.Errorf("Args (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMedia(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    machine.Machine
		want string
	}{
		{"a disk is not written to", machine.Machine{Disk: "/d,1.raw"},
			"-drive if=none,id=boot,snapshot=on,format=raw,file=/d,,1.raw -device ide-hd,drive=boot,bus=ide.0"},
		{"unless it is kept", machine.Machine{Disk: "d.raw", Keep: true},
			"-drive if=none,id=boot,snapshot=off,format=raw,file=d.raw -device ide-hd,drive=boot,bus=ide.0"},
		{"its suffix names QEMU's format", machine.Machine{Disk: "d.qcow2"},
			"-drive if=none,id=boot,snapshot=on,format=qcow2,file=d.qcow2 -device ide-hd,drive=boot,bus=ide.0"},
		{"a CD with a firmware", machine.Machine{CD: "c.iso", Firmware: "fw"},
			"-bios fw -drive if=none,id=boot,read-only=on,format=raw,file=c.iso -device ide-cd,drive=boot,bus=ide.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.m.Args()
			if err != nil {
				t.Fatal(err)
			}
			if args := strings.Join(got, " "); !strings.Contains(args, " "+tt.want+" ") || strings.Contains(args, "-kernel") {
				t.Errorf("args %s\nwant %s", args, tt.want)
			}
		})
	}
}

func TestConsole(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    machine.Chardev
		want string
	}{
		{"stdio keeps Ctrl-C for the guest and can be left", machine.Chardev{Kind: machine.ToStdio}, "stdio,id=console,mux=on,signal=off"},
		{"a socket does not wait for a reader", machine.Chardev{Kind: machine.ToSocket, Path: "/s"}, "socket,id=console,server=on,wait=off,path=/s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := machine.Machine{Kernel: "k", Console: tt.c}.Args()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(got, " "), "-chardev "+tt.want+" ") {
				t.Errorf("no %s in %q", tt.want, got)
			}
		})
	}
}

func TestArgsRefuses(t *testing.T) {
	nic := func(n machine.NIC) machine.Machine {
		return machine.Machine{Kernel: "k", NICs: []machine.NIC{n}}
	}
	eleven := 11
	for _, tt := range []struct {
		name string
		m    machine.Machine
		want string
	}{
		{"no kernel", machine.Machine{}, "Kernel"},
		{"a kernel and a disk", machine.Machine{Kernel: "k", Disk: "d"}, "Kernel, Disk, CD"},
		{"a disk and a CD", machine.Machine{Disk: "d", CD: "c"}, "Kernel, Disk, CD"},
		{"nothing to keep", machine.Machine{CD: "c", Keep: true}, "Keep"},
		{"a command line for no kernel", machine.Machine{Disk: "d", Cmdline: "quiet"}, "Initrd, Cmdline"},
		{"an unknown machine type", machine.Machine{Kernel: "k", Type: "microvm"}, "Type"},
		{"negative memory", machine.Machine{Kernel: "k", MemoryMB: -1}, "MemoryMB"},
		{"an icount shift QEMU has not", machine.Machine{Kernel: "k", ICount: &eleven}, "ICount"},
		{"a generation id that is none", machine.Machine{Kernel: "k", GenerationID: "7"}, "GenerationID"},
		{"a socket path that does not fit", machine.Machine{Kernel: "k", QMP: "/" + strings.Repeat("x", 107)}, "QMP"},
		{"a console file without a path", machine.Machine{Kernel: "k", Console: machine.Chardev{Kind: machine.ToFile}}, "Console"},
		{"a console of no kind", machine.Machine{Kernel: "k", Console: machine.Chardev{Kind: 99}}, "Console"},
		{"a root port without PCI Express", machine.Machine{Kernel: "k", Ports: []machine.RootPort{{ID: "p"}}}, "Ports[0]"},
		{"a NIC without id", nic(machine.NIC{Model: "e1000"}), "NICs[0].ID"},
		{"a NIC without model", nic(machine.NIC{ID: "a"}), "NICs[0].Model"},
		{"a model that brings options", nic(machine.NIC{ID: "a", Model: "e1000,x=y"}), "NICs[0].Model"},
		{"a bus that brings options", nic(machine.NIC{ID: "a", Model: "e1000", Bus: "pci.0,x=y"}), "NICs[0].Bus"},
		{"an address that is none", nic(machine.NIC{ID: "a", Model: "e1000", Address: "x"}), "NICs[0].Address"},
		{"a slot beyond the bus", nic(machine.NIC{ID: "a", Model: "e1000", Address: "32"}), "NICs[0].Address"},
		{"a MAC that is none", nic(machine.NIC{ID: "a", Model: "e1000", MAC: "52"}), "NICs[0].MAC"},
		{"a back end with an id", nic(machine.NIC{ID: "a", Model: "e1000", Netdev: "user,id=x"}), "NICs[0].Netdev"},
		{"the id of the control port", nic(machine.NIC{ID: "ctl0", Model: "e1000"}), "control port"},
		{"the slot of the control port", machine.Machine{Kernel: "k", Ctl: "/c", NICs: []machine.NIC{{ID: "a", Model: "e1000", Address: "7"}}}, "control port"},
		{"two NICs of one id", machine.Machine{Kernel: "k", NICs: []machine.NIC{{ID: "a", Model: "e1000"}, {ID: "a", Model: "e1000"}}}, "NICs[1].ID"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args, err := tt.m.Args()
			if !errors.Is(err, machine.ErrInvalid) {
				t.Fatalf("args %q, error %v; want ErrInvalid", args, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not name %s", err, tt.want)
			}
		})
	}
}
