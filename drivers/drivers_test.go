// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers_test

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/drivers/pci"
)

// Functions as QEMU presents them.
var (
	e1000 = drivertest.Function{
		Address: "0000:00:02.0",
		IDs:     pci.IDs{Vendor: 0x8086, Device: 0x100e, SubsystemVendor: 0x1af4, SubsystemDevice: 0x1100, Revision: 3},
		Class:   0x020000,
		BARs:    []drivertest.BAR{drivertest.Memory, drivertest.IO},
	}
	rtl8139 = drivertest.Function{
		Address: "0000:00:02.0",
		IDs:     pci.IDs{Vendor: 0x10ec, Device: 0x8139, SubsystemVendor: 0x1af4, SubsystemDevice: 0x1100, Revision: 0x20},
		Class:   0x020000,
		BARs:    []drivertest.BAR{drivertest.IO, drivertest.Memory},
	}
	virtioNet = drivertest.Function{
		Address: "0000:00:05.0",
		IDs:     pci.IDs{Vendor: 0x1af4, Device: 0x1000, SubsystemVendor: 0x1af4, SubsystemDevice: 1},
		Class:   0x020000,
		BARs:    []drivertest.BAR{drivertest.IO, drivertest.Memory, drivertest.NoBAR, drivertest.NoBAR, drivertest.HighBAR},
		MSI:     true,
		Child:   drivertest.Virtio(1),
	}
)

// Modules as Debian has them.
var (
	modE1000 = drivertest.Module{
		Name:    "e1000",
		Aliases: []string{"pci:v00008086d0000100Esv*sd*bc*sc*i*"},
		Driver:  drivertest.Driver{Name: "e1000", Class: "net"},
	}
	modMII     = drivertest.Module{Name: "mii"}
	mod8139too = drivertest.Module{
		Name:    "8139too",
		Needs:   []string{"mii"},
		Aliases: []string{"pci:v000010ECd00008139sv*sd*bc*sc*i*"},
		Driver: drivertest.Driver{Name: "8139too", Class: "net", Probe: func(ids pci.IDs) error {
			if ids.Revision >= 0x20 {
				return unix.ENODEV
			}
			return nil
		}},
	}
	mod8139cp = drivertest.Module{
		Name:    "8139cp",
		Needs:   []string{"mii"},
		Aliases: []string{"pci:v000010ECd00008139sv*sd*bc*sc*i*"},
		Driver:  drivertest.Driver{Name: "8139cp", Class: "net"},
	}
	modVirtioRing = drivertest.Module{Name: "virtio_ring"}
	modVirtio     = drivertest.Module{Name: "virtio", Needs: []string{"virtio_ring"}}
	modVirtioPCI  = drivertest.Module{
		Name:    "virtio_pci",
		Needs:   []string{"virtio", "virtio_ring"},
		Aliases: []string{"pci:v00001AF4d*sv*sd*bc*sc*i*"},
		Driver:  drivertest.Driver{Name: "virtio-pci"},
	}
	modVirtioNet = drivertest.Module{
		Name:    "virtio_net",
		Needs:   []string{"virtio", "virtio_ring"},
		Aliases: []string{"virtio:d00000001v*"},
		Driver:  drivertest.Driver{Name: "virtio_net", Bus: "virtio", Class: "net"},
	}
)

