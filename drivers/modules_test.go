// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
)

func TestLoadModule(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{
		mod8139cp, modMII,
		{Name: "virtio-gpu", Aliases: []string{"display-*"}},
		{Name: "built-in", Builtin: true},
		{Name: "broken", Err: unix.EINVAL},
	})
	ctx := t.Context()
	for _, tt := range []struct {
		rule, name, params string
		err                error
	}{
		{"parameters go to the module and not to what it needs", "8139cp", "debug=1", nil},
		{"a loaded module is a success", "8139cp", "", nil},
		{"a loaded module takes no parameters", "8139cp", "debug=2", drivers.ErrLoaded},
		{"dashes and underscores are the same", "virtio-gpu", "", nil},
		{"an alias names a module", "display-x", "", nil},
		{"a built-in module is a success", "built-in", "", nil},
		{"a built-in module takes no parameters", "built_in", "x=1", drivers.ErrBuiltin},
		{"a module that is nowhere is an error", "no-such", "", drivers.ErrNoModule},
		{"what the kernel says stays in the error", "broken", "x=1", unix.EINVAL},
	} {
		err := tree.LoadModule(ctx, tt.name, tt.params)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.rule, err, tt.err)
		}
		if err != nil && !strings.Contains(err.Error(), strings.ReplaceAll(tt.name, "-", "_")) {
			t.Errorf("%s: error %q does not name the module", tt.rule, err)
		}
	}
	want := []string{"load mii", "load 8139cp debug=1", "load virtio_gpu"}
	if got := m.Events(); !slices.Equal(got, want) {
		t.Errorf("the kernel did %q, want %q", got, want)
	}
	if !tree.Loaded("virtio-gpu") || !tree.Loaded("built-in") || tree.Loaded("broken") {
		t.Error("Loaded does not agree with the kernel")
	}
}

func TestLoadModuleWhoseFileIsGone(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modE1000})
	m.Lose("e1000")
	err := tree.LoadModule(t.Context(), "e1000", "")
	if !errors.Is(err, drivers.ErrNoModule) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNoModule and the file's", err)
	}
}

func TestUnload(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modE1000, modMII, mod8139cp, {Name: "x", Builtin: true}}, e1000)
	ctx := t.Context()
	for _, name := range []string{"e1000", "8139cp"} {
		if err := tree.LoadModule(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	m.Hold("e1000", 1)
	for _, tt := range []struct {
		rule, name string
		err        error
		text       string
	}{
		{"a module another one needs is in use, and that one is named", "mii", drivers.ErrInUse, "by 8139cp"},
		{"a module somebody holds is in use", "e1000", drivers.ErrInUse, "reference count 1"},
		{"a built-in module stays", "x", drivers.ErrBuiltin, "x"},
		{"a module that is not loaded is a success", "none", nil, ""},
		{"a module goes and leaves what it needed", "8139cp", nil, ""},
		{"a module nobody needs any more goes", "mii", nil, ""},
	} {
		err := tree.Unload(ctx, tt.name)
		if !errors.Is(err, tt.err) || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: error %v, want %v and %q", tt.rule, err, tt.err, tt.text)
		}
	}
	m.Hold("e1000", -1)
	if err := tree.Unload(ctx, "e1000"); err != nil {
		t.Errorf("a module that was let go: %v", err)
	}
	if got := m.Loaded(); len(got) != 0 {
		t.Errorf("still loaded: %q", got)
	}
	if dev := device(t, tree, e1000.Address); dev.Driver != "" {
		t.Errorf("the device still has driver %q", dev.Driver)
	}
}

func TestPrefetch(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{
		modE1000, modMII, mod8139cp, mod8139too, modVirtioNet, modVirtio, modVirtioRing,
		{Name: "broken", Err: unix.ENOEXEC},
	})
	err := tree.Prefetch(t.Context(), "virtio_net", "8139cp", "no-such", "broken", "8139too", "e1000")
	if !errors.Is(err, drivers.ErrNoModule) || !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("error %v, want those of both modules", err)
	}
	want := []string{"8139cp", "8139too", "e1000", "mii", "virtio", "virtio_net", "virtio_ring"}
	if got := m.Loaded(); !slices.Equal(got, want) {
		t.Errorf("loaded %q, want %q", got, want)
	}
	before := len(m.Events())
	m.Plug(e1000)
	if err := tree.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := m.Events()[before:], []string{"add 0000:00:02.0", "bind 0000:00:02.0 e1000"}; !slices.Equal(got, want) {
		t.Errorf("after a prefetch a device that turns up leads to %q, want %q", got, want)
	}
}

func TestPrefetchOfAModuleForAnotherMachineIsNoError(t *testing.T) {
	m, tree := machine(t, []drivertest.Module{modE1000, {Name: "xen_pcifront", Err: unix.ENODEV}})
	if err := tree.Prefetch(t.Context(), "xen_pcifront", "e1000"); err != nil {
		t.Errorf("error %v", err)
	}
	if got := m.Loaded(); !slices.Equal(got, []string{"e1000"}) {
		t.Errorf("loaded %q", got)
	}
}

