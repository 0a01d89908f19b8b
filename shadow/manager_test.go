// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

func TestBootServesTheRole(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.calls("open e1000 "+slot2, "complete e1000")
}

func TestOldDriverLeavesFirstWhereItsAddressIsTaken(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	g.hw.Plug(rtl8139(slot2))
	g.signals <- migrated
	g.passive("8139cp")
	g.calls("activate e1000 replaced", "detach e1000", "open 8139cp "+slot2, "complete 8139cp")
}

func TestFreshDeviceOfTheSameModelIsRecoveredToo(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	g.hw.Plug(e1000(slot2))
	g.signals <- migrated
	g.role("recovered", func(ctl.RoleStatus) bool { return g.m.Recoveries() == 1 })
	g.calls("activate e1000 reset", "detach e1000", "open e1000 "+slot2, "complete e1000")
}

func TestNewDriverComesFirstWhereHardwareIsElsewhere(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	g.hw.Pull(slot2)
	g.hw.Plug(rtl8139(slot5))
	g.signals <- migrated
	g.passive("8139cp")
	g.calls("activate e1000 absent", "open 8139cp "+slot5, "detach e1000", "complete 8139cp")
	g.role("rid of the old device", func(ctl.RoleStatus) bool {
		return slices.Contains(g.hw.Events(), "remove "+slot2) && slices.Contains(g.hw.Events(), "unload e1000")
	})
}

func TestOldDriverClosesFirstWhereItsWatchdogIsNear(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	g.hw.Pull(slot2)
	g.hw.Plug(rtl8139(slot5))
	late := migrated
	late.At = Now() - 2*time.Hour.Nanoseconds()
	g.signals <- late
	g.passive("8139cp")
	g.calls("activate e1000 absent", "detach e1000", "open 8139cp "+slot5, "detach e1000", "complete 8139cp")
}

// port is a port whose slot has no power, because it is believed to be empty.
func port(address string) drivertest.Function {
	return drivertest.Function{Address: address, Class: 0x060400, Bridge: true, Slot: drivertest.SlotOff}
}

func TestSlotsThatWereEmptyAreLookedIntoAfterAMigration(t *testing.T) {
	const port3, port4, behind4 = "0000:00:03.0", "0000:00:04.0", "0000:02:00.0"
	powers := func(g *guest) (n int) {
		for _, e := range g.hw.Events() {
			if strings.HasPrefix(e, "power ") {
				n++
			}
		}
		return n
	}
	move := func(g *guest) {
		g.hw.Pull(slot2)
		nic := rtl8139(behind4)
		nic.Behind = port4
		g.hw.Plug(nic)
	}
	for _, tc := range []struct {
		rule   string
		signal Signal
	}{
		{"if somebody tells of it", migrated},
		{"if nobody does, but the device is not there any more", Signal{Cause: "identity check", Quiet: true}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			g := boot(t, e1000(slot2), port(port3), port(port4))
			g.passive("e1000")
			if powers(g) > 0 {
				t.Errorf("at boot, whoever is in charge has given the power that is needed: %q", g.hw.Events())
			}
			move(g)
			g.signals <- tc.signal
			g.passive("8139cp")
			g.role("rid of the empty slot", func(ctl.RoleStatus) bool {
				return slices.Contains(g.hw.Events(), "power off "+port3)
			})
			if slices.Contains(g.hw.Events(), "power off "+port4) {
				t.Errorf("the slot in use lost its power: %q", g.hw.Events())
			}
		})
	}
	t.Run("not if the device was pulled: the kernel knows of that, and of what is plugged next", func(t *testing.T) {
		t.Parallel()
		g := boot(t, e1000(slot2), port(port3), port(port4))
		g.passive("e1000")
		move(g)
		old := drivers.Device{Bus: "pci", Address: slot2, Path: filepath.Join(g.hw.Sysfs(), "devices/pci0000:00", slot2)}
		if err := g.hw.Tree().Remove(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		g.signals <- Signal{Cause: ctl.CauseHotplug}
		g.active("no net device")
		g.signals <- Signal{Cause: ctl.CauseHotplug}
		g.signals <- Signal{Cause: ctl.CauseHotplug} // taken only after the last was answered, or with it
		g.active("no net device")
		if powers(g) > 0 {
			t.Errorf("kernel: %q", g.hw.Events())
		}
		g.signals <- migrated
		g.passive("8139cp")
	})
}

