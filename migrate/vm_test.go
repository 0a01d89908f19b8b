// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/migrate/qmp"
)

// vm is a QEMU with the test firmware.
type vm struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	dir  string
	qmp  *qmp.Client
	dead chan struct{}
	log  bytes.Buffer // valid once dead is closed
}

// machineSpec is what the hosts of a test have in common or not.
type machineSpec struct {
	machine  string // "pc" or "q35"
	assert   bool   // the firmware raises the e1000's interrupt line
	nic      string // -device of the NIC; "" for none
	incoming string
	extra    []string
}

const (
	nicE1000   = "e1000,id=direct-net0,addr=2,romfile="
	nicRTL8139 = "rtl8139,id=direct-net0,addr=2,romfile="
	nicVirtio  = "virtio-net-pci,id=direct-net0,addr=5,romfile="
)

// testContext ends long before the test binary does, and leaves room for any
// load a machine may have.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startVM(ctx context.Context, t *testing.T, name string, spec machineSpec) *vm {
	t.Helper()
	// Not t.TempDir: the path of a UNIX socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "umbra-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &vm{t: t, name: name, dir: dir, dead: make(chan struct{})}
	bios := filepath.Join(dir, "bios")
	if err := os.WriteFile(bios, firmware(spec.machine, spec.assert), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-name", name, "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", "tcg", "-machine", spec.machine, "-cpu", "qemu64", "-m", "8",
		"-bios", bios,
		"-serial", "file:" + filepath.Join(dir, "serial"),
		"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off",
		"-qmp", "unix:" + filepath.Join(dir, "qmp2") + ",server=on,wait=off",
	}
	if spec.nic != "" {
		args = append(args, "-device", spec.nic)
	}
	if spec.incoming != "" {
		args = append(args, "-incoming", spec.incoming)
	}
	v.cmd = exec.Command("qemu-system-x86_64", append(args, spec.extra...)...)
	v.cmd.Stdout, v.cmd.Stderr = &v.log, &v.log
	if err := v.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		v.cmd.Wait()
		close(v.dead)
	}()
	t.Cleanup(func() {
		v.kill()
		if v.log.Len() > 0 && t.Failed() {
			t.Logf("%s: QEMU said:\n%s", name, v.log.String())
		}
	})
	v.qmp, err = qmp.Dial(ctx, filepath.Join(dir, "qmp"))
	if err != nil {
		v.kill()
		t.Fatalf("%s: %v\n%s", name, err, v.log.String())
	}
	t.Cleanup(func() { v.qmp.Close() })
	return v
}

// incoming returns the address at which the VM can wait for a migration.
func incomingAddr(t *testing.T) string {
	dir, err := os.MkdirTemp("", "umbra-in-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "unix:" + filepath.Join(dir, "in")
}

// diskArgs describe a disk for any number of machines.
func diskArgs(t *testing.T) []string {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{
		"-drive", "if=none,id=disk0,format=raw,file=" + path,
		"-device", "virtio-blk-pci,drive=disk0,addr=6",
	}
}

// kill ends the QEMU process and waits until it is gone.
func (v *vm) kill() {
	v.cmd.Process.Kill()
	<-v.dead
}

func (v *vm) status(ctx context.Context) string {
	v.t.Helper()
	s, err := v.qmp.Status(ctx)
	if err != nil {
		v.t.Fatalf("%s: %v", v.name, err)
	}
	return s
}

// counters reads the firmware's counters from guest memory.
func (v *vm) counters(ctx context.Context) [counters]uint32 {
	v.t.Helper()
	out, err := v.qmp.Human(ctx, fmt.Sprintf("xp /%dwx %#x", counters, counterBase))
	if err != nil {
		v.t.Fatalf("%s: %v", v.name, err)
	}
	var c [counters]uint32
	n := 0
	for _, f := range strings.Fields(out) {
		if !strings.HasPrefix(f, "0x") || n == counters {
			continue
		}
		x, err := strconv.ParseUint(f[2:], 16, 32)
		if err != nil {
			v.t.Fatalf("%s: counters %q: %v", v.name, out, err)
		}
		c[n] = uint32(x)
		n++
	}
	if n != counters {
		v.t.Fatalf("%s: counters %q", v.name, out)
	}
	return c
}

// until reads the counters until ok accepts them.
func (v *vm) until(ctx context.Context, what string, ok func([counters]uint32) bool) [counters]uint32 {
	v.t.Helper()
	for {
		c := v.counters(ctx)
		if ok(c) {
			return c
		}
		select {
		case <-ctx.Done():
			v.t.Fatalf("%s: waited in vain until %s; counters %v", v.name, what, c)
		case <-v.qmp.Done():
			v.t.Fatalf("%s: died before %s", v.name, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// lives fails the test unless the guest runs: it makes its counter advance.
func (v *vm) lives(ctx context.Context) [counters]uint32 {
	v.t.Helper()
	from := v.counters(ctx)[counterLoops]
	return v.until(ctx, "the guest ran on", func(c [counters]uint32) bool {
		return c[counterLoops]-from > 1000 && c[counterLoops] > from
	})
}

// stands fails the test if the guest runs.
func (v *vm) stands(ctx context.Context) {
	v.t.Helper()
	if s := v.status(ctx); s == "running" {
		v.t.Fatalf("%s runs, it must not", v.name)
	}
}

// picState is what the human monitor's "info pic" says of latched inputs.
type picState struct {
	irr    [2]uint64
	ioapic string // inputs, as in "22", or "(none)"
}

func (v *vm) pic(ctx context.Context) picState {
	v.t.Helper()
	out, err := v.qmp.Human(ctx, "info pic")
	if err != nil {
		v.t.Fatal(err)
	}
	var s picState
	for _, line := range strings.Split(out, "\n") {
		line = strings.TrimSpace(line)
		var n, irr uint64
		if _, err := fmt.Sscanf(line, "pic%d: irr=%x", &n, &irr); err == nil && n < 2 {
			s.irr[n] = irr
		}
		if rest, ok := strings.CutPrefix(line, "IRR"); ok {
			s.ioapic = strings.TrimSpace(rest)
		}
	}
	if s.ioapic == "" {
		v.t.Fatalf("%s: cannot read %q", v.name, out)
	}
	return s
}

// asserted reports whether both controllers have latched the line of slot 2.
func (s picState) asserted(machine string) bool {
	if machine == "q35" {
		return s.irr[1] == 1<<(11-8) && strings.Contains(s.ioapic, "22") && strings.Contains(s.ioapic, "11")
	}
	return s.irr[1] == 1<<(10-8) && strings.Contains(s.ioapic, "10")
}
