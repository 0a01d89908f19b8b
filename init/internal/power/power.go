// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package power decides when the machine goes off and sees to it that it does.
//
// It knows who may ask (signals, the ACPI power button), how file systems and
// processes are left, and reboot(2). It must never know which programs there
// are: stopping them in order is done by whoever it is given.
package power

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Action is how the machine ends.
type Action string

// The actions.
const (
	PowerOff Action = "power off"
	Reboot   Action = "reboot"
	Halt     Action = "halt"
)

// Request is somebody's wish.
type Request struct {
	Action Action
	Source string // for the log: "signal SIGTERM", "power button"
}

// sigRTMin is the first real-time signal as libc counts them; the kernel's
// first two are used by libc itself.
const sigRTMin = 34

// signals says what each signal to PID 1 asks for. It follows systemd and
// busybox where they agree: SIGINT comes from Ctrl-Alt-Del and from Xen's
// "reboot" (drivers/xen/manage.c), SIGPWR from a failing power supply; the
// real-time signals are systemd's, which container and VM managers send.
var signals = map[syscall.Signal]Action{
	unix.SIGTERM:                 PowerOff,
	unix.SIGPWR:                  PowerOff,
	unix.SIGUSR2:                 PowerOff,
	unix.SIGINT:                  Reboot,
	unix.SIGUSR1:                 Halt,
	syscall.Signal(sigRTMin + 3): Halt,
	syscall.Signal(sigRTMin + 4): PowerOff,
	syscall.Signal(sigRTMin + 5): Reboot,
}

// FromSignal returns what a signal to PID 1 asks for.
func FromSignal(sig syscall.Signal) (Action, bool) {
	a, ok := signals[sig]
	return a, ok
}

// Signals returns the signals that ask for something.
func Signals() []os.Signal {
	var s []os.Signal
	for sig := range signals {
		s = append(s, sig)
	}
	return s
}

// End kills every process that is left, writes everything out, unmounts what
// can be unmounted, and ends the machine. It calls lastWords right before it
// does, and returns only if the kernel refuses.
func End(log *slog.Logger, action Action, lastWords func()) error {
	killAll(log)
	unix.Sync()
	unmountAll(log)
	log.Info(map[Action]string{PowerOff: "powers off", Reboot: "reboots", Halt: "halts"}[action])
	lastWords()
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	switch action {
	case Reboot:
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	case Halt:
		cmd = unix.LINUX_REBOOT_CMD_HALT
	}
	if err := unix.Reboot(cmd); err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

// termLimit bounds the wait for processes nobody supervises.
const termLimit = 2 * time.Second

// killAll ends every process but this one: with SIGTERM first, then without
// asking.
func killAll(log *slog.Logger) {
	if !othersLeft() {
		return
	}
	_ = unix.Kill(-1, unix.SIGTERM)
	for deadline := time.Now().Add(termLimit); othersLeft(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			log.Warn("processes are left, they are killed")
			break
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	for deadline := time.Now().Add(termLimit); othersLeft() && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
}

// othersLeft reports whether there is a process of user space beside this one.
// Kernel threads have no command line.
func othersLeft() bool {
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, name := range names {
		if name == "1" || strings.Trim(name, "0123456789") != "" {
			continue
		}
		if cmdline, err := os.ReadFile("/proc/" + name + "/cmdline"); err == nil && len(cmdline) > 0 {
			return true
		}
	}
	return false
}

// unmountAll unmounts everything that keeps data beyond the end of the
// machine, the newest mount first, and makes read-only what is in use.
func unmountAll(log *slog.Logger) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		log.Warn("unmount", "err", err)
		return
	}
	for _, target := range Unmountable(string(text)) {
		err := unix.Unmount(target, 0)
		if err == nil {
			log.Debug("unmounted " + target)
			continue
		}
		if roErr := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); roErr != nil {
			log.Warn("unmount "+target, "err", err)
		}
	}
	unix.Sync()
}

// inMemory are file systems that hold nothing once the machine is off.
var inMemory = []string{
	"rootfs", "ramfs", "tmpfs", "devtmpfs", "devpts", "proc", "sysfs", "bpf",
	"cgroup2", "tracefs", "debugfs", "securityfs", "configfs", "hugetlbfs", "mqueue", "xenfs",
}

// Unmountable returns where the file systems that keep data are mounted, from
// the text of /proc/self/mounts, in the order in which they can be unmounted.
func Unmountable(mounts string) []string {
	var targets []string
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 || slices.Contains(inMemory, fields[2]) {
			continue
		}
		targets = append(targets, unescape.Replace(fields[1]))
	}
	slices.Reverse(targets)
	return targets
}

// unescape undoes mangle_path of fs/seq_file.c for the characters that
// fs/proc_namespace.c escapes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
