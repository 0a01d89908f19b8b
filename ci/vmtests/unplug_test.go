// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/hotplug"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestUnplugged moves a guest whose NIC must not be there while it moves: it is
// unplugged, the guest goes to a host without one, and is given another there. A
// guest that was told beforehand loses nothing; one that is only asked loses what the
// driver had when the kernel took it away, but no connection.
func TestUnplugged(t *testing.T) {
	for _, tc := range []struct {
		name  string
		typ   machine.Type
		ports bool
		told  bool
		first rig.NIC
		then  []rig.NIC
	}{
		{"to another bus family in another slot, and back to the slot of the first", machine.PC, false, true,
			e1000At2, []rig.NIC{virtioAt5, rtl8139At2}},
		{"virtio, to a fresh one in its place", machine.PC, false, true, virtioAt2, []rig.NIC{virtioAt2}},
		{"PCI Express, in a port", machine.Q35, true, true, e1000eAt2, []rig.NIC{virtioAt5}},
		{"a guest that is not told", machine.PC, false, false, e1000At2, []rig.NIC{virtioAt5}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, tc.first, func(o *setup) { o.Type, o.RootPorts = tc.typ, tc.ports })
			g.traffic()
			for i, nic := range tc.then {
				g.replug(tc.told, nic)
				tl := g.recovered(i + 1)
				g.lossless(tl)
				// A guest that is not told may find out in several ways.
				if tc.told && tl.Cause != ctl.CauseUnplug {
					t.Errorf("cause of move %d is %q, want %q", i+1, tl.Cause, ctl.CauseUnplug)
				}
				g.traffic()
			}
			if tc.told {
				g.unharmed()
				return
			}
			g.connected()
		})
	}
}

// options are those of a move without the NIC.
func (g *guest) options(told bool) (opts hotplug.Options) {
	if told {
		opts.Guest = g.Guest()
	}
	opts.OnStep = func(s hotplug.Step) {
		g.rec.Write([]byte(strings.Join([]string{"step", string(s.Op), s.Device, map[bool]string{true: "over"}[s.Over], "\n"}, " ")))
	}
	return opts
}

// replug moves the guest to a host that is given its NICs, but for standbys, when the guest is there.
func (g *guest) replug(told bool, nics ...rig.NIC) {
	g.t.Helper()
	dst, incoming, err := g.PrepareEmpty(g.ctx, nics...)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.Replug(g.ctx, dst, incoming, g.options(told), nics...); err != nil {
		g.t.Fatalf("migration to a host that is given %v: %v", nics, err)
	}
}

// TestUnpluggedInVain begins such moves that fail when the NIC is gone already. The
// guest is given it back, and nothing is lost.
func TestUnpluggedInVain(t *testing.T) {
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
		{"the destination dies when the guest was stopped already", machine.PC, migrate.StageDeviceState,
			func(dst *vm.VM, _ context.CancelFunc) { dst.Kill() }, nil},
		{"the destination is another machine and refuses", machine.Q35, "", nil, migrate.ErrDestinationLost},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, fullImage, e1000At2)
			g.traffic()
			g.Type = tc.typ
			dst, incoming, err := g.PrepareEmpty(g.ctx, virtioAt5)
			g.Type = machine.PC
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(g.ctx)
			defer cancel()
			var once sync.Once
			g.OnEvent = func(e migrate.Event) {
				if tc.at != "" && e.Stage == tc.at {
					once.Do(func() { tc.spoil(dst, cancel) })
				}
			}
			src := g.Host
			_, err = g.Replug(ctx, dst, incoming, g.options(true), virtioAt5)
			g.OnEvent = nil
			var changed *hotplug.Error
			if !errors.As(err, &changed) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Fatalf("the move ended with %v, want %v", err, tc.is)
			}
			t.Log(err)
			if g.Host != src || changed.Source.Status != "running" || len(changed.Source.Lacks) != 0 {
				t.Errorf("the source is %+v", changed.Source)
			}
			tl := g.recovered(1)
			g.lossless(tl)
			if tl.From != tl.To {
				t.Errorf("the guest had %s and has %s", tl.From, tl.To)
			}
			g.traffic()
			// What came back can be taken away again.
			g.replug(true, virtioAt5)
			g.lossless(g.recovered(2))
			g.unharmed()
		})
	}
}

