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
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/drivers/xenstore/xenstoretest"
)

// frontend adds a front end to a tree's sysfs, as xenbus shows one.
func frontend(t *testing.T, sysfs, kind, number, driver string) {
	t.Helper()
	address := kind + "-" + number
	dir := filepath.Join(sysfs, "devices", address)
	for name, text := range map[string]string{
		"devtype": kind, "nodename": "device/" + kind + "/" + number, "modalias": "xen:" + kind,
	} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	bus := filepath.Join(sysfs, "bus", "xen")
	err := errors.Join(os.MkdirAll(filepath.Join(bus, "devices"), 0o755), os.Symlink(filepath.Join("../../../devices", address), filepath.Join(bus, "devices", address)))
	if driver != "" {
		at := filepath.Join(bus, "drivers", driver)
		if mkErr := os.MkdirAll(at, 0o755); !errors.Is(mkErr, fs.ErrExist) {
			err = errors.Join(err, mkErr)
		}
		err = errors.Join(err, os.Symlink(at, filepath.Join(dir, "driver")))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// xenTree returns a tree whose only hardware is a store's.
func xenTree(t *testing.T, store *xenstoretest.Store) (*drivers.Tree, string) {
	t.Helper()
	m := drivertest.New(t)
	return m.Tree(drivers.WithXenstore(store.Open)), m.Sysfs()
}

func TestFrontends(t *testing.T) {
	store := xenstoretest.New(t, map[string]string{
		"device/vif/2/backend": "/local/domain/0/backend/vif/7/2", "/local/domain/0/backend/vif/7/2/state": "4",
		"device/vif/10/backend": "/local/domain/0/backend/vif/7/10", "/local/domain/0/backend/vif/7/10/state": "2",
		"device/vbd/51712/backend": "/local/domain/0/backend/vbd/7/51712", "/local/domain/0/backend/vbd/7/51712/state": "4",
		"device/pci/0/backend": "/local/domain/0/backend/pci/7/0", "/local/domain/0/backend/pci/7/0/state": "4",
	})
	tree, sysfs := xenTree(t, store)
	frontend(t, sysfs, "vif", "10", "")
	frontend(t, sysfs, "vif", "2", "vif")
	frontend(t, sysfs, "vif", "3", "") // of the host before, and nobody's any more
	frontend(t, sysfs, "vif", "4", "vif")
	frontend(t, sysfs, "vbd", "51712", "")
	frontend(t, sysfs, "pci", "0", "")

	devices, err := tree.Scan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		Address, Modalias, Driver string
		Class                     uint32
	}
	var got []seen
	for _, d := range devices {
		got = append(got, seen{d.Address, d.Modalias, d.Driver, d.Class})
	}
	want := []seen{
		{"pci-0", "xen:pci", "", 0xff0000},
		{"vbd-51712", "xen:vbd", "", 0x018000},
		{"vif-2", "xen:vif", "vif", 0x020000},
		{"vif-4", "xen:vif", "vif", 0x020000}, // its driver does not know yet
		{"vif-10", "xen:vif", "", 0x020000},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got)\n%s", diff)
	}
}

func TestVerifyFrontend(t *testing.T) {
	const backend = "/local/domain/0/backend/vif/7/0"
	for _, tt := range []struct {
		rule  string
		nodes map[string]string
		want  drivers.Verdict
	}{
		{"a back end that is connected serves", map[string]string{"device/vif/0/backend": backend, backend + "/state": "4"}, drivers.Alive},
		{"one that waits for its front end after a migration will", map[string]string{"device/vif/0/backend": backend, backend + "/state": "2"}, drivers.Alive},
		{"one that is closing does not", map[string]string{"device/vif/0/backend": backend, backend + "/state": "5"}, drivers.Absent},
		{"nor one that is closed", map[string]string{"device/vif/0/backend": backend, backend + "/state": "6"}, drivers.Absent},
		{"nor one that has gone", map[string]string{"device/vif/0/backend": backend}, drivers.Absent},
		{"a host without the device has none", map[string]string{"domid": "7"}, drivers.Absent},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			tree, sysfs := xenTree(t, xenstoretest.New(t, tt.nodes))
			frontend(t, sysfs, "vif", "0", "vif")
			dev, err := tree.Device(context.Background(), "vif-0")
			if err != nil {
				t.Fatal(err)
			}
			got, err := tree.Verify(context.Background(), dev)
			if got != tt.want || err != nil {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestRescanFindsFrontends(t *testing.T) {
	store := xenstoretest.New(t, map[string]string{
		"device/vif/0/state":             "4",
		"device/vif/1/state":             "1",
		"device/pci/0/state":             "1",
		"device/suspend/event-channel":   "9",
		"device/vbd/51712/backend-id":    "0",
		"device/console/0/state":         "1",
		"control/platform-feature-xs_ca": "1",
	})
	tree, sysfs := xenTree(t, store)
	frontend(t, sysfs, "vif", "0", "vif")
	if err := tree.Rescan(context.Background()); err != nil {
		t.Fatal(err)
	}
	// The kernel ignores console/0 itself.
	want := []string{"device/console/0/state=1", "device/pci/0/state=1", "device/vif/1/state=1"}
	if diff := cmp.Diff(want, store.Written()); diff != "" {
		t.Errorf("nodes touched: those of front ends that the kernel does not know (-want +got)\n%s", diff)
	}

	store.Deny("device/vif/1/state")
	if err := tree.Rescan(context.Background()); err == nil {
		t.Error("a node that cannot be touched is not told of")
	}
}
