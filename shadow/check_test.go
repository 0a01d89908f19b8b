// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

// loggingClass is a fakeClass whose shadows have a log, of which a driver called 8139cp
// defers one operation.
type loggingClass struct{ *fakeClass }

func (c *loggingClass) Identify(d drivers.Device) Identity {
	id := c.fakeClass.Identify(d)
	if d.Path != "" {
		id.MAC = "52:54:00:00:00:01"
	}
	return id
}

func (c *loggingClass) New(r Role, _ *journal.Journal) (Shadow, error) {
	return &loggingShadow{fakeShadow: &fakeShadow{c.fakeClass, r.Name}}, nil
}

type loggingShadow struct {
	*fakeShadow
	keeps error
}

func (s *loggingShadow) Status(st *ctl.RoleStatus) { st.MAC = "52:54:00:00:00:0a" }

func (s *loggingShadow) Log() []ctl.LogEntry {
	log := []ctl.LogEntry{{Role: s.role, Key: "net.mtu", Value: "9000"}, {Role: s.role, Key: "net.txqueuelen", Value: "50"}}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if n := len(s.c.opened); n > 0 && s.c.opened[n-1] == "8139cp" {
		log[0].Deferred = "it takes 1500"
	}
	return log
}

func (s *loggingShadow) Keeps(drivers.Device) error { return s.keeps }

// bootLogging boots a guest with an e1000 whose class has a log.
func bootLogging(t *testing.T) *guest {
	hw := newMachineWith(t, e1000(slot2))
	g := startOn(t, hw.Tree(), hw, &loggingClass{&fakeClass{}}, t.TempDir(), Role{Name: "net0", Class: "net"})
	g.passive("e1000")
	return g
}

func (g *guest) check(req ctl.Check) ctl.Forecast {
	g.Helper()
	report, err := g.m.Check(req)
	if err != nil || len(report.Roles) != 1 {
		g.Fatalf("check: %+v, %v", report, err)
	}
	return report.Roles[0]
}

func destination(t *testing.T, devices ...string) (req ctl.Check) {
	for _, text := range devices {
		d, err := ctl.ParseCheckDevice(text)
		if err != nil {
			t.Fatal(err)
		}
		req.Devices = append(req.Devices, d)
	}
	return req
}