// machine returns a machine with modules and with functions that its kernel
// knows.
func machine(t *testing.T, modules []drivertest.Module, functions ...drivertest.Function) (*drivertest.Machine, *drivers.Tree) {
	t.Helper()
	m := drivertest.New(t)
	for _, mod := range modules {
		m.AddModule(mod)
	}
	for _, f := range functions {
		m.Plug(f)
	}
	tree := m.Tree(drivers.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err := tree.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, tree
}

func device(t *testing.T, tree *drivers.Tree, address string) drivers.Device {
	t.Helper()
	dev, err := tree.Device(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func TestLoad(t *testing.T) {
	cannotLoad := func(mod drivertest.Module, err error) drivertest.Module {
		mod.Err = err
		return mod
	}
	with := func(mod drivertest.Module, change func(*drivertest.Module)) drivertest.Module {
		change(&mod)
		return mod
	}
	for _, tt := range []struct {
		rule    string
		modules []drivertest.Module
		dev     drivertest.Function
		driver  string   // of the device, or of its child if it has one
		loaded  string   // modules, in the order of loading
		err     error    // nil for success
		text    []string // in the error
	}{
		{
			rule:    "the module that claims the device is loaded",
			modules: []drivertest.Module{modE1000},
			dev:     e1000, driver: "e1000", loaded: "e1000",
		}, {
			rule:    "what the module needs is loaded first, once",
			modules: []drivertest.Module{mod8139cp, modMII},
			dev:     rtl8139, driver: "8139cp", loaded: "mii 8139cp",
		}, {
			rule:    "a candidate that refuses the device is followed by the next one and stays",
			modules: []drivertest.Module{modMII, mod8139too, mod8139cp},
			dev:     rtl8139, driver: "8139cp", loaded: "mii 8139too 8139cp",
		}, {
			rule:    "a candidate that cannot be loaded is followed by the next one",
			modules: []drivertest.Module{modMII, cannotLoad(mod8139too, unix.ENOEXEC), mod8139cp},
			dev:     rtl8139, driver: "8139cp", loaded: "mii 8139cp",
		}, {
			rule:    "when every candidate refuses, the device is not bound",
			modules: []drivertest.Module{modMII, mod8139too},
			dev:     rtl8139, loaded: "mii 8139too", err: drivers.ErrNotBound,
		}, {
			rule:    "the reason why a candidate was not loaded is in the error",
			modules: []drivertest.Module{cannotLoad(modE1000, unix.EKEYREJECTED)},
			dev:     e1000, err: drivers.ErrNotBound,
			text: []string{"pci 0000:00:02.0", "load module e1000", "rejects its signature"},
		}, {
			rule:    "a device that no module claims is said so",
			modules: []drivertest.Module{mod8139cp},
			dev:     e1000, err: drivers.ErrNoDriver,
			text: []string{"pci 0000:00:02.0", e1000.Modalias()},
		}, {
			rule:    "a child is loaded by its own modalias",
			modules: []drivertest.Module{modVirtioNet, modVirtioPCI, modVirtio, modVirtioRing},
			dev:     virtioNet, driver: "virtio_net", loaded: "virtio_ring virtio virtio_pci virtio_net",
		}, {
			rule:    "a child that no module claims is an error",
			modules: []drivertest.Module{modVirtioPCI, modVirtio, modVirtioRing},
			dev:     virtioNet, loaded: "virtio_ring virtio virtio_pci", err: drivers.ErrNoDriver,
			text: []string{"virtio virtio0", "virtio:d00000001v00001AF4"},
		}, {
			rule: "the driver of a child can be built in",
			modules: []drivertest.Module{modVirtioPCI, modVirtio, modVirtioRing,
				with(modVirtioNet, func(m *drivertest.Module) { m.Builtin = true })},
			dev: virtioNet, driver: "virtio_net", loaded: "virtio_ring virtio virtio_pci",
		}, {
			rule: "dependencies that are built in are not loaded",
			modules: []drivertest.Module{mod8139cp,
				with(modMII, func(m *drivertest.Module) { m.Builtin = true })},
			dev: rtl8139, driver: "8139cp", loaded: "8139cp",
		}, {
			rule: "soft dependencies come before and after",
			modules: []drivertest.Module{
				with(modE1000, func(m *drivertest.Module) { m.Pre, m.Post = []string{"phy-a", "alias-of-b"}, []string{"after"} }),
				{Name: "after"},
				{Name: "phy_a"},
				{Name: "b", Aliases: []string{"alias-of-*"}},
			},
			dev: e1000, driver: "e1000", loaded: "phy_a b e1000 after",
		}, {
			rule: "soft dependencies of dependencies count too",
			modules: []drivertest.Module{mod8139cp,
				with(modMII, func(m *drivertest.Module) { m.Pre, m.Post = []string{"pre"}, []string{"post"} }),
				{Name: "post"}, {Name: "pre"},
			},
			dev: rtl8139, driver: "8139cp", loaded: "pre mii post 8139cp",
		}, {
			rule: "a soft dependency may be missing",
			modules: []drivertest.Module{
				with(modE1000, func(m *drivertest.Module) { m.Pre, m.Post = []string{"none"}, []string{"none"} })},
			dev: e1000, driver: "e1000", loaded: "e1000",
		}, {
			rule: "a soft dependency may fail",
			modules: []drivertest.Module{
				with(modE1000, func(m *drivertest.Module) { m.Pre = []string{"phy"} }),
				{Name: "phy", Err: unix.ENODEV}},
			dev: e1000, driver: "e1000", loaded: "e1000",
		}, {
			rule: "a cycle of soft dependencies is cut",
			modules: []drivertest.Module{
				with(modE1000, func(m *drivertest.Module) { m.Pre = []string{"b"} }),
				{Name: "b", Pre: []string{"e1000"}, Post: []string{"e1000"}}},
			dev: e1000, driver: "e1000", loaded: "b e1000",
		}, {
			rule: "a cycle of dependencies names its members",
			modules: []drivertest.Module{
				with(modE1000, func(m *drivertest.Module) { m.Needs = []string{"b"} }),
				{Name: "b", Needs: []string{"c"}},
				{Name: "c", Needs: []string{"b"}}},
			dev: e1000, err: drivers.ErrCycle, text: []string{"b -> c -> b"},
		}, {
			rule:    "a dependency that is not in the index is named",
			modules: []drivertest.Module{mod8139cp},
			dev:     rtl8139, err: drivers.ErrNoModule, text: []string{"8139cp", "mii"},
		}, {
			rule:    "a dependency that cannot be loaded is named",
			modules: []drivertest.Module{mod8139cp, cannotLoad(modMII, unix.ENOKEY)},
			dev:     rtl8139, err: drivers.ErrNotBound,
			text: []string{"8139cp", "it needs mii", "not signed"},
		},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			m, tree := machine(t, tt.modules, tt.dev)
			dev, err := tree.Load(t.Context(), device(t, tree, tt.dev.Address))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not say %q", err, text)
				}
			}
			driver := dev.Driver
			if tt.dev.Child.Bus != "" && len(dev.Children) == 1 {
				driver = dev.Children[0].Driver
			}
			if driver != tt.driver {
				t.Errorf("driver %q, want %q", driver, tt.driver)
			}
			var loaded []string
			for _, e := range m.Events() {
				if name, ok := strings.CutPrefix(e, "load "); ok {
					loaded = append(loaded, name)
				}
			}
			if got := strings.Join(loaded, " "); got != tt.loaded {
				t.Errorf("loaded %q, want %q", got, tt.loaded)
			}
			if tt.err != nil {
				return
			}
			if names, err := tree.ClassDevices(dev, "net"); err != nil || len(names) != 1 {
				t.Errorf("net devices %q, error %v; want one", names, err)
			}
			before := len(m.Events())
			if _, err := tree.Load(t.Context(), dev); err != nil || len(m.Events()) != before {
				t.Errorf("Load of a bound device: error %v, did %q", err, m.Events()[before:])
			}
		})
	}
}

