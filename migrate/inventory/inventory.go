// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package inventory asks a QEMU which PCI devices it has, and where its guest has them
// or will have them.
//
// It only asks. It must never know what a device is asked for.
package inventory

import (
	"context"
	"fmt"
	"strings"

	"github.com/umbra-vm/umbra/migrate/qmp"
)

// A Device is one function.
type Device struct {
	ID string // QEMU's name of it, empty if it was given none
	// Address is where the guest has it, "0000:00:02.0". If the guest has not numbered
	// the bus, which only its firmware does, it is the way there: "0000:00:04.0/00.0".
	Address                                     string
	Vendor, Device, SubVendor, SubDevice, Class uint16
	MAC                                         string // of an emulated NIC with an id; else empty

	path   string // slots from the root bus on
	bridge bool
	bus    int // of a bridge: the number of the bus behind it, 0 if it has none
}

// function is what query-pci says of one (qapi/misc.json, PciDeviceInfo).
type function struct {
	Bus      int    `json:"bus"`
	Slot     int    `json:"slot"`
	Function int    `json:"function"`
	Name     string `json:"qdev_id"`
	Class    struct {
		Class uint16 `json:"class"`
	} `json:"class_info"`
	ID struct {
		Vendor    uint16 `json:"vendor"`
		Device    uint16 `json:"device"`
		SubVendor uint16 `json:"subsystem-vendor"`
		SubDevice uint16 `json:"subsystem"`
	} `json:"id"`
	Bridge *struct {
		Bus struct {
			Secondary int `json:"secondary"`
		} `json:"bus"`
		Devices []function `json:"devices"`
	} `json:"pci_bridge"`
}

// List returns the devices of c in the order of its buses, bridges included.
func List(ctx context.Context, c *qmp.Client) ([]Device, error) {
	devices, err := list(ctx, c)
	for i, d := range devices {
		if err != nil {
			break
		}
		if d.ID == "" || d.bridge {
			continue
		}
		err = c.Execute(ctx, "qom-get", map[string]string{"path": "/machine/peripheral/" + d.ID, "property": "mac"}, &devices[i].MAC)
		if qmp.Refused(err) {
			err = nil // no NIC, or one that has its MAC of its own
		}
	}
	return devices, err
}

func list(ctx context.Context, c *qmp.Client) (devices []Device, err error) {
	var buses []struct {
		Devices []function `json:"devices"`
	}
	if err := c.Execute(ctx, "query-pci", nil, &buses); err != nil {
		return nil, err
	}
	for _, b := range buses {
		devices = appendBelow(devices, "", b.Devices)
	}
	return devices, nil
}

// appendBelow appends the functions of a bus, and what is behind its bridges. above is
// the path of the bridge that it is behind, empty for a root bus.
func appendBelow(devices []Device, above string, functions []function) []Device {
	for _, f := range functions {
		d := Device{
			ID: f.Name, Address: address(f.Bus, f.Slot, f.Function), Class: f.Class.Class,
			Vendor: f.ID.Vendor, Device: f.ID.Device, SubVendor: f.ID.SubVendor, SubDevice: f.ID.SubDevice,
		}
		d.path = d.Address
		if above != "" {
			d.path = fmt.Sprintf("%s/%02x.%x", above, f.Slot, f.Function)
			if f.Bus == 0 {
				d.Address = d.path
			}
		}
		if f.Bridge == nil {
			devices = append(devices, d)
			continue
		}
		d.bridge, d.bus = true, f.Bridge.Bus.Secondary
		devices = appendBelow(append(devices, d), d.path, f.Bridge.Devices)
	}
	return devices
}

func address(bus, slot, function int) string {
	return fmt.Sprintf("0000:%02x:%02x.%x", bus, slot, function)
}

// Arriving returns what is in to as the guest finds it that is on from: a migration brings
// the numbers of its buses along.
func Arriving(to, from []Device) []Device {
	numbers := make(map[string]int) // of the bus behind a bridge, by its path
	for _, d := range from {
		if d.bridge {
			numbers[d.path] = d.bus
		}
	}
	out := make([]Device, len(to))
	for i, d := range to {
		if i := strings.LastIndexByte(d.path, '/'); i >= 0 {
			d.Address = d.path
			if bus := numbers[d.path[:i]]; bus != 0 {
				d.Address = fmt.Sprintf("0000:%02x:%s", bus, d.path[i+1:])
			}
		}
		out[i] = d
	}
	return out
}

// Address returns where the guest of c has the device of that name, "" if that is on no
// PCI bus.
func Address(ctx context.Context, c *qmp.Client, id string) (string, error) {
	devices, err := list(ctx, c)
	for _, d := range devices {
		if d.ID == id {
			return d.Address, nil
		}
	}
	return "", err
}

// Blocked returns why QEMU would not migrate its guest as it is, none if it would.
func Blocked(ctx context.Context, c *qmp.Client) ([]string, error) {
	var info struct {
		Blocked []string `json:"blocked-reasons"`
	}
	err := c.Execute(ctx, "query-migrate", nil, &info)
	return info.Blocked, err
}
