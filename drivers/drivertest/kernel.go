// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivertest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers/modalias"
)

// module is a Module and what the kernel keeps of it.
type module struct {
	Module
	state string // as in initstate; "" when not loaded
	refs  int    // held by others than modules
}

// InitModule implements kmod.Kernel. Like Linux it lets a second caller wait for
// the first and then says EEXIST, refuses a module whose needs are not live with
// ENOENT, and returns when all devices have been probed.
func (m *Machine) InitModule(file *os.File, params string) error {
	name := modalias.Normalize(strings.TrimSuffix(filepath.Base(file.Name()), ".ko"))
	m.mu.Lock()
	defer m.mu.Unlock()
	mod, ok := m.modules[name]
	if !ok {
		return unix.ENOEXEC
	}
	for mod.state == "coming" {
		m.idle.Wait()
		if mod.state != "live" {
			return unix.EBUSY
		}
	}
	if mod.state == "live" {
		return unix.EEXIST
	}
	for _, need := range mod.Needs {
		if n, ok := m.modules[modalias.Normalize(need)]; !ok || n.state != "live" {
			return unix.ENOENT
		}
	}
	mod.state = "coming"
	m.writeState(mod)
	if mod.Init != nil {
		m.mu.Unlock()
		mod.Init(params)
		m.mu.Lock()
	}
	defer m.idle.Broadcast()
	if mod.Err != nil {
		mod.state = ""
		m.remove("module/" + name)
		return mod.Err
	}
	mod.state = "live"
	m.writeState(mod)
	m.event("load", name, params)
	for _, need := range mod.Needs {
		m.writeState(m.modules[modalias.Normalize(need)])
	}
	m.register(mod)
	return nil
}

// DeleteModule implements kmod.Kernel.
func (m *Machine) DeleteModule(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	mod, ok := m.modules[name]
	if !ok || mod.Builtin || mod.state == "" {
		return unix.ENOENT
	}
	if mod.state != "live" {
		return unix.EBUSY
	}
	if mod.refs > 0 || len(m.users(mod)) > 0 {
		return unix.EWOULDBLOCK
	}
	for _, path := range slices.Sorted(maps.Keys(m.known)) {
		if dev, ok := m.known[path]; ok && dev.module == mod {
			m.unbind(dev)
		}
	}
	mod.state = ""
	m.remove("module/" + name)
	if mod.Driver.Name != "" {
		m.remove(driverPath(mod))
	}
	for _, need := range mod.Needs {
		m.writeState(m.modules[modalias.Normalize(need)])
	}
	m.event("unload", name)
	return nil
}

// users returns the live modules that need mod.
func (m *Machine) users(mod *module) []string {
	var users []string
	for _, name := range m.order {
		if u := m.modules[name]; u.state == "live" {
			for _, need := range u.Needs {
				if modalias.Normalize(need) == mod.Name {
					users = append(users, name)
				}
			}
		}
	}
	return users
}

// writeState writes the directory of a module below /sys/module.
func (m *Machine) writeState(mod *module) {
	dir := "module/" + mod.Name
	m.remove(dir + "/holders")
	m.mkdir(dir + "/holders")
	if mod.Builtin {
		return
	}
	m.write(dir+"/initstate", mod.state+"\n")
	users := m.users(mod)
	m.write(dir+"/refcnt", strconv.Itoa(mod.refs+len(users))+"\n")
	for _, user := range users {
		m.link(dir+"/holders/"+user, "module/"+user)
	}
}

func driverPath(mod *module) string {
	return "bus/" + mod.Driver.Bus + "/drivers/" + mod.Driver.Name
}

// register adds the driver of a module to its bus and offers it the devices.
func (m *Machine) register(mod *module) {
	if mod.Driver.Name == "" {
		return
	}
	path := driverPath(mod)
	m.mkdir(path)
	m.write(path+"/bind", "")
	m.write(path+"/unbind", "")
	m.mkdir("module/" + mod.Name)
	m.link(path+"/module", "module/"+mod.Name)
	for _, p := range slices.Sorted(maps.Keys(m.known)) {
		if dev, ok := m.known[p]; ok && dev.module == nil && m.matches(dev, mod) {
			_ = m.try(dev, mod)
		}
	}
}