func TestDeviceThatIsAliveIsLeftAlone(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	before := g.hw.Events()
	g.signals <- migrated // an aborted migration looks like this
	g.signals <- migrated // taken only after the first was answered
	g.signals <- migrated
	g.calls()
	if after := g.hw.Events(); !slices.Equal(before, after) {
		t.Errorf("the kernel was made to %q", after[len(before):])
	}
}

func TestRoleWithoutHardwareWaitsAndIsServedLater(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	g.hw.Pull(slot2)
	g.signals <- migrated
	g.active("no net device")
	g.hw.Plug(rtl8139(slot5))
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.passive("8139cp")
	g.calls("activate e1000 absent", "open 8139cp "+slot5, "detach e1000", "complete 8139cp")
}

func TestDeviceWithoutDriverIsNamed(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.hw.Plug(unknown(slot2))
	g.signals <- migrated
	g.active("dead:beef")
	g.active(slot2)
	g.hw.Plug(e1000(slot5))
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.passive("e1000")
}

func TestDriverThatComesLaterIsTriedAgain(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.hw.SetErr("8139cp", fmt.Errorf("out of memory"))
	g.hw.Plug(rtl8139(slot2))
	g.signals <- migrated
	g.active("out of memory")
	g.hw.SetErr("8139cp", nil)
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.passive("8139cp")
}

func TestSecondMigrationOvertakesARecoveryThatWaits(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	never := make(chan struct{})
	g.class.mu.Lock()
	g.class.link = never
	g.class.mu.Unlock()
	g.hw.Plug(rtl8139(slot2))
	g.signals <- migrated
	g.role("waiting for a link", func(ctl.RoleStatus) bool {
		g.class.mu.Lock()
		defer g.class.mu.Unlock()
		return slices.Contains(g.class.calls, "wait for the link of 8139cp")
	})
	g.class.mu.Lock()
	g.class.link = nil
	g.class.mu.Unlock()
	g.hw.Plug(e1000(slot2))
	g.signals <- migrated
	g.passive("e1000")
	g.calls("activate e1000 replaced", "detach e1000", "open 8139cp "+slot2, "wait for the link of 8139cp",
		"activate 8139cp replaced", "detach 8139cp", "open e1000 "+slot2, "complete e1000")
	if n := g.m.Recoveries(); n != 1 {
		t.Errorf("%d recoveries; a second signal extends one", n)
	}
}

func TestFindingOfTheSameMigrationOvertakesNothing(t *testing.T) {
	g := boot(t, e1000(slot2))
	for range 20 {
		g.passive("e1000")
		g.class.take()
		g.hw.Plug(rtl8139(slot2))
		g.signals <- migrated
		g.signals <- Signal{Cause: "identity check", Quiet: true}
		g.passive("8139cp")
		g.calls("activate e1000 replaced", "detach e1000", "open 8139cp "+slot2, "complete 8139cp")
		if tl, err := g.m.Timelines("net0"); err != nil || tl[len(tl)-1].Cause != ctl.CauseMigration {
			t.Fatalf("the migration that was told of is not the cause: %v, %v", tl, err)
		}
		g.hw.Plug(e1000(slot2))
		g.signals <- migrated
	}
}

