// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package boot

import (
	"log/slog"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
)

// RunDir is where init and its children keep what must outlive a process and
// must not outlive the machine.
const RunDir = "/run/umbra"

const (
	noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	noDev  = unix.MS_NOSUID | unix.MS_NODEV
)

// Devices is the part of the table that comes first: without it there is
// neither a console nor a log.
var Devices = Mount{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"}

// Table returns what is made at boot after [Devices], in the order it is made. self is the
// path of init's own binary, which answers to several names.
func Table(self string) []Creator {
	t := []Creator{
		Mount{"proc", "/proc", noExec, ""},
		Mount{"sysfs", "/sys", noExec, ""},
		Mount{"tmpfs", "/run", noDev, "mode=0755"},
		Mount{"tmpfs", "/tmp", noDev, "mode=1777"},
		Mount{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		Mount{"tmpfs", "/dev/shm", noDev, "mode=1777"},
		Mount{"bpf", "/sys/fs/bpf", noExec, "mode=0700"},
		Mount{"cgroup2", "/sys/fs/cgroup", noExec, ""},
		Dir{RunDir, 0o755},
		Link{"/dev/fd", "/proc/self/fd"},
		Link{"/dev/stdin", "/proc/self/fd/0"},
		Link{"/dev/stdout", "/proc/self/fd/1"},
		Link{"/dev/stderr", "/proc/self/fd/2"},
		Link{"/var/run", "/run"},
		Link{"/etc/mtab", "/proc/self/mounts"},
		Default{"/etc/passwd", "root:x:0:0:root:/:/bin/sh\n"},
		Default{"/etc/group", "root:x:0:\ntty:x:5:\n"},
		Default{"/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"},
		Default{"/etc/resolv.conf", ""},
		Dir{"/var/tmp", 0o777 | os.ModeSticky},
		// Else the kernel drops most of what is written to /dev/kmsg:
		// devkmsg_write lets 10 records pass in 5 seconds.
		Sysctl{"kernel/printk_devkmsg", "on\n"},
		// What orderly_poweroff runs, for Xen's control/shutdown and for
		// thermal emergencies. The path for a reboot, /sbin/reboot, is
		// fixed in kernel/reboot.c.
		Sysctl{"kernel/poweroff_cmd", "/sbin/poweroff\n"},
		Func{"loopback interface", loopbackUp},
		Func{"limit of open files", raiseFileLimit},
		Func{"Ctrl-Alt-Del", ctrlAltDel},
	}
	for _, name := range config.Links {
		t = append(t, Link{name, self})
	}
	return t
}

// Create makes everything in the table, logs each entry, and returns how many
// failed.
func Create(log *slog.Logger, table []Creator) (failed int) {
	for _, c := range table {
		if err := c.Create(); err != nil {
			failed++
			log.Warn(c.String(), "err", err)
			continue
		}
		log.Debug(c.String())
	}
	return failed
}

// ctrlAltDel makes the kernel send SIGINT to PID 1 for the key combination
// instead of resetting the machine.
func ctrlAltDel() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }

// raiseFileLimit lets programs raise their limit of open files: the kernel
// starts PID 1 with a hard limit of 4096 (INR_OPEN_MAX). The soft limit stays
// at 1024, since programs that use select(2) break above it.
func raiseFileLimit() error {
	// The syscall package and not x/sys: it tells the runtime, which would
	// else give children the limits of PID 1's start.
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1024, Max: 524288})
}
