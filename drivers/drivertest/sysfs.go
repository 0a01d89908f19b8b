// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivertest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/umbra-vm/umbra/drivers/pci"
)

// device is what the kernel believes in: a PCI function, or a child of one.
type device struct {
	bus, address string
	path         string // below sysfs
	modalias     string
	ids          pci.IDs
	child        Child
	msi          bool
	override     string
	module       *module // that drives it
	class        string  // path of its class device; "" if none
	children     []*device
}

// Paths given to these are relative to sysfs.

func (m *Machine) mkdir(path string) {
	m.must(os.MkdirAll(filepath.Join(m.Sysfs(), path), 0o755))
}

func (m *Machine) write(path, text string) {
	m.must(os.WriteFile(filepath.Join(m.Sysfs(), path), []byte(text), 0o644))
}

func (m *Machine) remove(path string) {
	m.must(os.RemoveAll(filepath.Join(m.Sysfs(), path)))
}

// link makes path a relative link to another path.
func (m *Machine) link(path, to string) {
	rel, err := filepath.Rel(filepath.Dir(path), to)
	m.must(err)
	m.must(os.Symlink(rel, filepath.Join(m.Sysfs(), path)))
}

// showConfig makes the config file of the function at an address read what the
// hardware answers.
func (m *Machine) showConfig(address string) {
	dev, ok := m.pciDevice(address)
	if !ok {
		return
	}
	config := bytes.Repeat([]byte{0xff}, pci.ConfigSize)
	if m.answers(address) {
		config = m.slots[address].config
	}
	m.write(dev.path+"/config", string(config))
}

// answers reports whether there is a function at an address and has power.
func (m *Machine) answers(address string) bool {
	f, ok := m.slots[address]
	if !ok {
		return false
	}
	bridge, behind := m.slots[f.Behind]
	return !behind || bridge.powered()
}

func (m *Machine) pciDevice(address string) (*device, bool) {
	for _, dev := range m.known {
		if dev.bus == "pci" && dev.address == address {
			return dev, true
		}
	}
	return nil, false
}

// addFunction makes the kernel know a function, without a driver.
func (m *Machine) addFunction(f *function) *device {
	path := "devices/pci0000:00/"
	if f.Behind != "" {
		bridge, ok := m.pciDevice(f.Behind)
		if !ok {
			m.tb.Fatalf("drivertest: %s is behind a bridge %s that the kernel does not know", f.Address, f.Behind)
		}
		path = bridge.path + "/"
	}
	dev := &device{
		bus:      "pci",
		address:  f.Address,
		path:     path + f.Address,
		modalias: f.Modalias(),
		ids:      f.IDs,
		child:    f.Child,
		msi:      f.MSI,
	}
	m.addDevice(dev)
	for name, value := range map[string]string{
		"vendor":           fmt.Sprintf("0x%04x", f.IDs.Vendor),
		"device":           fmt.Sprintf("0x%04x", f.IDs.Device),
		"subsystem_vendor": fmt.Sprintf("0x%04x", f.IDs.SubsystemVendor),
		"subsystem_device": fmt.Sprintf("0x%04x", f.IDs.SubsystemDevice),
		"revision":         fmt.Sprintf("0x%02x", f.IDs.Revision),
		"class":            fmt.Sprintf("0x%06x", f.Class),
		"power_state":      "D0",
		"enable":           "0",
	} {
		m.write(dev.path+"/"+name, value+"\n")
	}
	m.write(dev.path+"/resource", f.assign(&m.nextBAR))
	m.write(dev.path+"/remove", "")
	m.showConfig(f.Address)
	return dev
}

// addDevice makes the directory and links every device has.
func (m *Machine) addDevice(dev *device) {
	m.mkdir(dev.path + "/power")
	m.write(dev.path+"/modalias", dev.modalias+"\n")
	m.write(dev.path+"/driver_override", "(null)\n")
	m.mkdir("bus/" + dev.bus + "/devices")
	m.link(dev.path+"/subsystem", "bus/"+dev.bus)
	m.link("bus/"+dev.bus+"/devices/"+dev.address, dev.path)
	m.known[dev.path] = dev
	m.event("add", dev.address)
}

