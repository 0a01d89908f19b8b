// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package boot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Console opens the kernel's console as the standard input, output and error
// of the process. The kernel does so too, but only if the image has the device
// node.
func Console() error {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	console := int(f.Fd())
	for fd := range 3 {
		if fd == console {
			continue
		}
		if err := unix.Dup3(console, fd, 0); err != nil {
			return fmt.Errorf("console: %w", err)
		}
	}
	if console > 2 {
		return f.Close()
	}
	return nil
}

// ConsoleTTY returns the device behind the console, /dev/ttyS0 for instance:
// the last that /sys/class/tty/console/active names. Unlike /dev/console it
// can be a controlling terminal.
func ConsoleTTY() (string, error) {
	text, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return "", fmt.Errorf("console: %w", err)
	}
	names := strings.Fields(string(text))
	if len(names) == 0 {
		return "", errors.New("console: the kernel has none")
	}
	return "/dev/" + names[len(names)-1], nil
}

// Hostname sets the name of the machine.
func Hostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("host name %q: %w", name, err)
	}
	return nil
}

// AuthorizedKeys writes public keys, one a line, to a file; without keys it leaves the
// image's alone.
func AuthorizedKeys(path string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	return os.WriteFile(path, []byte(strings.Join(keys, "\n")+"\n"), 0o644)
}

// Uptime returns the time since the kernel started (CLOCK_BOOTTIME).
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Describe returns a line about the machine: kernel, processors, memory.
func Describe() string {
	release := "unknown"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	var mem uint64
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		mem = uint64(si.Totalram) * uint64(si.Unit) >> 20
	}
	cpus := "1 CPU"
	if n := runtime.NumCPU(); n != 1 {
		cpus = fmt.Sprintf("%d CPUs", n)
	}
	return fmt.Sprintf("Linux %s, %s, %d MiB", release, cpus, mem)
}

// loopbackUp brings lo up; the kernel gives it its addresses then.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
