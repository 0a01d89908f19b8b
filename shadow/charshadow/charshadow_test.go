// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package charshadow

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// A machine is a sysfs tree in a directory.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine { return machine{t, t.TempDir()} }

func (m machine) sysfs() Sysfs { return Sysfs{Root: m.root} }

// write makes a file below the root with the given permissions.
func (m machine) write(name, content string, perm os.FileMode) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// device is a device at address that module drives, with the directory it has.
func (m machine) device(address, module string) drivers.Device {
	m.t.Helper()
	path := filepath.Join(m.root, "devices", address)
	if err := os.MkdirAll(path, 0o755); err != nil {
		m.t.Fatal(err)
	}
	link := filepath.Join(path, "driver")
	os.Remove(link)
	if err := os.Symlink("/sys/bus/pci/drivers/"+module, link); err != nil {
		m.t.Fatal(err)
	}
	return drivers.Device{Bus: "pci", Address: address, Path: path, Driver: module, Module: module}
}

func lines(ops []oplog.Op) []string {
	var s []string
	for _, op := range ops {
		s = append(s, op.String())
	}
	return s
}

func TestSnapshot(t *testing.T) {
	m := newMachine(t)
	dev := m.device("0000:00:03.0", "virtio_pci")
	dev.Children = []drivers.Device{{Module: "virtio_rng"}, {Module: "virtio_pci"}}
	m.write("devices/0000:00:03.0/power/control", "auto\n", 0o644)
	m.write("devices/0000:00:03.0/power/runtime_status", "active\n", 0o444)
	m.write("devices/0000:00:03.0/power/wakeup", "secret\n", 0o200)
	m.write("devices/0000:00:03.0/remove", "", 0o200)
	m.write("devices/0000:00:03.0/numa_node", "0\n", 0o644)
	m.write("module/virtio_pci/parameters/force_legacy", "N\n", 0o444)
	m.write("module/virtio_rng/parameters/quality", "700\n", 0o644)
	m.write("module/virtio_rng/parameters/key", "x\n", 0o200)
	m.write("module/virtio_rng/parameters/two", "a\nb\n", 0o644)
	m.write("module/virtio_rng/parameters/long", strings.Repeat("x", maxAttribute+1), 0o644)
	m.write("module/other/parameters/p", "1\n", 0o644)

	ops, err := m.sysfs().Snapshot(t.Context(), dev)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"char.param.virtio_pci.force_legacy=N",
		"char.param.virtio_rng.quality=700",
		`char.param.virtio_rng.two="a\nb"`,
		"char.sysfs.power/control=auto",
	}
	if diff := cmp.Diff(want, lines(ops)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	dev.Path += "gone"
	if _, err := m.sysfs().Snapshot(t.Context(), dev); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device that is gone: %v, want fs.ErrNotExist", err)
	}
}

