// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/drivers/pci"
)

// What is expected of a function is what a scan finds when it is there.
func TestExpect(t *testing.T) {
	for _, tt := range []struct {
		name string
		ids  pci.IDs
		kind uint16 // of the virtio device below, 0 for none
	}{
		{"a NIC", pci.IDs{Vendor: 0x8086, Device: 0x10d3, SubsystemVendor: 0x1af4, SubsystemDevice: 0x1100}, 0},
		{"a transitional virtio NIC says what it is in its subsystem", pci.IDs{Vendor: 0x1af4, Device: 0x1000, SubsystemVendor: 0x1af4, SubsystemDevice: 1}, 1},
		{"a modern one in its device id", pci.IDs{Vendor: 0x1af4, Device: 0x1041, SubsystemVendor: 0x1af4, SubsystemDevice: 0x1100}, 1},
		{"what has virtio's vendor and another range is none", pci.IDs{Vendor: 0x1af4, Device: 0x1110}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hw := drivertest.New(t)
			f := drivertest.Function{Address: "0000:00:05.0", IDs: tt.ids, Class: 0x020000, BARs: []drivertest.BAR{drivertest.Memory}}
			if tt.kind != 0 {
				f.Child = drivertest.Virtio(tt.kind)
			}
			hw.AddModule(drivertest.Module{
				Name: "any", Aliases: []string{"pci:v*d*sv*sd*bc*sc*i*"}, Driver: drivertest.Driver{Name: "any"},
			})
			hw.Plug(f)
			tree := hw.Tree()
			if err := tree.Rescan(t.Context()); err != nil {
				t.Fatal(err)
			}
			found, err := tree.Scan(t.Context())
			if err != nil || len(found) != 1 {
				t.Fatalf("found %v, %v", found, err)
			}
			there, err := tree.Load(t.Context(), found[0])
			if tt.kind == 0 && err != nil {
				t.Fatal(err)
			}
			got := drivers.ExpectPCI(f.Address, tt.ids, f.Class)
			if len(got.Children) == 1 {
				// The one that is there has a name of its own, and its vendor is virtio's.
				got.Children[0].Address = there.Children[0].Address
			}
			if d := cmp.Diff(there, got, cmpopts.IgnoreFields(drivers.Device{}, "Path", "Inode", "Driver", "Module")); d != "" {
				t.Errorf("(-there +expected):\n%s", d)
			}
			if names, err := tree.ClassDevices(got, "net"); len(names) != 0 || err != nil {
				t.Errorf("a device that is not there has %v, %v", names, err)
			}
		})
	}
}
