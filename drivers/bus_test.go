// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers

import (
	"errors"
	"testing"

	"github.com/umbra-vm/umbra/drivers/pci"
)

func TestJudge(t *testing.T) {
	e1000e := pci.IDs{Vendor: 0x8086, Device: 0x10d3}
	belief := pci.Belief{IDs: e1000e, MSI: true}
	var (
		alive   = pci.Config{IDs: e1000e, MSI: true, Complete: true}
		fresh   = pci.Config{IDs: e1000e, Complete: true}
		another = pci.Config{IDs: pci.IDs{Vendor: 0x10ec, Device: 0x8139}, Complete: true}
		absent  = pci.Config{Absent: true}
	)
	for _, tt := range []struct {
		name  string
		reads []pci.Config
		want  Verdict
		err   error
	}{
		{"a device that is alive is read once", []pci.Config{alive}, Alive, nil},
		{"an address that holds nothing is read once", []pci.Config{absent}, Absent, nil},
		{"a fresh device is read twice", []pci.Config{fresh, fresh}, Reset, nil},
		{"another model is read twice", []pci.Config{another, another}, Replaced, nil},
		{"a read that a migration cut in two is not believed: nothing is there", []pci.Config{fresh, absent}, Absent, nil},
		{"a read that a migration cut in two is not believed: another model is there", []pci.Config{fresh, another}, Replaced, nil},
		{"a second read that asks for patience is heeded", []pci.Config{fresh, {Starting: true}}, Unknown, ErrNotReady},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			got, reason, err := judge(belief, func() (pci.Config, error) {
				n++
				return tt.reads[n-1], nil
			})
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%v (%s), %v; want %v, %v", got, reason, err, tt.want, tt.err)
			}
			if n != len(tt.reads) {
				t.Errorf("read %d times, want %d", n, len(tt.reads))
			}
		})
	}
}