func TestLossOfARoleDoesNotWaitForTheLinkOfAnother(t *testing.T) {
	hw := newMachineWith(t, e1000(slot2))
	class := new(fakeClass)
	g := startRoles(t, hw, class, t.TempDir(), Role{Name: "net0", Class: "net"}, Role{Name: "net1", Class: "net"})
	g.passive("e1000")
	class.mu.Lock()
	class.link = make(chan struct{}) // that never comes up
	class.mu.Unlock()
	hw.Plug(rtl8139(slot5))
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.role("the one that does not wait", func(ctl.RoleStatus) bool {
		class.mu.Lock()
		defer class.mu.Unlock()
		return slices.Contains(class.calls, "wait for the link of 8139cp")
	})
	class.mu.Lock()
	class.link = nil
	class.mu.Unlock()
	hw.Plug(e1000(slot2))
	g.signals <- migrated
	g.role("recovered, and the other with it", func(ctl.RoleStatus) bool {
		return g.m.Roles()[1].Mode == ctl.ModePassive && g.m.Roles()[0].Mode == ctl.ModePassive && g.m.Recoveries() == 2
	})
	// Once by the alarm, once by the round that gave the device up.
	if want := []string{"net0", "net0"}; !slices.Equal(class.activated, want) {
		t.Errorf("activated %q, want %q", class.activated, want)
	}
}

// unsure is hardware that cannot be judged for a while, as while the kernel takes a
// device away or adds one.
type unsure struct {
	Hardware
	address string
	verify  func(real func() (drivers.Verdict, error)) (drivers.Verdict, error)
}

func (u unsure) Verify(ctx context.Context, dev drivers.Device) (drivers.Verdict, error) {
	real := func() (drivers.Verdict, error) { return u.Hardware.Verify(ctx, dev) }
	if dev.Address != u.address {
		return real()
	}
	return u.verify(real)
}

func TestRoleInActiveModeIsNotCompletedOnADeviceThatCannotBeJudged(t *testing.T) {
	hw := newMachineWith(t, e1000(slot2))
	var seen, doubts atomic.Int32
	class := new(fakeClass)
	g := startOn(t, unsure{hw.Tree(), slot2, func(real func() (drivers.Verdict, error)) (drivers.Verdict, error) {
		v, err := real()
		if err == nil && v == drivers.Alive || seen.Add(1) == 1 {
			return v, err
		}
		// The alarm has seen that the device is lost. What comes next is in doubt.
		if doubts.Add(1) <= 2 {
			return drivers.Unknown, unix.ENOENT
		}
		return v, err
	}}, hw, class, t.TempDir(), Role{Name: "net0", Class: "net"}, Role{Name: "net1", Class: "net"})
	g.passive("e1000")
	class.mu.Lock()
	class.link = make(chan struct{}) // keeps a round busy with the other role
	class.mu.Unlock()
	hw.Plug(rtl8139(slot5))
	g.signals <- Signal{Cause: ctl.CauseHotplug}
	g.role("the one that does not wait", func(ctl.RoleStatus) bool {
		class.mu.Lock()
		defer class.mu.Unlock()
		return slices.Contains(class.calls, "wait for the link of 8139cp")
	})
	class.take()
	class.mu.Lock()
	class.link = nil
	class.mu.Unlock()
	hw.Plug(e1000(slot2))
	g.signals <- migrated
	g.role("recovered, and the other with it", func(ctl.RoleStatus) bool {
		return g.m.Roles()[1].Mode == ctl.ModePassive && g.m.Roles()[0].Mode == ctl.ModePassive && g.m.Recoveries() == 2
	})
	calls := class.take()
	if open, detach := slices.Index(calls, "open e1000 "+slot2), slices.Index(calls, "detach e1000"); detach < 0 || open < detach {
		t.Errorf("calls %q", calls)
	}
	if doubts.Load() < 2 {
		t.Errorf("%d doubts", doubts.Load())
	}
}

func TestReloadGivesALiveDeviceAFreshDriver(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	g.signals <- Signal{Cause: ctl.CauseReload, Role: "net0"}
	g.role("reloaded", func(ctl.RoleStatus) bool { return g.m.Recoveries() == 1 })
	g.calls("activate e1000 alive", "detach e1000", "open e1000 "+slot2, "complete e1000")
	if n := len(slices.DeleteFunc(g.hw.Events(), func(e string) bool { return e != "load e1000" })); n != 2 {
		t.Errorf("the module was loaded %d times, want 2", n)
	}
}

