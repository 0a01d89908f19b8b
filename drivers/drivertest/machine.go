// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package drivertest is a machine to test programs against that use package
// drivers: a sysfs tree and a modules directory in a temporary directory, and a
// kernel that probes devices when a module is loaded, a device appears or
// somebody writes to bind, remove or rescan.
//
// It keeps apart what drivers has to tell apart: the hardware (Plug, Pull), of
// which configuration space speaks, and the kernel's belief, which only a rescan
// or a remove changes. It knows no device class beyond the names of class
// directories: nothing in it transfers data.
package drivertest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/modalias"
	"github.com/umbra-vm/umbra/drivers/pci"
)

// A Machine is a fake machine with one PCI bus. It implements drivers.Kernel;
// its methods may be called from any number of goroutines.
type Machine struct {
	tb   testing.TB
	root string

	mu      sync.Mutex
	idle    *sync.Cond           // a module left the state "coming"
	modules map[string]*module   // by name, with underscores
	order   []string             // of AddModule
	slots   map[string]*function // the hardware, by address
	known   map[string]*device   // what the kernel believes in, by path
	classes map[string]int       // next number of class devices, by class
	buses   map[string]int       // next number of child devices, by bus
	nextBAR [2]uint64            // next free address: I/O, memory
	events  []string
}

var _ drivers.Kernel = (*Machine)(nil)

// A Module is a module in the modules directory, or one in the kernel image.
type Module struct {
	Name    string
	Aliases []string // patterns of modules.alias
	Needs   []string // as in modules.dep: all of them, the deepest last
	Pre     []string // soft dependencies
	Post    []string
	Builtin bool
	Driver  Driver // what it registers; none if the name is empty
	// Err is what loading it fails with.
	Err error
	// Init is called when the module is loaded, before its driver is
	// registered, while no lock of the Machine is held.
	Init func(params string)
}

// A Driver serves the devices that match an alias of its module.
type Driver struct {
	Name string
	Bus  string // "pci" if empty
	// Class is the class of the one class device it makes for each device, such
	// as "net"; none if empty.
	Class string
	// Probe decides whether the driver takes a device; nil takes all.
	Probe func(ids pci.IDs) error
}

// New returns a machine without devices and modules.
func New(tb testing.TB) *Machine {
	m := &Machine{
		tb:      tb,
		root:    tb.TempDir(),
		modules: make(map[string]*module),
		slots:   make(map[string]*function),
		known:   make(map[string]*device),
		classes: make(map[string]int),
		buses:   make(map[string]int),
		nextBAR: [2]uint64{0xc000, 0xfeb00000},
	}
	m.idle = sync.NewCond(&m.mu)
	m.mkdir("module")
	m.mkdir("bus/pci/devices")
	m.mkdir("bus/pci/drivers")
	m.write("bus/pci/rescan", "")
	m.write("bus/pci/drivers_probe", "")
	m.mkdir("class")
	m.must(os.MkdirAll(m.Modules(), 0o755))
	m.writeIndex()
	return m
}

// Sysfs returns where the machine's sysfs is.
func (m *Machine) Sysfs() string { return filepath.Join(m.root, "sys") }

// Modules returns the modules directory.
func (m *Machine) Modules() string { return filepath.Join(m.root, "modules") }

// Tree returns a drivers.Tree of the machine; opts are applied last. Modules
// have to be added before.
func (m *Machine) Tree(opts ...drivers.Option) *drivers.Tree {
	m.tb.Helper()
	t, err := drivers.New(append([]drivers.Option{
		drivers.WithSysfs(m.Sysfs()),
		drivers.WithModules(m.Modules()),
		drivers.WithKernel(m),
	}, opts...)...)
	m.must(err)
	return t
}

