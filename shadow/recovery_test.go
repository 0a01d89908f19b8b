// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// A record of the journal costs a recovery as much as a look at a device.
func TestWhatIsReachedWithANameIsOneRecord(t *testing.T) {
	var records []ctl.Timeline
	r := NewRecovery("net0", ctl.CauseMigration, func(tl ctl.Timeline) { records = append(records, tl) })
	r.StampAt(ctl.StampDetected, 20)
	r.Between("old", "new", ctl.Stamp{Name: ctl.StampProbed, At: 30}, ctl.Stamp{Name: ctl.StampResumed, At: 10}, ctl.Stamp{Name: ctl.StampDetected, At: 40})
	if len(records) != 2 {
		t.Fatalf("%d records, want one for the stamp and one for all else", len(records))
	}
	tl := records[1]
	want := []ctl.Stamp{{Name: ctl.StampResumed, At: 10}, {Name: ctl.StampDetected, At: 20}, {Name: ctl.StampProbed, At: 30}}
	if tl.From != "old" || tl.To != "new" || !slices.Equal(tl.Stamps, want) {
		t.Errorf("from %q to %q, %v; want %v, the first of a name", tl.From, tl.To, tl.Stamps, want)
	}
}

func TestDeviceNeedsNoLoadOnceAllOfItIsBound(t *testing.T) {
	child := func(driver string) drivers.Device {
		return drivers.Device{Bus: "virtio", Modalias: "virtio:d00000001v00001AF4", Driver: driver}
	}
	for _, tc := range []struct {
		name string
		dev  drivers.Device
		want bool
	}{
		{"without a driver", drivers.Device{}, false},
		{"with one", drivers.Device{Driver: "e1000"}, true},
		{"a child without one", drivers.Device{Driver: "virtio-pci", Children: []drivers.Device{child("")}}, false},
		{"all with one", drivers.Device{Driver: "virtio-pci", Children: []drivers.Device{child("virtio_net")}}, true},
		{"a child that no module can claim", drivers.Device{Driver: "pcieport", Children: []drivers.Device{{Bus: "pci_express"}}}, true},
		{"a child's child without one", drivers.Device{Driver: "a", Children: []drivers.Device{{Modalias: "b:1", Driver: "b", Children: []drivers.Device{child("")}}}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := complete(tc.dev); got != tc.want {
				t.Errorf("complete = %v, want %v", got, tc.want)
			}
		})
	}
}
