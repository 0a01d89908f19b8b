// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runTests runs a test binary as the only one that touches the hardware: the
// agent, once it has loaded the drivers, is stopped. Its verdict is the last
// line that it says.
func runTests(ctx context.Context, name string) error {
	for !driversLoaded() {
		time.Sleep(100 * time.Millisecond)
	}
	pid, err := pidOf("shadowd")
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join("/bin", name), "-test.v", "-test.timeout=8m")
	cmd.Dir = "/tmp"
	cmd.Env = append(os.Environ(), "PATH=/bin:/sbin", "UMBRA_GUEST_NICS="+strings.Join(nics(), ","))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := os.MkdirAll(cmd.Dir, 0o777); err != nil {
		return err
	}
	status := 0
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		return err
	}
	say("%s has ended: exit status %d", name, status)
	return nil
}

// nics returns the interfaces of devices.
func nics() (names []string) {
	dirs, _ := filepath.Glob("/sys/class/net/*/device")
	for _, d := range dirs {
		names = append(names, filepath.Base(filepath.Dir(d)))
	}
	return names
}

// driversLoaded reports whether every network controller has its interface, and
// the modules that no device asks for are there.
func driversLoaded() bool {
	classes, _ := filepath.Glob("/sys/bus/pci/devices/*/class")
	want := 0
	for _, c := range classes {
		if b, err := os.ReadFile(c); err == nil && strings.HasPrefix(string(b), "0x02") {
			want++
		}
	}
	for _, m := range []string{"macvlan", "8021q", "veth", "bridge", "bonding", "sch_plug"} {
		if _, err := os.Stat(fmt.Sprintf("/sys/module/%s", m)); err != nil {
			return false
		}
	}
	return len(nics()) == want
}