// AddModule puts a module into the modules directory. The order of calls is the
// order of lines in the index files.
func (m *Machine) AddModule(add Module) {
	m.mu.Lock()
	defer m.mu.Unlock()
	add.Name = modalias.Normalize(add.Name)
	if add.Driver.Bus == "" {
		add.Driver.Bus = "pci"
	}
	mod := &module{Module: add}
	m.modules[add.Name] = mod
	m.order = append(m.order, add.Name)
	m.writeIndex()
	if !add.Builtin {
		m.must(os.WriteFile(filepath.Join(m.Modules(), add.Name+".ko"), []byte(add.Name), 0o644))
		return
	}
	mod.state = "live"
	m.register(mod)
}

// SetErr changes what loading a module fails with, nil for success.
func (m *Machine) SetErr(name string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.modules[modalias.Normalize(name)].Err = err
}

// Hold adds n to the reference count of a loaded module: what a process does
// that has its device open.
func (m *Machine) Hold(name string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mod := m.modules[modalias.Normalize(name)]
	mod.refs += n
	m.writeState(mod)
}

// Lose takes the file of a module away and leaves the index as it is.
func (m *Machine) Lose(name string) {
	m.must(os.Remove(filepath.Join(m.Modules(), modalias.Normalize(name)+".ko")))
}

// Plug puts a function into its slot, in place of what is there. The kernel does
// not notice; to let it, write to rescan as Tree.Rescan does.
func (m *Machine) Plug(f Function) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[f.Address] = newFunction(f)
	m.showConfig(f.Address)
}

// Pull takes the function at an address out of its slot. The kernel does not
// notice.
func (m *Machine) Pull(address string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.slots, address)
	m.showConfig(address)
}

// Poke changes a byte of the configuration space of the function at an address.
func (m *Machine) Poke(address string, offset int, value byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[address].config[offset] = value
	m.showConfig(address)
}

// Events returns what the kernel has done so far, oldest first: "load e1000",
// "load e1000 debug=1", "unload e1000", "add 0000:00:02.0", "remove
// 0000:00:02.0", "bind 0000:00:02.0 e1000", "refuse 0000:00:02.0 e1000",
// "unbind 0000:00:02.0 e1000", "power on 0000:00:02.0", "power off 0000:00:02.0".
func (m *Machine) Events() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events)
}

// Loaded returns the names of the modules that are live and not built in, sorted.
func (m *Machine) Loaded() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.modules)) {
		if mod := m.modules[name]; mod.state == "live" && !mod.Builtin {
			names = append(names, name)
		}
	}
	return names
}

func (m *Machine) event(words ...string) {
	m.events = append(m.events, strings.TrimSpace(strings.Join(words, " ")))
}

// writeIndex writes the files that depmod and the kernel build would.
func (m *Machine) writeIndex() {
	files := map[string]*strings.Builder{}
	for _, name := range []string{"dep", "alias", "softdep", "builtin", "builtin.modinfo"} {
		files[name] = new(strings.Builder)
	}
	for _, name := range m.order {
		mod := m.modules[name]
		if mod.Builtin {
			fmt.Fprintf(files["builtin"], "kernel/%s.ko\n", name)
			for _, alias := range mod.Aliases {
				fmt.Fprintf(files["builtin.modinfo"], "%s.alias=%s\x00", name, alias)
			}
			continue
		}
		fmt.Fprintf(files["dep"], "%s.ko:", name)
		for _, need := range mod.Needs {
			fmt.Fprintf(files["dep"], " %s.ko", modalias.Normalize(need))
		}
		fmt.Fprintln(files["dep"])
		for _, alias := range mod.Aliases {
			fmt.Fprintf(files["alias"], "alias %s %s\n", alias, name)
		}
		if len(mod.Pre) > 0 {
			fmt.Fprintf(files["softdep"], "softdep %s pre: %s\n", name, strings.Join(mod.Pre, " "))
		}
		if len(mod.Post) > 0 {
			fmt.Fprintf(files["softdep"], "softdep %s post: %s\n", name, strings.Join(mod.Post, " "))
		}
	}
	for name, text := range files {
		m.must(os.WriteFile(filepath.Join(m.Modules(), "modules."+name), []byte(text.String()), 0o644))
	}
}

func (m *Machine) must(err error) {
	m.tb.Helper()
	if err != nil {
		m.tb.Fatal("drivertest: ", err)
	}
}
