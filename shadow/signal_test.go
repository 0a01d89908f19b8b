// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"testing"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// alertClass is a class that can get ready.
type alertClass struct{ *fakeClass }

func (c alertClass) Alert() { c.note("alert") }

// TestAlertComesFirst has classes told before anything is done about a migration.
func TestAlertComesFirst(t *testing.T) {
	hw := newMachineWith(t, e1000(slot2))
	class := &fakeClass{}
	g := startOn(t, hw.Tree(), hw, alertClass{class}, t.TempDir(), Role{Name: "net0", Class: "net"})
	g.passive("e1000")
	class.take()
	hw.Plug(rtl8139(slot2))
	g.signals <- migrated
	g.passive("8139cp")
	g.calls("alert", "activate e1000 replaced", "detach e1000", "open 8139cp "+slot2, "complete 8139cp")
}

func TestAlert(t *testing.T) {
	for _, tt := range []struct {
		rule string
		sig  Signal
		idle bool
		want bool
	}{
		{"a migration", migrated, true, true},
		{"a migration in the middle of a recovery", migrated, false, true},
		{"a card that comes", Signal{Cause: ctl.CauseHotplug}, true, true},
		{"one that a recovery may have found", Signal{Cause: ctl.CauseHotplug}, false, false},
		{"one that went, which tells who it was", Signal{Cause: ctl.CauseHotplug, Removed: slot2}, true, false},
		{"a guest that stood still", Signal{Cause: "stall", Stalled: true, Quiet: true}, true, true},
		{"a check that found something", Signal{Cause: "identity check", Quiet: true}, true, false},
		{"a wish of the host's", Signal{Cause: ctl.CauseUnplug, Unplug: slot2}, true, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			class := alertClass{&fakeClass{}}
			m, err := NewManager(Options{Classes: []Class{class}, StateDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			m.alert(tt.sig, tt.idle)
			if got := len(class.take()) > 0; got != tt.want {
				t.Errorf("alert: %v, want %v", got, tt.want)
			}
		})
	}
}