func TestReplay(t *testing.T) {
	const control, param = "devices/0000:00:03.0/power/control", "module/nvme/parameters/"
	tests := []struct {
		name   string
		op     oplog.Op
		reason string            // "" if it must be set
		want   map[string]string // file -> content afterwards
	}{
		{"a setting of the device is written",
			oplog.Set("char.sysfs.power/control", "auto"), "", map[string]string{control: "auto"}},
		{"a setting that is so already is not written",
			oplog.Set("char.sysfs.power/control", "on"), "", map[string]string{control: "on\n"}},
		{"a parameter is written where it can be",
			oplog.Set("char.param.nvme.io_timeout", "60"), "", map[string]string{param + "io_timeout": "60"}},
		{"a parameter that only a load can set is deferred",
			oplog.Set("char.param.nvme.poll_queues", "4"), "it is 0 and can be set only when the module is loaded",
			map[string]string{param + "poll_queues": "0\n"}},
		{"a parameter of a load that is so already is not deferred",
			oplog.Set("char.param.nvme.poll_queues", "0"), "", nil},
		{"a setting that the device lacks is deferred and not made",
			oplog.Set("char.sysfs.power/wakeup", "enabled"), "the device has no such setting", nil},
		{"a parameter that the module lacks is deferred",
			oplog.Set("char.param.nvme.none", "1"), "the device has no such setting", nil},
		{"a parameter of a module that does not drive the device is deferred",
			oplog.Set("char.param.other.p", "2"), errOtherModule.Error(), map[string]string{"module/other/parameters/p": "1\n"}},
		{"a value that the kernel refuses is deferred with what it says",
			oplog.Set("char.sysfs.d3cold_allowed", "perhaps"), "it is 0: invalid argument", nil},
		{"a value that the kernel takes for another is deferred",
			oplog.Set("char.param.nvme.mask", "0x33"), "it is 00000033 after it was set", nil},
		{"a file that is no setting is not touched",
			oplog.Set("char.sysfs.remove", "1"), "not a setting that can be replayed", map[string]string{"devices/0000:00:03.0/remove": ""}},
		{"a parameter is no path",
			oplog.Set("char.param.nvme../../other/parameters/p", "2"), "not a setting that can be replayed", map[string]string{"module/other/parameters/p": "1\n"}},
		{"a parameter is no way up",
			oplog.Set("char.param.nvme...", "2"), "not a setting that can be replayed", nil},
		{"an operation of another class is deferred",
			oplog.Set("net.mtu", "9000"), "not a setting that can be replayed", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			dev := m.device("0000:00:03.0", "nvme")
			m.write(control, "on\n", 0o644)
			m.write("devices/0000:00:03.0/remove", "", 0o200)
			m.write(param+"io_timeout", "30\n", 0o644)
			m.write(param+"poll_queues", "0\n", 0o444)
			m.write("module/other/parameters/p", "1\n", 0o644)
			// Files of the kernel that refuse what is no number, and that read
			// otherwise than they were written.
			for name, to := range map[string]string{
				"devices/0000:00:03.0/d3cold_allowed": "/proc/self/oom_score_adj",
				param + "mask":                        "/proc/self/coredump_filter",
			} {
				if err := os.Symlink(to, filepath.Join(m.root, name)); err != nil {
					t.Fatal(err)
				}
			}
			deferred, err := m.sysfs().Replay(t.Context(), dev, []oplog.Op{tt.op})
			if err != nil {
				t.Fatal(err)
			}
			var want []oplog.Entry
			if tt.reason != "" {
				want = []oplog.Entry{{Op: tt.op, Deferred: tt.reason}}
			}
			if diff := cmp.Diff(want, deferred); diff != "" {
				t.Errorf("deferred (-want +got):\n%s", diff)
			}
			for name, content := range tt.want {
				if got := m.read(name); got != content {
					t.Errorf("%s is %q, want %q", name, got, content)
				}
			}
		})
	}
}

func TestReplayEndsWithItsContext(t *testing.T) {
	m := newMachine(t)
	dev := m.device("0000:00:03.0", "nvme")
	m.write("devices/0000:00:03.0/power/control", "on\n", 0o644)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.sysfs().Replay(ctx, dev, []oplog.Op{oplog.Set("char.sysfs.power/control", "auto")}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	if got := m.read("devices/0000:00:03.0/power/control"); got != "on\n" {
		t.Errorf("written after the end: %q", got)
	}
}

func TestOwns(t *testing.T) {
	tests := []struct {
		name  string
		class uint32
		want  bool
	}{
		{"a serial controller", 0x070002, true},
		{"a device without a class", 0, true},
		{"an NVMe controller", 0x010802, true},
		{"an SD host", 0x080501, true},
		{"an unnamed system peripheral", 0x088000, true},
		{"a host bridge", 0x060000, false},
		{"an ISA bridge", 0x060100, false},
		{"a PCIe root port", 0x060400, false},
		{"an IOMMU", 0x080600, false},
		{"a memory controller", 0x050000, false},
		{"a co-processor", 0x0b4000, false},
	}
	c := New(Sysfs{}, slog.New(slog.DiscardHandler))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.Owns(drivers.Device{Class: tt.class}); got != tt.want {
				t.Errorf("Owns(%06x) = %t", tt.class, got)
			}
		})
	}
}

// A role is a shadow with its journal and the timeline of its last recovery.
type role struct {
	t   *testing.T
	m   machine
	dir string
	j   *journal.Journal
	s   shadow.Shadow
}

func newRole(t *testing.T, m machine) *role {
	r := &role{t: t, m: m, dir: t.TempDir()}
	r.restart()
	return r
}

// restart is what happens when the agent is killed.
func (r *role) restart() {
	r.t.Helper()
	if r.j != nil {
		r.j.Close()
	}
	var err error
	if r.j, _, err = journal.Open(r.dir, "dev0"); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.j.Close() })
	if r.s, err = New(r.m.sysfs(), slog.New(slog.DiscardHandler)).New(shadow.Role{Name: "dev0"}, r.j); err != nil {
		r.t.Fatal(err)
	}
}