func TestLoadOffersTheDeviceAgain(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modE1000}, e1000)
	if err := tree.Prefetch(t.Context(), "e1000"); err != nil {
		t.Fatal(err)
	}
	dev := device(t, tree, e1000.Address)
	if err := tree.Unbind(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	before := len(m.Events())
	dev, err := tree.Load(t.Context(), dev)
	if err != nil || dev.Driver != "e1000" {
		t.Errorf("driver %q, error %v", dev.Driver, err)
	}
	if got := m.Events()[before:]; !slices.Equal(got, []string{"bind 0000:00:02.0 e1000"}) {
		t.Errorf("Load did %q", got)
	}
}

func TestLoadOfADeviceThatIsGone(t *testing.T) {
	_, tree := machine(t, []drivertest.Module{modE1000}, e1000)
	dev := device(t, tree, e1000.Address)
	if err := tree.Remove(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	for op, err := range map[string]error{
		"Load":        second(tree.Load(t.Context(), dev)),
		"Device":      second(tree.Device(t.Context(), dev.Address)),
		"Verify":      second(tree.Verify(t.Context(), dev)),
		"Remove":      tree.Remove(t.Context(), dev),
		"Unbind":      tree.Unbind(t.Context(), dev),
		"SetOverride": tree.SetOverride(t.Context(), dev, "x"),
	} {
		if !errors.Is(err, drivers.ErrNoDevice) {
			t.Errorf("%s: error %v, want ErrNoDevice", op, err)
		}
		if !strings.Contains(err.Error(), dev.Address) {
			t.Errorf("%s: error %q does not name the device", op, err)
		}
	}
}

func TestDeviceWhoseFilesAreGoingIsGone(t *testing.T) {
	for _, file := range []string{"modalias", "revision", "config"} {
		_, tree := machine(t, []drivertest.Module{modE1000}, e1000)
		dev := device(t, tree, e1000.Address)
		if err := os.Remove(filepath.Join(dev.Path, file)); err != nil {
			t.Fatal(err)
		}
		if v, err := tree.Verify(t.Context(), dev); !errors.Is(err, drivers.ErrNoDevice) {
			t.Errorf("without %s: %v, error %v, want ErrNoDevice", file, v, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestScan(t *testing.T) {
	bridge := drivertest.Function{
		Address: "0000:00:1e.0",
		IDs:     pci.IDs{Vendor: 0x1b36, Device: 0x000c},
		Class:   0x060400,
		Bridge:  true,
		BARs:    []drivertest.BAR{drivertest.Memory},
	}
	behind := e1000
	behind.Address, behind.Behind = "0000:01:00.0", bridge.Address
	far := e1000
	far.Address = "10000:00:00.0"
	modules := []drivertest.Module{modE1000, modVirtioRing, modVirtio, modVirtioPCI, modVirtioNet}
	_, tree := machine(t, modules, far, behind, bridge, virtioNet, e1000)
	for _, name := range []string{"e1000", "virtio_pci", "virtio_net"} {
		if err := tree.LoadModule(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
	}
	devices, err := tree.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, dev := range devices {
		order = append(order, dev.Address)
	}
	want := []string{"0000:00:02.0", "0000:00:05.0", "0000:00:1e.0", "0000:01:00.0", "10000:00:00.0"}
	if !slices.Equal(order, want) {
		t.Fatalf("bus order %q, want %q", order, want)
	}

	nic := devices[0]
	if nic.Bus != "pci" || nic.IDs != e1000.IDs || nic.Class != 0x020000 ||
		nic.Modalias != "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00" ||
		nic.Driver != "e1000" || nic.Module != "e1000" || len(nic.Children) != 0 {
		t.Errorf("e1000 reads as %+v", nic)
	}
	virtio := devices[1]
	if virtio.Driver != "virtio-pci" || virtio.Module != "virtio_pci" || len(virtio.Children) != 1 {
		t.Fatalf("virtio function reads as %+v", virtio)
	}
	if child := virtio.Children[0]; child.Bus != "virtio" || child.Address != "virtio0" || child.Driver != "virtio_net" ||
		child.IDs != (pci.IDs{Vendor: 0x1af4, Device: 1}) || child.Class != 0 {
		t.Errorf("virtio device reads as %+v", child)
	}
	if n := len(devices[2].Children); n != 0 {
		t.Errorf("the function behind a bridge is its child")
	}

	for i, want := range [][]string{{"eth0"}, {"eth3"}, nil, {"eth1"}, {"eth2"}} {
		got, err := tree.ClassDevices(devices[i], "net")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("net devices of %v: %q, error %v; want %q", devices[i], got, err, want)
		}
	}
	if got, err := tree.ClassDevices(nic, "block"); err != nil || got != nil {
		t.Errorf("a class without devices: %q, error %v", got, err)
	}
}

func TestVerify(t *testing.T) {
	all := []drivertest.Module{modE1000, modMII, mod8139cp, modVirtioRing, modVirtio, modVirtioPCI, modVirtioNet}
	otherBoard, otherStep := e1000, e1000
	otherBoard.IDs.SubsystemDevice++
	otherStep.IDs.Revision++
	const address = "0000:00:05.0"
	at := func(f drivertest.Function) drivertest.Function {
		f.Address = address
		return f
	}
	for _, tt := range []struct {
		rule   string
		dev    drivertest.Function
		driven bool
		change func(*drivertest.Machine)
		want   drivers.Verdict
	}{
		{"a driven device that nobody touched is alive", at(e1000), true, nil, drivers.Alive},
		{"64-bit BARs above 4 GiB and message interrupts of a living device agree", virtioNet, true, nil, drivers.Alive},
		{"a device without a driver is alive", at(e1000), false, nil, drivers.Alive},
		{"an empty slot is absent", at(e1000), true, func(m *drivertest.Machine) { m.Pull(address) }, drivers.Absent},
		{"another model is a replacement", at(e1000), true, func(m *drivertest.Machine) { m.Plug(at(rtl8139)) }, drivers.Replaced},
		{"another subsystem is a replacement", at(e1000), true, func(m *drivertest.Machine) { m.Plug(at(otherBoard)) }, drivers.Replaced},
		{"another revision is a replacement", at(e1000), true, func(m *drivertest.Machine) { m.Plug(at(otherStep)) }, drivers.Replaced},
		{"the same model, fresh, is a reset", at(e1000), true, func(m *drivertest.Machine) { m.Plug(at(e1000)) }, drivers.Reset},
		{"the same model, fresh, is a reset also without a driver", at(e1000), false, func(m *drivertest.Machine) { m.Plug(at(e1000)) }, drivers.Reset},
		{"a fresh device with 64-bit BARs is a reset", virtioNet, true, func(m *drivertest.Machine) { m.Plug(virtioNet) }, drivers.Reset},
		{"a command register that enables nothing is a reset", at(e1000), true, func(m *drivertest.Machine) { m.Poke(address, 0x04, 0) }, drivers.Reset},
		{"message interrupts that are off are a reset", virtioNet, true, func(m *drivertest.Machine) { m.Poke(address, 0x43, 0) }, drivers.Reset},
		{"the upper half of a BAR counts", virtioNet, true, func(m *drivertest.Machine) { m.Poke(address, 0x24, 1) }, drivers.Reset},
		{"interrupt line, latency timer and cache line size do not count", at(e1000), true, func(m *drivertest.Machine) {
			m.Poke(address, 0x3c, 0x0b)
			m.Poke(address, 0x0d, 0x40)
			m.Poke(address, 0x0c, 0x10)
		}, drivers.Alive},
		{"the address of the ROM does not count", at(e1000), true, func(m *drivertest.Machine) { m.Poke(address, 0x31, 0x80) }, drivers.Alive},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			m, tree := machine(t, all, tt.dev)
			dev := device(t, tree, address)
			if tt.driven {
				var err error
				if dev, err = tree.Load(t.Context(), dev); err != nil {
					t.Fatal(err)
				}
			}
			if tt.change != nil {
				tt.change(m)
			}
			before := len(m.Events())
			if v, err := tree.Verify(t.Context(), dev); err != nil || v != tt.want {
				t.Errorf("verdict %v, error %v; want %v", v, err, tt.want)
			}
			if n := len(m.Events()); n != before {
				t.Errorf("Verify did %q", m.Events()[before:])
			}
		})
	}
}

func TestVerifyErrors(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modVirtioRing, modVirtio, modVirtioPCI, modVirtioNet}, virtioNet)
	dev, err := tree.Load(t.Context(), device(t, tree, virtioNet.Address))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := tree.Verify(t.Context(), dev.Children[0]); v != drivers.Unknown || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a child: verdict %v, error %v; want unknown and ErrUnsupported", v, err)
	}
	starting := virtioNet
	starting.IDs = pci.IDs{Vendor: 0x0001, Device: 0xffff}
	m.Plug(starting)
	if v, err := tree.Verify(t.Context(), dev); v != drivers.Unknown || !errors.Is(err, drivers.ErrNotReady) {
		t.Errorf("a device that asks for patience: verdict %v, error %v; want unknown and ErrNotReady", v, err)
	}
	if err := os.Truncate(filepath.Join(dev.Path, "config"), 4); err != nil {
		t.Fatal(err)
	}
	if v, err := tree.Verify(t.Context(), dev); v != drivers.Unknown || !errors.Is(err, pci.ErrShort) {
		t.Errorf("a short configuration space: verdict %v, error %v; want unknown and ErrShort", v, err)
	}
}

