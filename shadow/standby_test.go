// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

// standbyClass is a fakeClass in which an RTL8139 is paravirtual, and all devices have
// one MAC.
type standbyClass struct {
	*fakeClass
	cut atomic.Bool // the standby has no link
}

func (c *standbyClass) Identify(d drivers.Device) Identity {
	id := c.fakeClass.Identify(d)
	id.MAC, id.Paravirtual = "52:54:00:00:00:0a", d.IDs.Vendor == 0x10ec
	return id
}

func (c *standbyClass) New(r Role, _ *journal.Journal) (Shadow, error) {
	return &standbyShadow{&fakeShadow{c.fakeClass, r.Name}, c}, nil
}

type standbyShadow struct {
	*fakeShadow
	class *standbyClass
}

func (s *standbyShadow) StandBy(_ context.Context, d drivers.Device) error {
	s.c.note("stand by %s", d.Driver)
	return nil
}
func (s *standbyShadow) Ready(context.Context) bool { return !s.class.cut.Load() }
func (s *standbyShadow) Dismiss(_ context.Context, old Old) error {
	s.c.note("dismiss %s %s", old.Driver, old.Verdict)
	return nil
}

// bootBeside boots a guest with these devices whose class has standbys.
func bootBeside(t *testing.T, fs ...drivertest.Function) (*guest, *standbyClass) {
	class := &standbyClass{fakeClass: &fakeClass{}}
	return startBeside(t, newMachineWith(t, fs...), class, t.TempDir()), class
}

func startBeside(t *testing.T, hw *drivertest.Machine, class *standbyClass, dir string) *guest {
	return startOn(t, hw.Tree(), hw, class, dir, Role{Name: "net0", Class: "net"})
}

