// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestCheck asks a guest whose image has the drivers of two NICs, by hand, what would
// become of it on hosts with other ones, has it moved to one that it has no driver for,
// in vain, and to one that it has.
func TestCheck(t *testing.T) {
	umbra, err := command()
	if err != nil {
		t.Fatal(err)
	}
	// Monitors of their own for the command: the rig holds the first ones.
	monitor := func(path string) []string { return []string{"-qmp", "unix:" + path + ",server=on,wait=off"} }
	var from string
	g := start(t, vlanImage, rtl8139At2, func(o *setup) {
		from = filepath.Join(o.Dir, "from")
		o.Extra = monitor(from)
	})
	// ask runs a command of umbra's and returns what it says and its exit code.
	ask := func(args ...string) (stdout, stderr string, code int) {
		t.Helper()
		var out, log strings.Builder
		cmd := exec.CommandContext(g.ctx, umbra, args...)
		cmd.Stdout, cmd.Stderr = &out, &log
		var exit *exec.ExitError
		if err := cmd.Run(); errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		t.Logf("umbra %s: %d\n%s%s", strings.Join(args, " "), code, out.String(), log.String())
		return out.String(), log.String(), code
	}
	forecast := func(want int, args ...string) ctl.Forecast {
		t.Helper()
		text, _, code := ask(append([]string{"check", g.Host.Machine.Ctl, "--json"}, args...)...)
		var r ctl.CheckReport
		if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Roles) != 1 || code != want {
			t.Fatalf("exit code %d, want %d: %+v, %v", code, want, r, err)
		}
		return r.Roles[0]
	}
	g.traffic()

	to := filepath.Join(g.Dir, "bad")
	g.Extra = monitor(to)
	dst, incoming, err := g.Prepare(g.ctx, e1000At5)
	if err != nil {
		t.Fatal(err)
	}
	f := forecast(3, "--from", from, "--to", to)
	if f.Verdict != ctl.VerdictNoDriver || !containsAll(f.Reason, []string{"0000:00:05.0", "8086:100e"}) {
		t.Errorf("of a NIC without a driver it is said: %+v", f)
	}
	_, said, code := ask("migrate", "--from", from, "--to", to, "--incoming", incoming, "--direct", directID,
		"--from-ctl", g.Host.Machine.Ctl, "--ctl", dst.Machine.Ctl)
	if code != 3 || !containsAll(said, []string{rig.Role, "0000:00:05.0", "8086:100e", "--force"}) {
		t.Errorf("a move to it ended with %d: %s", code, said)
	}
	for _, host := range []struct {
		*vm.VM
		want string
	}{{g.Host, "running"}, {dst, "inmigrate"}} {
		if status, err := host.QMP.Status(g.ctx); err != nil || status != host.want {
			t.Errorf("after that %s is %q, %v", host.Machine.Name, status, err)
		}
	}
	dst.Close()
	g.traffic()

	to = filepath.Join(g.Dir, "good")
	g.Extra = monitor(to)
	if dst, incoming, err = g.Prepare(g.ctx, virtioAt5); err != nil {
		t.Fatal(err)
	}
	f = forecast(0, "--from", from, "--to", to, "--direct", directID)
	if f.Verdict != ctl.VerdictTaken || f.Device != "0000:00:05.0" || !slices.Equal(f.Drivers, []string{"virtio_net"}) ||
		f.Driven || f.MAC != ctl.MACUnknown || f.Gap.Source != ctl.GapPublished {
		t.Errorf("of a NIC with a driver it is said: %+v", f)
	}
	_, _, code = ask("migrate", "--from", from, "--to", to, "--incoming", incoming, "--direct", directID,
		"--from-ctl", g.Host.Machine.Ctl, "--ctl", dst.Machine.Ctl)
	if code != 0 {
		t.Fatal("the move failed")
	}
	g.Moved(dst, virtioAt5)
	tl := g.recovered(1)
	g.lossless(tl)
	if !strings.HasPrefix(tl.To, f.Drivers[0]+" at "+f.Device) {
		t.Errorf("it was said to go to %s at %s, and went to %s", f.Drivers[0], f.Device, tl.To)
	}
	g.traffic()

	// Now it knows both drivers, what a move took, and that virtio_net cannot let go of a
	// NIC whose slot is taken, as the guest has VLANs.
	back := "10ec:8139@0000:00:02.0,mac=52:54:00:00:00:01"
	if f = forecast(0, "--device", back); f.Verdict != ctl.VerdictTaken || !f.Driven || len(f.Unknown) != 0 {
		t.Errorf("of a driver that it has had it is said: %+v", f)
	}
	virtio := "1af4:1000@0000:00:06.0,subsystem=1af4:0001,mac=52:54:00:00:00:01"
	if f = forecast(0, "--device", virtio); !f.Driven || f.MAC != ctl.MACGiven || f.Gap.Source != ctl.GapMeasured || f.Gap.Recoveries != 1 {
		t.Errorf("of the driver that it has it is said: %+v", f)
	}
	if f = forecast(3, "--device", "10ec:8139@0000:00:05.0"); f.Verdict != ctl.VerdictKept || !slices.Equal(f.Ways, []string{ctl.WayUnplug}) {
		t.Errorf("of a NIC in the slot of virtio it is said: %+v", f)
	}
	g.unharmed()
}