func TestWhatXensPCIFrontEndHasIsItsOwn(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modE1000}, e1000)
	ctx := t.Context()
	dev, err := tree.Load(ctx, device(t, tree, e1000.Address))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(m.Sysfs(), "bus", "xen", "drivers", "pcifront"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := e1000
	other.Address = "0000:00:03.0"
	m.Plug(other)
	if err := tree.Rescan(ctx); err != nil {
		t.Fatal(err)
	}
	if d, err := tree.Device(ctx, other.Address); err == nil {
		t.Errorf("a scan has found %v", d)
	}
	if err := tree.Remove(ctx, dev); err != nil {
		t.Fatal(err)
	}
	if d := device(t, tree, e1000.Address); d.Driver != "" {
		t.Errorf("a device that is alive, when it was removed, has the driver %q", d.Driver)
	}
	m.Pull(e1000.Address)
	last := dev
	last.Inode = math.MaxUint64 // a file system of tests may have used the last one's again
	if err := tree.Remove(ctx, last); !errors.Is(err, drivers.ErrNoDevice) {
		t.Errorf("removing the last device at the address: %v, want ErrNoDevice", err)
	}
	if err := tree.Remove(ctx, dev); err != nil {
		t.Fatal(err)
	}
	if d, err := tree.Device(ctx, e1000.Address); err == nil {
		t.Errorf("one that was absent, when it was removed, is still %v", d)
	}
}

