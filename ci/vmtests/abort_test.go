// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestAborted begins migrations that do not take place. The guest goes on
// where it is, and its driver is left alone, whatever signals arrive.
func TestAborted(t *testing.T) {
	for _, tc := range []struct {
		name string
		typ  machine.Type // of the destination
		// at is the stage of the migration at which spoil is called.
		at    migrate.Stage
		spoil func(dst *vm.VM, cancel context.CancelFunc)
		is    error
	}{
		{"cancelled while RAM is on its way", machine.PC, migrate.StageRAM,
			func(_ *vm.VM, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"cancelled when the guest was stopped already", machine.PC, migrate.StageStopped,
			func(_ *vm.VM, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"the destination dies while RAM is on its way", machine.PC, migrate.StageRAM,
			func(dst *vm.VM, _ context.CancelFunc) { dst.Kill() }, nil},
		{"the destination dies when the guest was stopped already", machine.PC, migrate.StageDeviceState,
			func(dst *vm.VM, _ context.CancelFunc) { dst.Kill() }, nil},
		{"the destination is another machine and refuses", machine.Q35, "", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, e1000At2)
			g.traffic()
			before, err := g.status()
			if err != nil {
				t.Fatal(err)
			}
			stages := g.spoiled(tc.typ, tc.at, tc.spoil, tc.is)
			if tc.at != "" && !slices.Contains(stages, tc.at) {
				t.Fatalf("the migration never got to %q: %v", tc.at, stages)
			}
			g.traffic()
			// A host that is wrong about it must not do harm either.
			if err := g.Call(g.ctx, ctl.CmdMigrated, ctl.Migrated{Generation: "none"}, nil); err != nil {
				t.Error(err)
			}
			g.traffic()
			g.untouched(before)
			g.arrived()
			// What was left in one piece can be moved in earnest.
			g.move(rtl8139At2)
			g.lossless(g.recovered(1))
			g.unharmed()
		})
	}
}

// spoiled makes a migration that fails and returns the stages it went through.
func (g *guest) spoiled(typ machine.Type, at migrate.Stage, spoil func(*vm.VM, context.CancelFunc), is error) (stages []migrate.Stage) {
	g.t.Helper()
	ours := g.Type
	g.Type = typ
	dst, incoming, err := g.Prepare(g.ctx, rtl8139At2)
	g.Type = ours
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(g.ctx)
	defer cancel()
	g.OnEvent = func(e migrate.Event) {
		if !slices.Contains(stages, e.Stage) {
			stages = append(stages, e.Stage)
			if e.Stage == at {
				spoil(dst, cancel)
			}
		}
	}
	defer func() { g.OnEvent = nil }()
	src := g.Host
	if _, err = g.MoveTo(ctx, dst, incoming, rtl8139At2); err == nil {
		g.t.Fatal("the migration took place")
	}
	if is != nil && !errors.Is(err, is) {
		g.t.Errorf("the migration failed with %v, want %v", err, is)
	}
	if g.Host != src {
		g.t.Fatal("the guest left its host")
	}
	if status, err := src.QMP.Status(g.ctx); err != nil || status != "running" {
		g.t.Errorf("the source is %q, %v", status, err)
	}
	return stages
}

// arrived waits until all datagrams that were sent so far have arrived: one that is
// missing in the end was lost later.
func (g *guest) arrived() {
	g.t.Helper()
	sent := uint64(g.bed.Witness.Snapshot().UDPOut.Sent)
	g.until("all datagrams sent so far have arrived", func() error {
		missing := g.bed.Witness.Snapshot().UDPOut.MissingRanges
		if len(missing) > 0 && missing[0].First < sent {
			return fmt.Errorf("of %d there are missing %v", sent, missing)
		}
		return nil
	})
}

// untouched checks that no recovery has happened or begun since before.
func (g *guest) untouched(before ctl.Status) {
	g.t.Helper()
	now, err := g.status()
	if err != nil {
		g.t.Fatal(err)
	}
	if now.Recoveries != before.Recoveries {
		g.t.Errorf("%d recoveries, %d before", now.Recoveries, before.Recoveries)
	}
	tls, err := g.timelines()
	if err != nil || len(tls) != 1 {
		g.t.Errorf("%d timelines, want that of the boot alone (%v)", len(tls), err)
	}
	for i, r := range now.Roles {
		b := before.Roles[i]
		if r.Mode != ctl.ModePassive || r.Device != b.Device || r.Driver != b.Driver || r.Iface != b.Iface {
			g.t.Errorf("role is %+v, was %+v", r, b)
		}
	}
}