// serve takes the role to passive mode on dev.
func (r *role) serve(dev drivers.Device) ctl.Timeline {
	r.t.Helper()
	rec := shadow.NewRecovery("dev0", ctl.CauseMigration, nil)
	if err := errors.Join(r.s.Open(r.t.Context(), dev, rec), r.s.Complete(r.t.Context(), dev, rec)); err != nil {
		r.t.Fatal(err)
	}
	return rec.Timeline()
}

func (r *role) lose(dev drivers.Device) {
	r.t.Helper()
	rec := shadow.NewRecovery("dev0", ctl.CauseMigration, nil)
	if err := errors.Join(r.s.Activate(r.t.Context(), shadow.Old{Device: dev}, rec), r.s.Detach(r.t.Context(), shadow.Old{Device: dev}, rec)); err != nil {
		r.t.Fatal(err)
	}
}

// log is the role's log, one line per operation with "!" where it is deferred.
func (r *role) log() []string {
	r.t.Helper()
	var out []string
	for _, e := range r.s.Log() {
		s := e.Key + "=" + e.Value
		if e.Deferred != "" {
			s += " !"
		}
		out = append(out, s)
	}
	var st ctl.RoleStatus
	r.s.Status(&st)
	if st.Log != len(out) || st.Deferred != strings.Count(strings.Join(out, ""), "!") {
		r.t.Errorf("status counts %d operations, %d deferred; the log is %v", st.Log, st.Deferred, out)
	}
	var kept []string
	for _, e := range r.j.State().Log.Entries() {
		s := e.Op.String()
		if e.Deferred != "" {
			s += " !"
		}
		kept = append(kept, s)
	}
	if diff := cmp.Diff(out, kept); diff != "" {
		r.t.Errorf("the journal keeps another log (-log +journal):\n%s", diff)
	}
	return out
}

func (r *role) wantLog(when string, want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.log()); diff != "" {
		r.t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func TestShadowKeepsWhatWasSet(t *testing.T) {
	m := newMachine(t)
	r := newRole(t, m)
	a, b := m.device("0000:00:03.0", "nvme"), m.device("0000:00:05.0", "nvme")
	m.write("module/nvme/parameters/io_timeout", "30\n", 0o644)
	m.write("devices/0000:00:03.0/power/control", "on\n", 0o644)
	m.write("devices/0000:00:05.0/power/control", "on\n", 0o644)

	r.serve(a)
	r.wantLog("what a driver chose is not logged, parameters are", "char.param.nvme.io_timeout=30")

	m.write("devices/0000:00:03.0/power/control", "auto\n", 0o644)
	r.wantLog("what somebody set is logged", "char.param.nvme.io_timeout=30", "char.sysfs.power/control=auto")

	m.write("module/nvme/parameters/io_timeout", "60\n", 0o644)
	r.lose(a)
	m.write("module/nvme/parameters/io_timeout", "30\n", 0o644) // loaded again
	tl := r.serve(b)
	r.wantLog("what was set last before the device went is logged", "char.param.nvme.io_timeout=60", "char.sysfs.power/control=auto")
	if got := m.read("devices/0000:00:05.0/power/control"); got != "auto" {
		t.Errorf("replayed on the new device: power/control is %q", got)
	}
	if got := m.read("module/nvme/parameters/io_timeout"); got != "60" {
		t.Errorf("replayed on the new device: io_timeout is %q", got)
	}
	if _, ok := tl.Stamp(ctl.StampReplayed); !ok || len(tl.Deferred) != 0 {
		t.Errorf("timeline %+v", tl)
	}
}

func TestShadowDefersAndTriesAgain(t *testing.T) {
	m := newMachine(t)
	r := newRole(t, m)
	a, b := m.device("0000:00:03.0", "nvme"), m.device("0000:00:05.0", "other")
	m.write("module/nvme/parameters/a", "1\n", 0o644)
	m.write("module/nvme/parameters/b", "2\n", 0o444)
	m.write("devices/0000:00:03.0/d3cold_allowed", "1\n", 0o644)
	r.serve(a)
	m.write("devices/0000:00:03.0/d3cold_allowed", "0\n", 0o644)
	r.lose(a)

	tl := r.serve(b)
	r.wantLog("what the new device cannot do is deferred",
		"char.param.nvme.a=1 !", "char.param.nvme.b=2 !", "char.sysfs.d3cold_allowed=0 !")
	want := []ctl.Deferred{
		{Op: "char.param.nvme.*", Reason: errOtherModule.Error()},
		{Op: "char.sysfs.d3cold_allowed=0", Reason: "the device has no such setting"},
	}
	if diff := cmp.Diff(want, tl.Deferred); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}

	r.restart()
	r.lose(b)
	m.write("devices/0000:00:03.0/d3cold_allowed", "1\n", 0o644)
	m.write("module/nvme/parameters/a", "5\n", 0o644)
	m.write("module/nvme/parameters/b", "5\n", 0o444)
	r.serve(a)
	r.wantLog("the next device is asked again", "char.param.nvme.a=1", "char.param.nvme.b=2 !", "char.sysfs.d3cold_allowed=0")
	r.wantLog("a parameter that could not be set is still wanted", "char.param.nvme.a=1", "char.param.nvme.b=2 !", "char.sysfs.d3cold_allowed=0")
}

