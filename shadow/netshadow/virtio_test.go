// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/umbra-vm/umbra/drivers"
)

func TestDeaf(t *testing.T) {
	// features is what sysfs says of a virtio device, a digit a bit.
	features := func(set ...int) []byte {
		b := bytes.Repeat([]byte{'0'}, 64)
		for _, bit := range set {
			b[bit] = '1'
		}
		return append(b, '\n')
	}
	for _, tc := range []struct {
		name string
		bus  string
		text []byte // of the child's features, nil for no such file
		want bool
	}{
		{"a modern device without the command receives for its own MAC only", "virtio", features(featureModern), true},
		{"a device with the command is told", "virtio", features(featureModern, featureSetMAC), false},
		{"the configuration of a legacy device is written to", "virtio", features(), false},
		{"what is not known of a device is not held against it", "virtio", nil, false},
		{"nor is what a driver has said in part", "virtio", []byte("000\n"), false},
		{"a device that is no virtio device is asked nothing", "mdio_bus", features(featureModern), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			child := drivers.Device{Bus: tc.bus, Path: t.TempDir()}
			if tc.text != nil {
				if err := os.WriteFile(filepath.Join(child.Path, "features"), tc.text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := deaf(drivers.Device{Bus: "pci", Children: []drivers.Device{child}}); got != tc.want {
				t.Errorf("deaf: %v, want %v", got, tc.want)
			}
		})
	}
}