func TestLoadAsked(t *testing.T) {
	disk := virtioNet
	disk.IDs.Device, disk.IDs.SubsystemDevice, disk.Child = 0x1001, 2, drivertest.Virtio(2)
	virtioBlock := drivertest.Module{Name: "virtio-blk", Aliases: []string{"virtio:d00000002v*"}}
	ext4 := drivertest.Module{Name: "ext4", Aliases: []string{"fs-ext4"}}
	for _, tt := range []struct {
		rule    string
		modules []string
		err     error
		loaded  []string
	}{
		{"what a device asks for, and what the one asks for that comes with it", []string{"virtio-blk", "virtio_pci"}, nil,
			[]string{"virtio", "virtio_blk", "virtio_pci", "virtio_ring"}},
		{"not what no device here asks for", []string{"e1000", "8139cp"}, nil, nil},
		{"not what was not named, though a device asks for it", []string{"virtio_pci"}, nil, []string{"virtio", "virtio_pci", "virtio_ring"}},
		{"what no device ever asks for", []string{"ext4"}, nil, []string{"ext4"}},
		{"one that cannot be loaded is told once, the rest is loaded", []string{"broken", "no-such", "ext4"}, unix.ENOEXEC, []string{"ext4"}},
		{"one that is nowhere is told", []string{"no-such"}, drivers.ErrNoModule, nil},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			m, tree := machine(t, []drivertest.Module{
				modE1000, modMII, mod8139cp, modVirtioPCI, modVirtio, modVirtioRing, virtioBlock, ext4,
				{Name: "broken", Aliases: []string{"pci:v00001AF4d00001001*"}, Err: unix.ENOEXEC},
			}, disk)
			if err := tree.LoadAsked(t.Context(), tt.modules...); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if got := m.Loaded(); !slices.Equal(got, tt.loaded) {
				t.Errorf("loaded %q, want %q", got, tt.loaded)
			}
		})
	}
}

func TestIndependentModulesLoadAtTheSameTime(t *testing.T) {
	// Each waits for the other one to have begun.
	var both sync.WaitGroup
	both.Add(2)
	meet := func(string) { both.Done(); both.Wait() }
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	m, tree := machine(t, []drivertest.Module{{Name: "a", Init: meet}, {Name: "b", Init: meet}})
	if err := tree.Prefetch(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	if got := m.Loaded(); len(got) != 2 {
		t.Errorf("loaded %q", got)
	}
}

func TestModuleThatAnotherGoroutineLoads(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	mod := modE1000
	mod.Init = func(string) { close(begun); <-goOn }
	m, tree := machine(t, []drivertest.Module{mod})
	first := make(chan error)
	go func() { first <- tree.LoadModule(t.Context(), "e1000", "") }()
	<-begun

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.LoadModule(ctx, "e1000", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: error %v", err)
	}
	// Another program: a Tree that knows nothing of the first.
	others := make(chan error)
	for _, tree := range []*drivers.Tree{tree, m.Tree()} {
		go func() { others <- tree.LoadModule(context.WithoutCancel(t.Context()), "e1000", "") }()
	}
	select {
	case err := <-others:
		t.Errorf("the second did not wait for the first: %v", err)
	default:
	}
	close(goOn)
	for range 2 {
		if err := <-others; err != nil {
			t.Errorf("the second: %v", err)
		}
	}
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	if got := m.Events(); !slices.Equal(got, []string{"load e1000"}) {
		t.Errorf("the kernel did %q", got)
	}
}

func TestBind(t *testing.T) {
	other := drivertest.Module{Name: "vfio_pci", Aliases: []string{"vfio_pci:*"}, Driver: drivertest.Driver{Name: "vfio-pci"}}
	_, tree := machine(t, []drivertest.Module{modE1000, other, modMII, mod8139too}, e1000)
	ctx := t.Context()
	dev := device(t, tree, e1000.Address)
	if err := tree.Bind(ctx, dev, "e1000"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a driver that is not loaded: error %v", err)
	}
	for _, name := range []string{"e1000", "vfio_pci"} {
		if err := tree.LoadModule(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Bind(ctx, dev, "vfio-pci"); !errors.Is(err, drivers.ErrNotBound) {
		t.Errorf("a driver for other ids: error %v", err)
	}
	for _, step := range []struct {
		name   string
		do     func() error
		driver string
	}{
		{"Unbind", func() error { return tree.Unbind(ctx, dev) }, ""},
		{"Unbind of an unbound device", func() error { return tree.Unbind(ctx, dev) }, ""},
		{"SetOverride", func() error { return tree.SetOverride(ctx, dev, "vfio-pci") }, ""},
		{"Bind by override", func() error { return tree.Bind(ctx, dev, "vfio-pci") }, "vfio-pci"},
		{"Unbind", func() error { return tree.Unbind(ctx, dev) }, ""},
		{"SetOverride to none", func() error { return tree.SetOverride(ctx, dev, "") }, ""},
		{"Bind", func() error { return tree.Bind(ctx, dev, "e1000") }, "e1000"},
		{"Bind to the driver it has", func() error { return tree.Bind(ctx, dev, "e1000") }, "e1000"},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := device(t, tree, e1000.Address).Driver; got != step.driver {
			t.Errorf("after %s the driver is %q, want %q", step.name, got, step.driver)
		}
	}
}

func TestNewRefusesABadIndex(t *testing.T) {
	for _, tt := range []struct{ rule, file, text, want string }{
		{"modules.dep has to be there", "", "", "modules.dep"},
		{"modules.dep lines have a colon", "modules.dep", "e1000.ko\n", "line 1"},
		{"modules.dep names module files", "modules.dep", "a.ko: readme.txt\n", "readme.txt"},
		{"modules.alias lines have a module", "modules.alias", "alias a\n", "line 1"},
		{"modules.softdep lines have a module", "modules.softdep", "\nsoftdep\n", "line 2"},
		{"modules.builtin names module files", "modules.builtin", "kernel/a\n", "kernel/a"},
		{"modules.builtin.modinfo has fields", "modules.builtin.modinfo", "a.license\x00", "a.license"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			dir := t.TempDir()
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "modules.dep"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := drivers.New(drivers.WithModules(dir))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.file) {
				t.Errorf("error %v, want one that names %s and %q", err, tt.file, tt.want)
			}
		})
	}
}