// dropDevice takes a device away from its driver and forgets it and everything
// below.
func (m *Machine) dropDevice(dev *device) {
	for path, other := range m.known {
		if other.bus == "pci" && strings.HasPrefix(path, dev.path+"/") {
			m.dropDevice(other)
		}
	}
	m.unbind(dev)
	m.remove("bus/" + dev.bus + "/devices/" + dev.address)
	m.remove(dev.path)
	delete(m.known, dev.path)
	m.event("remove", dev.address)
}

// attach makes mod the driver of dev: links, class device, child.
func (m *Machine) attach(dev *device, mod *module) {
	dev.module = mod
	driver := driverPath(mod)
	m.link(dev.path+"/driver", driver)
	m.link(driver+"/"+dev.address, dev.path)
	m.event("bind", dev.address, mod.Driver.Name)
	if class := mod.Driver.Class; class != "" {
		stem := class
		if class == "net" {
			stem = "eth"
		}
		name := fmt.Sprintf("%s%d", stem, m.classes[class])
		m.classes[class]++
		dev.class = dev.path + "/" + class + "/" + name
		m.mkdir(dev.class)
		m.mkdir("class/" + class)
		m.link(dev.class+"/subsystem", "class/"+class)
		m.link(dev.class+"/device", dev.path)
		m.link("class/"+class+"/"+name, dev.class)
	}
	m.setEnabled(dev, true)
	if dev.child.Bus == "" {
		return
	}
	number := m.buses[dev.child.Bus]
	m.buses[dev.child.Bus]++
	child := &device{
		bus:      dev.child.Bus,
		address:  fmt.Sprintf("%s%d", dev.child.Bus, number),
		modalias: dev.child.Modalias,
		ids:      pci.IDs{Vendor: dev.child.Vendor, Device: dev.child.Device},
	}
	child.path = dev.path + "/" + child.address
	m.addDevice(child)
	m.write("bus/"+child.bus+"/drivers_probe", "")
	m.write(child.path+"/vendor", fmt.Sprintf("0x%04x\n", child.ids.Vendor))
	m.write(child.path+"/device", fmt.Sprintf("0x%04x\n", child.ids.Device))
	dev.children = append(dev.children, child)
	m.probe(child)
}

// unbind takes dev away from its driver, if it has one.
func (m *Machine) unbind(dev *device) {
	if dev.module == nil {
		return
	}
	for _, child := range dev.children {
		m.dropDevice(child)
	}
	dev.children = nil
	if dev.class != "" {
		m.remove("class/" + filepath.Base(filepath.Dir(dev.class)) + "/" + filepath.Base(dev.class))
		m.remove(filepath.Dir(dev.class))
		dev.class = ""
	}
	m.remove(dev.path + "/driver")
	m.remove(driverPath(dev.module) + "/" + dev.address)
	m.setEnabled(dev, false)
	m.event("unbind", dev.address, dev.module.Driver.Name)
	dev.module = nil
}

// setEnabled records that a driver uses a PCI function, in the kernel and, if it
// is still there, in the hardware.
func (m *Machine) setEnabled(dev *device, on bool) {
	if dev.bus != "pci" {
		return
	}
	m.write(dev.path+"/enable", map[bool]string{true: "1\n", false: "0\n"}[on])
	m.remove(dev.path + "/msi_irqs")
	if on && dev.msi {
		m.mkdir(dev.path + "/msi_irqs")
		m.write(dev.path+"/msi_irqs/24", "msix\n")
	}
	if f, ok := m.slots[dev.address]; ok && f.IDs == dev.ids && m.answers(dev.address) {
		f.enable(on)
	}
	m.showConfig(dev.address)
}