// remove makes the kernel give a device up, as it does when it is unplugged.
func (g *guest) remove(address string) {
	g.Helper()
	devs, err := g.hw.Tree().Scan(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	for _, d := range devs {
		if d.Address != address {
			continue
		}
		if err := g.hw.Tree().Remove(g.Context(), d); err != nil {
			g.Error(err)
		}
	}
}

// unplug tells a Manager that the host takes the device in slot 2 away, and waits
// until nobody uses it.
func (g *guest) unplug(by time.Duration) {
	g.Helper()
	g.class.take()
	g.signals <- Signal{Cause: ctl.CauseUnplug, Unplug: slot2, UnplugBy: Now() + int64(by)}
	g.active("no net device")
	g.calls("activate e1000 alive", "detach e1000")
	if e := g.hw.Events(); !slices.Contains(e, "unbind "+slot2+" e1000") {
		g.Errorf("the driver has not let go: %q", e)
	}
	g.signals <- Signal{Cause: ctl.CauseHotplug} // as the unbinding is told
	g.signals <- Signal{Cause: "retry", Quiet: true}
	g.calls()
}

func TestDeviceToBeUnpluggedIsGivenUpWhileItWorks(t *testing.T) {
	for _, tt := range []struct {
		name string
		by   time.Duration
		then func(*guest)
		on   string
	}{
		{"another one comes to its place when it has gone", time.Hour, func(g *guest) {
			g.hw.Pull(slot2)
			g.remove(slot2)
			g.hw.Plug(rtl8139(slot2)) // before anybody has looked
			g.signals <- Signal{Cause: ctl.CauseHotplug, Removed: slot2}
			g.signals <- Signal{Cause: ctl.CauseHotplug}
		}, "8139cp"},
		{"another one comes elsewhere while it is there", time.Hour, func(g *guest) {
			g.hw.Plug(rtl8139(slot5))
			g.signals <- Signal{Cause: ctl.CauseHotplug}
		}, "8139cp"},
		{"it is used again if the host leaves it", time.Hour, func(g *guest) {
			g.m.Keeps(slot2)
			g.signals <- Signal{Cause: ctl.CauseHotplug}
		}, "e1000"},
		{"what is in its place after a migration is of another host", time.Hour, func(g *guest) {
			g.signals <- migrated
		}, "e1000"},
		{"it is used again if the host leaves it for too long", 0, func(*guest) {}, "e1000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := boot(t, e1000(slot2))
			g.passive("e1000")
			if tt.by == 0 {
				g.signals <- Signal{Cause: ctl.CauseUnplug, Unplug: slot2}
				g.role("recovered", func(ctl.RoleStatus) bool { return g.m.Recoveries() == 1 })
			} else {
				g.unplug(tt.by)
			}
			tt.then(g)
			g.passive(tt.on)
			tls, err := g.m.Timelines("net0")
			if err != nil || tls[len(tls)-1].Cause != ctl.CauseUnplug {
				t.Errorf("timelines %+v, %v", tls, err)
			}
		})
	}
}

func TestSuccessorFindsAPassiveRoleAsItIs(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.stop()
	g.class.take()
	g.class.intact = true
	g = start(t, g.hw, g.class, g.dir)
	g.passive("e1000")
	g.signals <- migrated
	g.signals <- migrated
	g.calls("look at e1000")
}

func TestSuccessorAsksNothingOfADeviceThatHasGone(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.stop()
	g.class.take()
	g.class.intact = true
	g.hw.Plug(rtl8139(slot2)) // the guest has moved, and nobody was there to see it
	g = start(t, g.hw, g.class, g.dir)
	g.passive("8139cp")
	g.calls("activate e1000 replaced", "detach e1000", "open 8139cp "+slot2, "complete 8139cp")
}

// macClass reads MACs from interfaces, which are gone once their device is given up.
type macClass struct {
	*fakeClass
	macs map[string]string // by driver and address
}

func (c *macClass) Identify(d drivers.Device) Identity {
	id := c.fakeClass.Identify(d)
	id.MAC = c.macs[d.Driver+" at "+d.Address]
	return id
}

