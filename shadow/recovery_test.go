// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

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

func TestNobodyStartsBeforeAllAreReady(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ready []time.Duration // when each is
		want  time.Duration   // when they start
	}{
		{"one alone does not wait", []time.Duration{0}, 0},
		{"the last to be ready is waited for", []time.Duration{0, 20 * time.Millisecond, 5 * time.Millisecond}, 20 * time.Millisecond},
		{"but not one that takes too long", []time.Duration{0, time.Minute}, musterLimit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMuster(len(tc.ready))
				began := time.Now()
				for _, d := range tc.ready[1:] {
					go func() {
						time.Sleep(d)
						s.done()
					}()
				}
				s.done()
				s.wait()
				if took := time.Since(began); took != tc.want {
					t.Errorf("started after %v, want %v", took, tc.want)
				}
				<-s.all // whoever was late
			})
		})
	}
}
