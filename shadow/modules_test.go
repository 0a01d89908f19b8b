// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"log/slog"
	"runtime"
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/drivers/drivertest"
)

func TestModulesOfABootAreLoadedTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	hw := newMachine(t)
	met := make(chan struct{})
	for name, meet := range map[string]func(){
		"tun":       func() { met <- struct{}{} }, // returns once sch_plug is there too
		"sch_plug":  func() { <-met },
		"bonding":   func() {},
		"tls":       func() {},
		"bond_user": func() {},
	} {
		add := drivertest.Module{Name: name, Init: func(string) { meet() }}
		if name == "bond_user" {
			add.Needs = []string{"bonding"}
		}
		hw.AddModule(add)
	}
	m, err := NewManager(Options{
		Hardware: hw.Tree(), StateDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Modules: []string{"bond_user", "absent", "bonding max_bonds=0", "tls mode=1", "tun", "sch_plug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.loadModules(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := hw.Events()
	if want := []string{"load bonding max_bonds=0", "load tls mode=1"}; len(events) != 5 || !slices.Equal(events[:2], want) {
		t.Errorf("loaded %q, want %q first, each with its parameters, and then the three others", events, want)
	}
}