// TestPluggedLate moves a guest to a host that cannot plug in what it was told to: the
// guest is there and holds what is sent, until somebody plugs in what can be.
func TestPluggedLate(t *testing.T) {
	g := start(t, fullImage, e1000At2)
	g.traffic()
	dst, incoming, err := g.PrepareEmpty(g.ctx, virtioAt5)
	if err != nil {
		t.Fatal(err)
	}
	devices, err := g.Devices(dst)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := hotplug.Parse("e1000,id=bad,netdev=nowhere")
	if err != nil {
		t.Fatal(err)
	}
	opts := g.options(true)
	opts.Plug = []hotplug.Device{bad}
	report, err := g.Replug(g.ctx, dst, incoming, opts, virtioAt5)
	if report == nil || !errors.Is(err, hotplug.ErrNotPlugged) {
		t.Fatalf("the move ended with %v, want %v", err, hotplug.ErrNotPlugged)
	}
	g.waitRole("active", func(st ctl.RoleStatus) bool { return st.Mode == ctl.ModeActive && st.Held > 0 && st.Carrier })
	if err := hotplug.Plug(g.ctx, dst.QMP, devices, nil); err != nil {
		t.Fatal(err)
	}
	g.lossless(g.recovered(1))
	g.traffic()
	g.unharmed()
}

// command is umbra itself.
var command = sync.OnceValues(func() (string, error) {
	return compile(filepath.Join(workDir, "umbra"), "build", "../../cmd/umbra")
})

// TestBlockedMigration moves a guest with a device that QEMU does not migrate, by hand:
// the command takes it away, leaves the NIC behind as ever, and plugs another in.
func TestBlockedMigration(t *testing.T) {
	umbra, err := command()
	if err != nil {
		t.Fatal(err)
	}
	const (
		disk    = "nvme,id=disk,drive=backing,serial=umbra,addr=0x6"
		backing = "null-co,node-name=backing,read-zeroes=on"
	)
	// A monitor of its own for the command: the rig holds the first one.
	monitor := func(path string) []string {
		return []string{"-blockdev", backing, "-qmp", "unix:" + path + ",server=on,wait=off"}
	}
	g := start(t, fullImage, e1000At2, func(o *setup) {
		o.Extra = append(monitor(filepath.Join(o.Dir, "from")), "-device", disk)
	})
	from, to := filepath.Join(g.Dir, "from"), filepath.Join(g.Dir, "to")
	g.traffic()

	g.Extra = nil
	_, err = g.Move(g.ctx, rtl8139At2)
	if err == nil || !strings.Contains(err.Error(), "nvme") {
		t.Fatalf("the migration was not blocked: %v", err)
	}
	g.traffic()

	g.Extra = monitor(to)
	dst, incoming, err := g.Prepare(g.ctx, rtl8139At2)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(g.ctx, umbra, "migrate", "--from", from, "--to", to, "--incoming", incoming,
		"--direct", directID, "--unplug", disk, "--plug", disk,
		"--from-ctl", g.Host.Machine.Ctl, "--ctl", dst.Machine.Ctl).CombinedOutput()
	t.Logf("umbra migrate:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"unplug disk: done", "migrate: done", "plug disk: done"} {
		if !strings.Contains(string(out), step) {
			t.Errorf("it does not say %q", step)
		}
	}
	g.Moved(dst, rtl8139At2)
	g.lossless(g.recovered(1))
	g.traffic()
	g.unharmed()
}