func TestShadowOutlivesItsAgent(t *testing.T) {
	m := newMachine(t)
	r := newRole(t, m)
	dev := m.device("0000:00:03.0", "nvme")
	m.write("devices/0000:00:03.0/power/control", "on\n", 0o644)

	if ok, err := r.s.Intact(t.Context(), dev); ok || err != nil {
		t.Errorf("a role that was never served is intact: %t, %v", ok, err)
	}
	r.serve(dev)
	r.restart()
	m.write("devices/0000:00:03.0/power/control", "auto\n", 0o644) // while nobody looked
	if ok, err := r.s.Intact(t.Context(), dev); !ok || err != nil {
		t.Fatalf("Intact = %t, %v", ok, err)
	}
	r.wantLog("what was set while the agent was away is logged", "char.sysfs.power/control=auto")

	tests := []struct {
		name string
		dev  drivers.Device
	}{
		{"another driver has it now", m.device("0000:00:03.0", "other")},
		{"the device is gone", drivers.Device{Address: "x", Path: filepath.Join(m.root, "gone"), Driver: "nvme"}},
	}
	tests[0].dev.Driver = "nvme"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if ok, err := r.s.Intact(t.Context(), tt.dev); ok || err != nil {
				t.Errorf("Intact = %t, %v", ok, err)
			}
		})
	}
}

func TestActivateWithoutWhatWas(t *testing.T) {
	m := newMachine(t)
	r := newRole(t, m)
	r.lose(drivers.Device{}) // a role that never had one
	dev := m.device("0000:00:03.0", "nvme")
	m.write("devices/0000:00:03.0/power/control", "on\n", 0o644)
	r.serve(dev)
	m.write("devices/0000:00:03.0/power/control", "auto\n", 0o644)
	r.wantLog("seen", "char.sysfs.power/control=auto")
	if err := os.RemoveAll(dev.Path); err != nil {
		t.Fatal(err)
	}
	r.wantLog("a device that was pulled leaves what was seen", "char.sysfs.power/control=auto")
	r.lose(dev)
}

// Whatever a log holds, nothing but settings can be written by replaying it.
func FuzzReplayedPath(f *testing.F) {
	for _, key := range []string{
		"char.sysfs.power/control", "char.sysfs.../x", "char.param.nvme.a", "char.param.nvme...", "char.param.nvme.a/../../b",
		"char.param...a", "char.param.", "net.mtu",
	} {
		f.Add(key)
	}
	s := Sysfs{Root: "/sys"}
	dev := drivers.Device{Path: "/sys/devices/d", Module: "nvme", Children: []drivers.Device{{Module: "../.."}, {Module: "a/b"}}}
	f.Fuzz(func(t *testing.T, key string) {
		path, err := s.path(dev, oplog.Set(key, "1"))
		if err != nil {
			return
		}
		dir, name := filepath.Split(path)
		setting := strings.TrimPrefix(path, "/sys/devices/d/")
		if filepath.Clean(dir) == "/sys/module/nvme/parameters" && name != "" && name != ".." {
			return
		}
		for _, s := range deviceSettings {
			if s == setting {
				return
			}
		}
		t.Fatalf("%q names %s", key, path)
	})
}
