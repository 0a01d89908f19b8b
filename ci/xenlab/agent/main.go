// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command agent is the first program of the lab's dom0. It brings up what Xen's
// tools need, and then does what it is told over the control port, in the
// protocol of SSH: commands with their input, output and status, and connections
// to unix sockets, side by side.
//
// It is no SSH server for anybody else: there is no key and no password, as the
// port leads to the program that started the machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

const (
	busybox = "/usr/bin/busybox"
	xenBin  = "/usr/lib/xen-4.17/bin/"
	// modules is what package dom0 writes as its ModuleList.
	modules = "/etc/modules"
)

// environment is that of all programs.
var environment = []string{"PATH=/bin:/usr/bin:" + xenBin, "HOME=/root", "LC_ALL=C"}

// serving is the argument with which PID 1 starts itself again.
const serving = "serve"

func main() {
	if os.Getpid() == 1 {
		first()
	}
	if len(os.Args) == 3 && os.Args[1] == dialing {
		if err := dial(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Println("agent:", serve())
	os.Exit(1)
}

// first is PID 1: it sets up, starts the agent, and takes the status of whatever
// ends until that is the agent, which nothing can go on without.
func first() {
	if err := boot(); err != nil {
		fmt.Println("agent: boot:", err)
	}
	cmd := command("/proc/self/exe", serving)
	if err := cmd.Start(); err != nil {
		fmt.Println("agent:", err)
	} else {
		for {
			pid, err := unix.Wait4(-1, nil, 0, nil)
			if pid == cmd.Process.Pid || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	fmt.Println("agent: ended")
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// command makes a command that speaks to the console.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// boot mounts, loads the modules and starts Xen's daemons, in the order in which
// Debian's init script for Xen does.
func boot() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for _, dir := range []string{"/dev/pts", "/run/xen", "/run/xenstored", "/run/lock", "/var/lib/xen", "/var/lib/xenstored", "/var/log/xen", "/var/lock"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", "/var/run"); err != nil {
		return err
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", 0, ""); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := command(busybox, "--install", "-s", "/bin").Run(); err != nil {
		return fmt.Errorf("install busybox: %w", err)
	}
	list, err := os.ReadFile(modules)
	if err != nil {
		return err
	}
	var errs []error
	for name := range strings.FieldsSeq(string(list)) {
		if err := command(busybox, "insmod", name).Run(); err != nil {
			errs = append(errs, fmt.Errorf("insmod %s: %w", name, err))
		}
	}
	if err := unix.Mount("xenfs", "/proc/xen", "xenfs", 0, ""); err != nil {
		errs = append(errs, fmt.Errorf("mount /proc/xen: %w", err))
	}
	for _, argv := range [][]string{
		{xenBin + "xenstored", "--pid-file", "/run/xenstored.pid"},
		{xenBin + "xen-init-dom0"},
		{xenBin + "xenconsoled", "--pid-file=/run/xenconsoled.pid", "--log=all", "--log-dir=/var/log/xen"},
	} {
		if err := command(argv[0], argv[1:]...).Run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", argv[0], err))
		}
	}
	return errors.Join(errs...)
}

// serve serves the control port, and says why it could not go on.
func serve() error {
	port, err := ctl.OpenPort(context.Background(), machine.CtlPort)
	if err != nil {
		return err
	}
	fmt.Println("agent: ready")
	return serveOn(port)
}