func TestCheckSaysWhatIsNotKnown(t *testing.T) {
	g := bootLogging(t)
	got := g.check(destination(t, "10ec:8139@"+slot5+",mac=52:54:00:00:00:02"))
	want := ctl.Forecast{
		Role: "net0", Verdict: ctl.VerdictTaken, From: "e1000 at " + slot2, Device: slot5, IDs: "10ec:8139",
		Drivers: []string{"8139cp"}, Ways: []string{ctl.WayUnprepared, ctl.WayUnplug}, MAC: ctl.MACUnknown,
		Unknown: []string{"net.mtu=9000", "net.txqueuelen=50"}, Gap: &ctl.Gap{Source: ctl.GapPublished, MinMS: 2000, MaxMS: 4000},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestCheckSaysWhatTheGuestHasLearnedOfADriver(t *testing.T) {
	g := bootLogging(t)
	g.hw.Plug(rtl8139(slot2))
	g.signals <- migrated
	g.passive("8139cp")
	g.hw.Plug(e1000(slot2))
	g.signals <- migrated
	g.passive("e1000")
	known := ctl.Forecast{
		Role: "net0", Verdict: ctl.VerdictTaken, From: "e1000 at " + slot2, Device: slot5, IDs: "10ec:8139", Driven: true,
		Drivers: []string{"8139cp"}, Ways: []string{ctl.WayUnprepared, ctl.WayUnplug}, MAC: ctl.MACGiven,
		Deferred: []ctl.Deferred{{Op: "net.mtu=9000", Reason: "it takes 1500"}},
	}
	for _, when := range []string{"by the agent that was there", "by its successor"} {
		got := g.check(destination(t, "10ec:8139@"+slot5+",mac=52:54:00:00:00:02"))
		if d := cmp.Diff(known, got, cmpopts.IgnoreFields(ctl.Forecast{}, "Gap")); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
		g.stop()
		g = startOn(t, g.hw.Tree(), g.hw, &loggingClass{&fakeClass{intact: true}}, g.dir, Role{Name: "net0", Class: "net"})
		g.passive("e1000")
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, tt := range []struct {
		rule    string
		devices []string
		keeps   error
		verdict string
		says    []string
	}{
		{"a device without a driver, by address and ids", []string{"dead:beef@" + slot2}, nil, ctl.VerdictNoDriver, []string{slot2, "dead:beef", "no driver"}},
		{"a host without a device of the class", []string{"dead:beef@" + slot2 + ",class=0108"}, nil, ctl.VerdictNoDevice, []string{"no net device"}},
		{"a virtio transport of which only the half has a driver", []string{"1af4:1041@" + slot2 + ",subsystem=1af4:1100"}, nil, ctl.VerdictNoDriver, []string{"1af4:1041"}},
		{"a driver that could not let go", []string{"8086:100e@" + slot2}, ErrKept, ctl.VerdictKept, []string{"unplug it", slot2}},
		{"a front end of Xen that the image has no driver for", []string{"vif-0"}, nil, ctl.VerdictNoDriver, []string{"vif-0"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			g := bootLogging(t)
			g.m.all()[0].shadow.(*loggingShadow).keeps = tt.keeps
			f := g.check(destination(t, tt.devices...))
			if f.Verdict != tt.verdict || !f.Refused() {
				t.Errorf("verdict %q of %+v, want %q", f.Verdict, f, tt.verdict)
			}
			for _, s := range tt.says {
				if !strings.Contains(f.Reason, s) {
					t.Errorf("the reason %q does not say %q", f.Reason, s)
				}
			}
			g.passive("e1000") // nothing was touched
		})
	}
	g := bootLogging(t)
	for _, d := range []ctl.CheckDevice{{Address: slot2, IDs: "intel"}, {Address: slot2, IDs: "8086:100e", Class: "net"}, {IDs: "8086:100e"}} {
		if _, err := g.m.Check(ctl.Check{Devices: []ctl.CheckDevice{d}}); !errors.Is(err, ErrCheck) {
			t.Errorf("%+v: %v, want %v", d, err, ErrCheck)
		}
	}
}

func TestExpectedGap(t *testing.T) {
	tl := func(cause, from, to string, ms int64) ctl.Timeline {
		return ctl.Timeline{Cause: cause, From: from, To: to, Stamps: []ctl.Stamp{{Name: ctl.StampDetected, At: 1e9}, {Name: ctl.StampReleased, At: 1e9 + ms*1e6}}}
	}
	const a, b, onB = "e1000 at " + slot2, "virtio_net at " + slot5, "virtio_net at " + slot5 + " (standby)"
	all := []ctl.Timeline{
		tl(CauseBoot, "", a, 9000), tl(ctl.CauseMigration, b, a, 2100), tl(ctl.CauseMigration, a, a, 1700), tl(ctl.CauseReload, a, a, 900),
		tl(ctl.CauseUnplug, b, a, 30000), tl(ctl.CauseMigration, onB, a, 20), tl(ctl.CauseMigration, a, onB, 300),
		{Cause: ctl.CauseMigration, From: b, To: a, Error: "no link"},
	}
	for _, tt := range []struct {
		rule, driver string
		standby      bool
		want         *ctl.Gap
	}{
		{"what moves took counts, and neither boot, reload, unplug, a way back from a standby nor what never ended", "e1000", false, &ctl.Gap{Source: ctl.GapMeasured, Recoveries: 2, MinMS: 1700, MaxMS: 2100}},
		{"a standby has its own", "virtio_net", true, &ctl.Gap{Source: ctl.GapMeasured, Recoveries: 1, MinMS: 300, MaxMS: 300}},
		{"one on a standby says nothing of the driver as a device's", "virtio_net", false, &ctl.Gap{Source: ctl.GapPublished, MinMS: 2000, MaxMS: 4000}},
		{"nothing is published of standbys", "xen_netfront", true, nil},
	} {
		if d := cmp.Diff(tt.want, gapOf(all, tt.driver, tt.standby)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.rule, d)
		}
	}
}

func TestRecall(t *testing.T) {
	lessons := []lesson{{Driver: "e1000", IDs: "8086:100e"}, {Driver: "8139too", IDs: "10ec:8139"}, {Driver: "e1000", IDs: "8086:1010"}}
	for _, tt := range []struct {
		rule, ids string
		claim     []string
		want      string // driver and ids
		exact     bool
	}{
		{"the same model", "8086:100e", []string{"e1000"}, "e1000 8086:100e", true},
		{"of several drivers the one that took the model", "10ec:8139", []string{"8139cp", "8139too"}, "8139too 10ec:8139", true},
		{"another model of the only driver, as it was last", "8086:1011", []string{"e1000"}, "e1000 8086:1010", false},
		{"another model of several is not known", "10ec:8138", []string{"8139cp", "8139too"}, " ", false},
		{"nor a driver that was never had", "1af4:1000", []string{"virtio_net"}, " ", false},
	} {
		l, exact := recall(lessons, tt.ids, tt.claim)
		if got := fmt.Sprint(l.Driver, " ", l.IDs); got != tt.want || exact != tt.exact {
			t.Errorf("%s: %q, %t", tt.rule, got, exact)
		}
	}
}

func TestLessonOfAMAC(t *testing.T) {
	const own, role = "52:54:00:00:00:01", "52:54:00:00:00:0a"
	refused := []ctl.LogEntry{{Key: "net.mac", Value: role, Deferred: "eth0 keeps its own"}}
	for _, tt := range []struct {
		rule, device, proxy string
		log                 []ctl.LogEntry
		want                string
	}{
		{"a device that has the role's MAC teaches nothing", role, role, nil, ""},
		{"one that wears it takes it", own, role, nil, ctl.MACGiven},
		{"one that kept its own refuses", own, own, refused, ctl.MACRefused},
		{"one whose own is not known teaches nothing", "", role, nil, ""},
	} {
		if got := lessonOf("d", Identity{MAC: tt.device}, tt.proxy, "net", tt.log).MAC; got != tt.want {
			t.Errorf("%s: %q, want %q", tt.rule, got, tt.want)
		}
	}
}

func TestLessonsAreBounded(t *testing.T) {
	var many []lesson
	for i := range 2 * lessonsKept {
		many = append(many, lesson{Driver: fmt.Sprint("d", i)})
	}
	if got := lastLessons(many); len(got) != lessonsKept || got[lessonsKept-1].Driver != many[len(many)-1].Driver {
		t.Errorf("of %d lessons %v are kept", len(many), got)
	}
	big := lesson{Driver: "big", Ops: map[string]string{strings.Repeat("x", lessonBytes): ""}}
	if got := lastLessons([]lesson{big, {Driver: "small", Ops: map[string]string{"a=b": ""}}}); len(got) != 1 || got[0].Driver != "small" {
		t.Errorf("kept: %d lessons", len(got))
	}
}