func TestExchangeOfADevice(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modE1000, modMII, mod8139too, mod8139cp}, e1000)
	ctx := t.Context()
	dev, err := tree.Load(ctx, device(t, tree, e1000.Address))
	if err != nil {
		t.Fatal(err)
	}
	m.Plug(rtl8139)
	// A rescan alone does not find what sits at an address that is taken.
	if err := tree.Rescan(ctx); err != nil {
		t.Fatal(err)
	}
	if got := device(t, tree, e1000.Address); got.IDs != e1000.IDs {
		t.Fatalf("after a rescan the kernel believes in %v", got.IDs)
	}
	for _, step := range []func() error{
		func() error { return tree.Unload(ctx, dev.Module) },
		func() error { return tree.Remove(ctx, dev) },
		func() error { return tree.Rescan(ctx) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := tree.Verify(ctx, dev); err != nil || v != drivers.Replaced {
		t.Errorf("the old snapshot: verdict %v, error %v; want replaced", v, err)
	}
	dev, err = tree.Load(ctx, device(t, tree, rtl8139.Address))
	if err != nil || dev.Driver != "8139cp" || dev.IDs != rtl8139.IDs {
		t.Errorf("device %+v, error %v", dev, err)
	}
	if v, err := tree.Verify(ctx, dev); err != nil || v != drivers.Alive {
		t.Errorf("the new device: verdict %v, error %v; want alive", v, err)
	}
	if names, err := tree.ClassDevices(dev, "net"); err != nil || !slices.Equal(names, []string{"eth1"}) {
		t.Errorf("net devices %q, error %v", names, err)
	}
}