// add plugs a device into a running guest, whose kernel finds it once it has given up what
// was in its place.
func (g *guest) add(f drivertest.Function) {
	g.Helper()
	g.role("rid of the old device", func(ctl.RoleStatus) bool {
		devs, err := g.hw.Tree().Scan(g.Context())
		return err == nil && !slices.ContainsFunc(devs, func(d drivers.Device) bool { return d.Address == f.Address })
	})
	g.hw.Plug(f)
	if err := g.hw.Tree().Rescan(g.Context()); err != nil {
		g.Fatal(err)
	}
	g.signals <- Signal{Cause: ctl.CauseHotplug, Removed: f.Address}
	// The old one's driver, which it is bound to, may be unloaded now. The kernel tells of that.
	ctx := g.Context()
	go func() {
		for ctx.Err() == nil {
			if dev, err := g.hw.Tree().Device(ctx, f.Address); err == nil && dev.Driver == "" {
				select {
				case g.signals <- Signal{Cause: ctl.CauseHotplug}:
				case <-ctx.Done():
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
}

// beside waits until the role is on driver with a standby in slot5.
func (g *guest) beside(driver string) {
	g.Helper()
	g.role("on "+driver+" with a standby", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.Driver == driver && st.Device == slot2 && st.Standby == slot5 && !st.OnStandby
	})
}

// onStandby waits until the role is on its standby.
func (g *guest) onStandby() {
	g.Helper()
	g.role("on its standby", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModePassive && st.Device == "" && st.OnStandby && strings.Contains(st.Message, "on the standby: no net device")
	})
}

// toStandby moves the guest to where its device is not.
func (g *guest) toStandby() {
	g.Helper()
	g.hw.Pull(slot2)
	g.signals <- migrated
	g.onStandby()
}

// toDevice plugs an e1000 into a guest whose role is on its standby.
func (g *guest) toDevice() {
	g.Helper()
	g.hw.Plug(e1000(slot2))
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.beside("e1000")
}

func (g *guest) alone() {
	g.Helper()
	g.role("without a standby", func(st ctl.RoleStatus) bool { return st.Standby == "" && !st.OnStandby })
}

func TestStandbyServesTheRoleWhileThereIsNoDevice(t *testing.T) {
	g, _ := bootBeside(t, rtl8139(slot5), e1000(slot2))
	g.beside("e1000")
	g.calls("open e1000 "+slot2, "complete e1000", "stand by 8139cp")
	g.toStandby()
	g.calls("activate e1000 absent", "open 8139cp "+slot5, "detach e1000", "complete 8139cp")
	g.toDevice()
	g.calls("open e1000 "+slot2, "complete e1000")
	tls, err := g.m.Timelines("net0")
	if err != nil || len(tls) != 3 {
		t.Fatalf("%d timelines, %v", len(tls), err)
	}
	const device, standby = "e1000 at " + slot2, "8139cp at " + slot5 + " (standby)"
	if over, back := tls[1], tls[2]; over.From != device || over.To != standby || back.From != standby || back.To != device {
		t.Errorf("timelines from %q to %q, and from %q to %q", over.From, over.To, back.From, back.To)
	}
}

// gated is hardware whose kernel takes devices away only when it is let, and which tells
// of scans.
type gated struct {
	Hardware
	remove  chan struct{}
	scanned chan struct{}
}

func (h gated) Remove(ctx context.Context, dev drivers.Device) error {
	<-h.remove
	return h.Hardware.Remove(ctx, dev)
}

func (h gated) Scan(ctx context.Context) ([]drivers.Device, error) {
	devs, err := h.Hardware.Scan(ctx)
	select {
	case h.scanned <- struct{}{}:
	default:
	}
	return devs, err
}

func TestDeviceThatComesBeforeTheKernelHasGivenUpTheOldOneIsFound(t *testing.T) {
	hw := newMachineWith(t, e1000(slot2), rtl8139(slot5))
	slow := gated{hw.Tree(), make(chan struct{}), make(chan struct{}, 1)}
	let := sync.OnceFunc(func() { close(slow.remove) })
	defer let()
	class := &standbyClass{fakeClass: &fakeClass{}}
	g := startOn(t, slow, hw, class, t.TempDir(), Role{Name: "net0", Class: "net"})
	g.beside("e1000")
	g.toStandby()
	hw.Plug(e1000(slot2))
	select {
	case <-slow.scanned: // before
	default:
	}
	g.signals <- Signal{Cause: ctl.CauseHotplug} // the only word of it
	<-slow.scanned
	let()
	g.beside("e1000")
}

func TestDeviceThatWasPluggedBeforeAMigrationDoesNotTakeTheWordOfItsEnd(t *testing.T) {
	g, _ := bootBeside(t, rtl8139(slot5), e1000(slot2))
	g.beside("e1000")
	g.toStandby()
	g.toDevice()
	g.hw.Pull(slot2)
	g.signals <- Signal{Cause: ctl.CauseMigration, Resumed: Now()}
	g.onStandby()
	tls, err := g.m.Timelines("net0")
	if err != nil || len(tls) != 4 {
		t.Fatalf("%d timelines, %v", len(tls), err)
	}
	if _, ok := tls[2].Stamp(ctl.StampResumed); ok {
		t.Errorf("a device that was plugged follows a resumption: %v", tls[2].Stamps)
	}
	if _, ok := tls[3].Stamp(ctl.StampResumed); !ok {
		t.Errorf("the move does not start where the host says: %v", tls[3].Stamps)
	}
}

func TestStandbyServesTheRoleBeforeTheNextDeviceIsLookedFor(t *testing.T) {
	g, _ := bootBeside(t, e1000(slot2), rtl8139(slot5))
	g.beside("e1000")
	g.class.take()
	g.hw.Plug(e1000(slot2)) // a fresh one
	g.signals <- migrated
	g.role("recovered twice", func(ctl.RoleStatus) bool { return g.m.Recoveries() == 2 })
	g.beside("e1000")
	g.calls("activate e1000 reset", "detach e1000", "open 8139cp "+slot5, "complete 8139cp", "open e1000 "+slot2, "complete e1000")
}

func TestStandbyComesAndGoes(t *testing.T) {
	for _, tc := range []struct {
		name  string
		go_   func(*guest)
		calls []string
	}{
		{"it is left behind by a migration", func(g *guest) {
			g.hw.Pull(slot5)
			g.signals <- migrated
		}, []string{"dismiss 8139cp absent"}},
		{"a host tells that it is to be unplugged", func(g *guest) {
			g.signals <- Signal{Cause: ctl.CauseUnplug, Unplug: slot5, UnplugBy: Now() + int64(time.Hour)}
			g.alone()
			g.hw.Pull(slot5)
			g.remove(slot5)
		}, []string{"dismiss 8139cp alive"}},
		{"it goes together with the device", func(g *guest) {
			g.hw.Pull(slot2)
			g.hw.Pull(slot5)
			g.signals <- migrated
			g.active("no net device")
			g.hw.Plug(e1000(slot2))
			g.signals <- Signal{Cause: ctl.CauseHotplug}
		}, []string{"activate e1000 absent", "dismiss 8139cp absent", "detach e1000", "open e1000 " + slot2, "complete e1000"}},
		{"it goes while it carries", func(g *guest) {
			g.hw.Pull(slot2)
			g.signals <- migrated
			g.onStandby()
			g.hw.Pull(slot5)
			g.signals <- migrated
			g.active("no net device")
			g.hw.Plug(e1000(slot2))
			g.signals <- Signal{Cause: ctl.CauseHotplug}
		}, []string{"activate e1000 absent", "open 8139cp " + slot5, "detach e1000", "complete 8139cp",
			"activate 8139cp absent", "open e1000 " + slot2, "detach 8139cp", "complete e1000"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, _ := bootBeside(t, e1000(slot2), rtl8139(slot5))
			g.beside("e1000")
			g.class.take()
			tc.go_(g)
			g.alone()
			g.passive("e1000")
			g.calls(tc.calls...)
			g.add(rtl8139(slot5))
			g.beside("e1000")
			g.calls("stand by 8139cp")
		})
	}
}

func TestDeviceTakesOverFromAParavirtualOneThatWasAlone(t *testing.T) {
	g, _ := bootBeside(t, rtl8139(slot5))
	g.passive("8139cp")
	g.alone()
	g.calls("open 8139cp "+slot5, "complete 8139cp")
	g.hw.Plug(e1000(slot2))
	g.signals <- migrated
	g.beside("e1000")
	g.calls("stand by 8139cp", "open e1000 "+slot2, "complete e1000")
}

func TestStandbyWithoutALinkIsNotUsedBeforeItHasOne(t *testing.T) {
	g, class := bootBeside(t, e1000(slot2), rtl8139(slot5))
	g.beside("e1000")
	class.cut.Store(true)
	g.hw.Pull(slot2)
	g.signals <- migrated
	g.active("no net device")
	class.cut.Store(false)
	g.onStandby()
}

func TestStandbyThatCarriesIsLostWhileTheDeviceHasNoLink(t *testing.T) {
	g, class := bootBeside(t, e1000(slot2), rtl8139(slot5))
	g.beside("e1000")
	g.toStandby()
	class.mu.Lock()
	class.link = make(chan struct{})
	class.mu.Unlock()
	g.hw.Plug(e1000(slot2))
	g.class.take()
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.role("on its standby until the device has a link", func(st ctl.RoleStatus) bool {
		class.mu.Lock()
		defer class.mu.Unlock()
		return st.OnStandby && st.Mode == ctl.ModePassive && slices.Contains(class.calls, "wait for the link of e1000")
	})
	class.mu.Lock()
	class.link = nil
	class.mu.Unlock()
	g.hw.Pull(slot5)
	g.signals <- migrated
	g.role("recovered twice", func(ctl.RoleStatus) bool { return g.m.Recoveries() == 2 })
	g.alone()
	g.calls("open e1000 "+slot2, "wait for the link of e1000", "activate 8139cp absent", "detach 8139cp",
		"open e1000 "+slot2, "complete e1000")
}

func TestDeviceToBeUnpluggedIsGivenUpForTheStandby(t *testing.T) {
	g, _ := bootBeside(t, e1000(slot2), rtl8139(slot5))
	g.beside("e1000")
	g.class.take()
	g.signals <- Signal{Cause: ctl.CauseUnplug, Unplug: slot2, UnplugBy: Now() + int64(time.Hour)}
	g.onStandby()
	g.calls("activate e1000 alive", "detach e1000", "open 8139cp "+slot5, "complete 8139cp")
	g.m.Keeps(slot2)
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.beside("e1000")
}

func TestSuccessorFindsARoleOnItsStandbyAsItIs(t *testing.T) {
	g, class := bootBeside(t, e1000(slot2), rtl8139(slot5))
	g.beside("e1000")
	g.toStandby()
	g.stop()
	class.take()
	class.intact = true
	next := startBeside(t, g.hw, class, g.dir)
	next.onStandby()
	next.calls("stand by 8139cp", "look at 8139cp")
	next.hw.Plug(e1000(slot2))
	next.signals <- Signal{Cause: ctl.CauseHotplug}
	next.beside("e1000")
	next.calls("open e1000 "+slot2, "complete e1000")
}