// matches is the bus's match function.
func (m *Machine) matches(dev *device, mod *module) bool {
	if mod.state != "live" || mod.Driver.Name == "" || mod.Driver.Bus != dev.bus {
		return false
	}
	if dev.override != "" {
		return mod.Driver.Name == dev.override
	}
	for _, alias := range mod.Aliases {
		if modalias.Match(modalias.Normalize(alias), modalias.Normalize(dev.modalias)) {
			return true
		}
	}
	return false
}

// try lets the driver of a module probe a device.
func (m *Machine) try(dev *device, mod *module) error {
	if mod.Driver.Probe != nil {
		if err := mod.Driver.Probe(dev.ids); err != nil {
			m.event("refuse", dev.address, mod.Driver.Name)
			return err
		}
	}
	m.attach(dev, mod)
	return nil
}

// probe offers a device to the drivers that are there.
func (m *Machine) probe(dev *device) {
	for _, name := range m.order {
		if mod := m.modules[name]; m.matches(dev, mod) && m.try(dev, mod) == nil {
			return
		}
	}
}

// WriteAttr implements drivers.Kernel for rescan, remove, bind, unbind,
// drivers_probe and driver_override. What is written to other files stays there.
func (m *Machine) WriteAttr(path, value string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := os.Stat(path); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	rel, err := filepath.Rel(m.Sysfs(), path)
	if err != nil {
		return err
	}
	if err := m.store(rel, strings.TrimSpace(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// WriteConfig implements drivers.Kernel.
func (m *Machine) WriteConfig(path string, offset int64, register []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	address := filepath.Base(filepath.Dir(path))
	f, ok := m.slots[address]
	if _, known := m.pciDevice(address); !known || !ok {
		return &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	on := f.powered()
	copy(f.config[offset:], register)
	m.showConfig(address)
	if f.powered() == on {
		return nil
	}
	m.event(map[bool]string{true: "power on", false: "power off"}[!on], address)
	for behind, g := range m.slots {
		if g.Behind == address {
			m.showConfig(behind)
		}
	}
	return nil
}

func (m *Machine) store(path, value string) error {
	dir, attr := filepath.Split(path)
	dir = filepath.Clean(dir)
	parts := strings.Split(path, "/")
	if parts[0] == "bus" {
		switch {
		case attr == "rescan":
			m.rescan()
			return nil
		case attr == "drivers_probe":
			dev, err := m.onBus(parts[1], value)
			if err == nil && dev.module == nil {
				m.probe(dev)
			}
			return err
		case attr == "bind":
			return m.bind(parts[1], parts[3], value)
		}
	}
	if filepath.Base(dir) == "driver" && attr == "unbind" {
		dev := m.known[filepath.Dir(dir)]
		if dev.address != value {
			return unix.ENODEV
		}
		m.unbind(dev)
		return nil
	}
	dev, ok := m.known[dir]
	switch {
	case ok && attr == "remove":
		m.dropDevice(dev)
		return nil
	case ok && attr == "driver_override":
		dev.override = value
		if value == "" {
			value = "(null)"
		}
	}
	m.write(path, value+"\n")
	return nil
}

// rescan adds the functions the kernel does not know, bridges first.
func (m *Machine) rescan() {
	addresses := slices.Sorted(maps.Keys(m.slots))
	slices.SortStableFunc(addresses, func(a, b string) int {
		return strings.Compare(m.slots[a].Behind, m.slots[b].Behind)
	})
	for _, address := range addresses {
		if _, known := m.pciDevice(address); !known && m.answers(address) {
			m.probe(m.addFunction(m.slots[address]))
		}
	}
}

func (m *Machine) onBus(bus, address string) (*device, error) {
	for _, dev := range m.known {
		if dev.bus == bus && dev.address == address {
			return dev, nil
		}
	}
	return nil, unix.ENODEV
}

// bind is what a write to a driver's "bind" does (drivers/base/bus.c,
// bind_store).
func (m *Machine) bind(bus, driver, address string) error {
	dev, err := m.onBus(bus, address)
	if err != nil {
		return err
	}
	for _, name := range m.order {
		mod := m.modules[name]
		if mod.Driver.Bus != bus || mod.Driver.Name != driver {
			continue
		}
		switch {
		case !m.matches(dev, mod):
			return unix.ENODEV
		case dev.module != nil:
			return unix.EBUSY
		}
		return m.try(dev, mod)
	}
	return unix.ENODEV
}