func TestSuccessorKnowsTheMACOfADeviceWhoseInterfaceHasGone(t *testing.T) {
	const macA, macB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
	roles := []Role{{Name: "net0", Class: "net"}, {Name: "net1", Class: "net"}}
	hw := newMachineWith(t, e1000(slot2), rtl8139(slot5))
	before := &macClass{&fakeClass{}, map[string]string{"e1000 at " + slot2: macA, "8139cp at " + slot5: macB}}
	g := startOn(t, hw.Tree(), hw, before, t.TempDir(), roles...)
	both := func(first, second string) {
		t.Helper()
		g.role("with its device, and the other one too", func(st ctl.RoleStatus) bool {
			other := g.m.Roles()[1]
			return st.Mode == ctl.ModePassive && other.Mode == ctl.ModePassive && st.Device == first && other.Device == second
		})
	}
	both(slot2, slot5)
	g.stop()
	hw.Plug(rtl8139(slot2)) // they have changed places
	hw.Plug(e1000(slot5))
	after := &macClass{&fakeClass{}, map[string]string{"8139cp at " + slot2: macB, "e1000 at " + slot5: macA}}
	g = startOn(t, hw.Tree(), hw, after, g.dir, roles...)
	both(slot5, slot2)
}

func TestSuccessorGoesOnWithARecovery(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.class.take()
	never := make(chan struct{})
	g.class.mu.Lock()
	g.class.link = never
	g.class.mu.Unlock()
	g.hw.Plug(rtl8139(slot2))
	g.signals <- migrated
	g.role("half recovered", func(ctl.RoleStatus) bool {
		g.class.mu.Lock()
		defer g.class.mu.Unlock()
		return slices.Contains(g.class.calls, "wait for the link of 8139cp")
	})
	g.stop() // as if killed: the journal is all that is left
	g.class.take()
	g.class.link = nil
	g = start(t, g.hw, g.class, g.dir)
	g.passive("8139cp")
	g.calls("open 8139cp "+slot2, "complete 8139cp")
	tls, err := g.m.Timelines("net0")
	if err != nil {
		t.Fatal(err)
	}
	last := tls[len(tls)-1]
	if last.Cause != ctl.CauseMigration || last.From != "e1000 at "+slot2 {
		t.Errorf("the timeline is not that of the recovery which was begun: %+v", last)
	}
}

func TestTimelineStartsWhereTheHostSays(t *testing.T) {
	g := boot(t, e1000(slot2))
	g.passive("e1000")
	g.hw.Plug(rtl8139(slot2))
	resumed := Now()
	g.signals <- migrated
	g.passive("8139cp")
	g.signals <- Signal{Cause: ctl.CauseMigration, Resumed: resumed} // the host's message comes last
	g.role("told", func(ctl.RoleStatus) bool {
		tls, err := g.m.Timelines("net0")
		if err != nil {
			t.Fatal(err)
		}
		at, ok := tls[len(tls)-1].Stamp(ctl.StampResumed)
		return ok && at == resumed
	})
}

func TestNextTimelineDoesNotStartAtTheMigrationBefore(t *testing.T) {
	for name, hostFirst := range map[string]bool{"told by the host at last": false, "told by the host at first": true} {
		t.Run(name, func(t *testing.T) {
			g := boot(t, e1000(slot2))
			g.passive("e1000")
			g.hw.Plug(rtl8139(slot2))
			g.signals <- Signal{Cause: ctl.CauseMigration, Resumed: Now()}
			g.passive("8139cp")
			g.hw.Plug(e1000(slot2))
			resumed := Now()
			told := Signal{Cause: ctl.CauseMigration, Resumed: resumed}
			if hostFirst {
				g.signals <- told
			} else {
				g.signals <- migrated
			}
			g.passive("e1000")
			g.signals <- told
			g.role("told", func(ctl.RoleStatus) bool {
				tls, err := g.m.Timelines("net0")
				if err != nil {
					t.Fatal(err)
				}
				at, ok := tls[len(tls)-1].Stamp(ctl.StampResumed)
				return ok && at >= resumed
			})
		})
	}
}
