// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/drivers/pci"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

const (
	slot2 = "0000:00:02.0"
	slot5 = "0000:00:05.0"
)

func e1000(slot string) drivertest.Function {
	return drivertest.Function{Address: slot, IDs: pci.IDs{Vendor: 0x8086, Device: 0x100e}, Class: 0x020000, BARs: []drivertest.BAR{drivertest.Memory, drivertest.IO}}
}

func rtl8139(slot string) drivertest.Function {
	return drivertest.Function{Address: slot, IDs: pci.IDs{Vendor: 0x10ec, Device: 0x8139}, Class: 0x020000, BARs: []drivertest.BAR{drivertest.IO}}
}

func unknown(slot string) drivertest.Function {
	return drivertest.Function{Address: slot, IDs: pci.IDs{Vendor: 0xdead, Device: 0xbeef}, Class: 0x020000, BARs: []drivertest.BAR{drivertest.IO}}
}

// newMachine has the drivers of an e1000 and an RTL8139.
func newMachine(t *testing.T) *drivertest.Machine {
	m := drivertest.New(t)
	for name, ids := range map[string]string{"e1000": "v00008086d0000100E", "8139cp": "v000010ECd00008139"} {
		m.AddModule(drivertest.Module{
			Name: name, Aliases: []string{"pci:" + ids + "sv*sd*bc*sc*i*"},
			Driver: drivertest.Driver{Name: name, Class: "net"},
		})
	}
	return m
}

// fakeClass is a class whose shadows write down what they are asked for.
type fakeClass struct {
	mu     sync.Mutex
	calls  []string
	intact bool
	// activated are the roles of the calls of Activate.
	activated []string
	// opened are the drivers of the calls of Open.
	opened []string
	// link, if not nil, is what Complete waits for.
	link chan struct{}
}

// base is the class without what tests have put around it.
func (c *fakeClass) base() *fakeClass { return c }

// testClass is a fakeClass, or one that is built on it.
type testClass interface {
	Class
	base() *fakeClass
}

func (c *fakeClass) Name() string               { return "net" }
func (c *fakeClass) Owns(d drivers.Device) bool { return d.Class>>16 == 2 }
func (c *fakeClass) note(f string, args ...any) {
	c.mu.Lock()
	c.calls = append(c.calls, fmt.Sprintf(f, args...))
	c.mu.Unlock()
}
func (c *fakeClass) Identify(d drivers.Device) Identity {
	return Identity{Address: d.Address, IDs: fmt.Sprintf("%04x:%04x", d.IDs.Vendor, d.IDs.Device)}
}
func (c *fakeClass) New(r Role, _ *journal.Journal) (Shadow, error) {
	return &fakeShadow{c, r.Name}, nil
}

// take returns the calls so far and forgets them.
func (c *fakeClass) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

type fakeShadow struct {
	c    *fakeClass
	role string
}

func (s *fakeShadow) Activate(_ context.Context, old Old, _ *Recovery) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.activated = append(s.c.activated, s.role)
	// An alarm and the round after it both ask for it.
	call := fmt.Sprintf("activate %s %s", old.Driver, old.Verdict)
	if n := len(s.c.calls); n == 0 || s.c.calls[n-1] != call {
		s.c.calls = append(s.c.calls, call)
	}
	return nil
}
func (s *fakeShadow) Detach(_ context.Context, old Old, _ *Recovery) error {
	s.c.note("detach %s", old.Driver)
	return nil
}
func (s *fakeShadow) Open(_ context.Context, d drivers.Device, _ *Recovery) error {
	s.c.note("open %s %s", d.Driver, d.Address)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.opened = append(s.c.opened, d.Driver)
	return nil
}
func (s *fakeShadow) Complete(ctx context.Context, d drivers.Device, _ *Recovery) error {
	s.c.mu.Lock()
	link := s.c.link
	s.c.mu.Unlock()
	if link != nil {
		s.c.note("wait for the link of %s", d.Driver)
		select {
		case <-link:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.c.note("complete %s", d.Driver)
	return nil
}
func (s *fakeShadow) Intact(_ context.Context, d drivers.Device) (bool, error) {
	s.c.note("look at %s", d.Driver)
	return s.c.intact, nil
}
func (s *fakeShadow) Status(*ctl.RoleStatus) {}
func (s *fakeShadow) Log() []ctl.LogEntry    { return nil }

// guest is a Manager at work on a fake machine.
type guest struct {
	*testing.T
	hw      *drivertest.Machine
	class   *fakeClass
	dir     string
	m       *Manager
	signals chan Signal
	stop    func()
}

func start(t *testing.T, hw *drivertest.Machine, class *fakeClass, dir string) *guest {
	return startRoles(t, hw, class, dir, Role{Name: "net0", Class: "net"})
}

func startRoles(t *testing.T, hw *drivertest.Machine, class *fakeClass, dir string, roles ...Role) *guest {
	return startOn(t, hw.Tree(), hw, class, dir, roles...)
}

func startOn(t *testing.T, hardware Hardware, hw *drivertest.Machine, class testClass, dir string, roles ...Role) *guest {
	g := &guest{T: t, hw: hw, class: class.base(), dir: dir, signals: make(chan Signal)}
	m, err := NewManager(Options{
		Hardware: hardware, Classes: []Class{class}, StateDir: dir,
		Roles:    roles,
		Watchdog: time.Hour, // far from a machine that is busy with other tests
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.m = m
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx, g.signals) }()
	g.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(g.stop)
	return g
}

// role waits until the role's status is as ok says.
func (g *guest) role(what string, ok func(ctl.RoleStatus) bool) ctl.RoleStatus {
	g.Helper()
	deadline := time.Now().Add(20 * time.Second) // generous: only a hang is meant
	for {
		st := g.m.Roles()[0]
		if ok(st) {
			return st
		}
		if time.Now().After(deadline) {
			g.Fatalf("the role never was %s; it is %+v\ncalls: %q\nkernel: %q", what, st, g.class.take(), g.hw.Events())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g *guest) passive(driver string) {
	g.Helper()
	g.role("in passive mode on "+driver, func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.Driver == driver
	})
}

func (g *guest) active(message string) {
	g.Helper()
	g.role("in active mode, saying "+message, func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModeActive && strings.Contains(st.Message, message)
	})
}

func (g *guest) calls(want ...string) {
	g.Helper()
	if got := g.class.take(); !slices.Equal(got, want) {
		g.Errorf("the shadow was asked\n%q, want\n%q", got, want)
	}
}

// newMachineWith is a new machine whose kernel knows of these devices.
func newMachineWith(t *testing.T, fs ...drivertest.Function) *drivertest.Machine {
	hw := newMachine(t)
	for _, f := range fs {
		hw.Plug(f)
	}
	if err := hw.Tree().Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	return hw
}

func boot(t *testing.T, fs ...drivertest.Function) *guest {
	return start(t, newMachineWith(t, fs...), &fakeClass{}, t.TempDir())
}

var migrated = Signal{Cause: ctl.CauseMigration}
