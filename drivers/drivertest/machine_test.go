// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivertest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/drivers/pci"
)

var (
	nic = drivertest.Function{
		Address: "0000:00:02.0",
		IDs:     pci.IDs{Vendor: 0x8086, Device: 0x100e},
		Class:   0x020000,
		BARs:    []drivertest.BAR{drivertest.Memory, drivertest.IO},
	}
	library = drivertest.Module{Name: "mii"}
	driver  = drivertest.Module{
		Name:    "e1000",
		Needs:   []string{"mii"},
		Aliases: []string{"pci:v00008086d0000100Esv*sd*bc*sc*i*"},
		Driver:  drivertest.Driver{Name: "e1000", Class: "net"},
	}
	other = drivertest.Module{
		Name:    "other",
		Aliases: []string{"pci:v00001234d*sv*sd*bc*sc*i*"},
		Driver:  drivertest.Driver{Name: "other"},
	}
)

// How a program is tested that uses package drivers: here one that gives the
// only device its driver and notices when the device has gone.
func TestMachine(t *testing.T) {
	m := drivertest.New(t)
	m.AddModule(library)
	m.AddModule(driver)
	m.Plug(nic)
	tree := m.Tree()
	if err := tree.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}

	devices, err := tree.Scan(t.Context())
	if err != nil || len(devices) != 1 {
		t.Fatalf("devices %v, error %v", devices, err)
	}
	dev, err := tree.Load(t.Context(), devices[0])
	if err != nil {
		t.Fatal(err)
	}
	m.Pull(nic.Address)
	if v, err := tree.Verify(t.Context(), dev); err != nil || v != drivers.Absent {
		t.Errorf("verdict %v, error %v; want absent", v, err)
	}

	want := []string{"add 0000:00:02.0", "load mii", "load e1000", "bind 0000:00:02.0 e1000"}
	if got := m.Events(); !slices.Equal(got, want) {
		t.Errorf("the kernel did %q, want %q", got, want)
	}
}

// The error numbers are those of Linux 6.1 (kernel/module/main.c,
// drivers/base/bus.c).
func TestKernelAnswersAsLinux(t *testing.T) {
	m := drivertest.New(t)
	for _, mod := range []drivertest.Module{library, driver, other} {
		m.AddModule(mod)
	}
	m.Plug(nic)
	sysfs := func(path string) string { return filepath.Join(m.Sysfs(), path) }
	load := func(name string) error {
		f, err := os.Open(filepath.Join(m.Modules(), name+".ko"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return m.InitModule(f, "")
	}
	write := func(path, value string) error { return m.WriteAttr(sysfs(path), value) }
	const dev = "devices/pci0000:00/0000:00:02.0/"
	for _, step := range []struct {
		rule string
		err  error
		want error
	}{
		{"unload a module that is not loaded", m.DeleteModule("e1000"), unix.ENOENT},
		{"load a module before what it needs", load("e1000"), unix.ENOENT},
		{"load what it needs", load("mii"), nil},
		{"load it", load("e1000"), nil},
		{"load it again", load("e1000"), unix.EEXIST},
		{"unload what it needs", m.DeleteModule("mii"), unix.EWOULDBLOCK},
		{"remove a device that is not known", write(dev+"remove", "1"), unix.ENOENT},
		{"rescan", write("bus/pci/rescan", "1"), nil},
		{"bind a driver that is not there", write("bus/pci/drivers/other/bind", nic.Address), unix.ENOENT},
		{"load another driver", load("other"), nil},
		{"bind a driver for other ids", write("bus/pci/drivers/other/bind", nic.Address), unix.ENODEV},
		{"bind a device that is bound", write("bus/pci/drivers/e1000/bind", nic.Address), unix.EBUSY},
		{"bind a device that is not there", write("bus/pci/drivers/e1000/bind", "0000:00:03.0"), unix.ENODEV},
		{"probe a device that is not there", write("bus/pci/drivers_probe", "0000:00:03.0"), unix.ENODEV},
		{"unload a module whose driver has a device", m.DeleteModule("e1000"), nil},
		{"unload what it needed", m.DeleteModule("mii"), nil},
	} {
		if !errors.Is(step.err, step.want) {
			t.Errorf("%s: %v, want %v", step.rule, step.err, step.want)
		}
	}
	if _, err := os.Stat(sysfs("class/net/eth0")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the class device of a driver that has gone: %v", err)
	}
}
