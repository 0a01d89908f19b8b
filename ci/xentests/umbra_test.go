// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xentests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/ci/xenlab"
	"github.com/umbra-vm/umbra/image"
)

// TestUmbraMigrate moves a guest between the NICs of a host with stock Xen by "umbra
// migrate --xen", over the system's ssh. Before, it is not moved to a device for which it
// has no driver, and comes back from a move that is interrupted when it is stopped, with
// the device that it had.
func TestUmbraMigrate(t *testing.T) {
	t.Parallel()
	l := open(t, stockXen)
	h := l.host("xen-A", "e1000e", "rtl8139", "pcnet")
	l.create(h, passed(0, 5))
	u := l.umbra(h)

	opts := l.guest.DomainOptions
	opts.Name, opts.PCI = "nowhere", passed(2, 6)
	u.ends(3, opts, "") // the image has no pcnet32
	opts.PCI = passed(1, 6)
	u.ends(4, opts, "carry: ")
	l.traffic()
	if tls, err := timelines(l.ctx, l.guest); err != nil || len(tls) != 1 {
		t.Errorf("the guest has recovered from a move that has not taken place: %v, %v", tls, err)
	}

	opts = l.next(passed(1, 6))
	u.ends(0, opts, "")
	l.isNow(&xenlab.Domain{DomainOptions: opts, Host: h})
	l.arrived()
	l.unharmed()
}

// TestUnpreparedPV moves a PV guest with its device in use, which nobody tells it of before:
// on patched Xen by hand, live, and by "umbra migrate --xen". Umbra is in dom0 for that. Before, it
// comes back from a move that is interrupted, and is given its device anew.
func TestUnpreparedPV(t *testing.T) {
	t.Parallel()
	l := open(t, patchedXen)
	h := l.host("xen-A", "e1000e", "rtl8139", "e1000")
	l.start(h, prepared)
	l.serves("e1000e", "")
	u := l.umbra(h)

	opts := l.guest.DomainOptions
	opts.Name, opts.PCI = "nowhere", passed(1, 0)
	u.ends(4, opts, "carry: ")
	l.serves("e1000e", "")

	page, err := h.Run(l.ctx, "umbra pcifront "+l.guest.Name)
	if err != nil {
		t.Fatal(err)
	}
	opts = l.next(nil)
	answered := make(chan error, 1)
	go func() {
		answered <- h.Stream(l.ctx, fmt.Sprintf("umbra pcifront %s %s", opts.Name, page), nil, l.show("pcifront"))
	}()
	l.migrateAs(h, opts, "--live")
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	l.give(1, 0)
	l.serves("8139cp", "")

	opts = l.next(passed(2, 0))
	u.ends(0, opts, "")
	l.isNow(&xenlab.Domain{DomainOptions: opts, Host: h})
	l.serves("e1000", "")
	l.suspended()
}

// umbra is the program, and how it gets to a host.
type umbra struct {
	*lab
	h            *xenlab.Host
	program, ssh string
}

func (l *lab) umbra(h *xenlab.Host) *umbra {
	l.t.Helper()
	src, err := image.FindSource(l.ctx, "")
	if err != nil {
		l.t.Fatal(err)
	}
	u := &umbra{lab: l, h: h, program: filepath.Join(vmtest.Dir(l.t), "umbra")}
	if err := image.BuildGo(l.ctx, src, "github.com/umbra-vm/umbra/cmd/umbra", u.program); err != nil {
		l.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go h.Serve(listener)
	u.ssh = fmt.Sprintf("ssh -F none -o BatchMode=yes -o HostName=127.0.0.1 -o Port=%d -o LogLevel=ERROR"+
		" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null", listener.Addr().(*net.TCPAddr).Port)
	return u
}

// ends asserts the exit code of a move within the host, and returns what it printed. If
// until is not empty it is interrupted, as by Ctrl-C, when it prints a line that begins so.
func (u *umbra) ends(code int, opts xenlab.DomainOptions, until string) string {
	u.t.Helper()
	config, err := u.h.Config(u.ctx, opts)
	if err != nil {
		u.t.Fatal(err)
	}
	file := filepath.Join(vmtest.Dir(u.t), "there.xl.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		u.t.Fatal(err)
	}
	cmd := exec.CommandContext(u.ctx, u.program, "migrate", "--xen", u.guest.Name, "--from", u.h.Name, "--to", u.h.Name,
		"--ssh", u.ssh, "--config", file, "--connect-timeout", "30s", "--recovery-timeout", "10m", "-v")
	var said strings.Builder
	out := &lines{show: func(line string) {
		u.say("umbra: %s", line)
		said.WriteString(line)
		if until != "" && strings.HasPrefix(line, until) {
			until = ""
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				u.t.Error(err)
			}
		}
	}}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		u.t.Fatalf("umbra migrate: exit code %d, want %d", got, code)
	}
	return said.String()
}
