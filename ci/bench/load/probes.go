// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// probeLog reads how long probes took. With initcall_debug the kernel says so
// of each (drivers/base/dd.c, really_probe_debug).
type probeLog struct{ kmsg *os.File }

func watchProbes() (*probeLog, error) {
	if err := os.WriteFile("/sys/module/kernel/parameters/initcall_debug", []byte("Y"), 0); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return nil, fmt.Errorf("seek /dev/kmsg: %w", err)
	}
	return &probeLog{os.NewFile(uintptr(fd), "/dev/kmsg")}, nil
}

// took sums up the probes of a device, in ns, since the last call: several
// drivers may have been asked before one took it.
func (p *probeLog) took(address string) (int64, error) {
	var total int64
	seen := false
	buf := make([]byte, 8192) // a record has at most that (kernel/printk/internal.h)
	for {
		n, err := unix.Read(int(p.kmsg.Fd()), buf)
		if errors.Is(err, unix.EPIPE) {
			continue // overwritten before it was read
		}
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read /dev/kmsg: %w", err)
		}
		if ns, ok := parseProbe(string(buf[:n]), address); ok {
			total += ns
			seen = true
		}
	}
	if !seen {
		return 0, fmt.Errorf("the kernel does not say what the probe of %s took", address)
	}
	return total, nil
}

var probeLine = regexp.MustCompile(`probe of (\S+) returned -?[0-9]+ after ([0-9]+) usecs`)

// parseProbe reads the kernel's line about a probe of the device.
func parseProbe(line, address string) (ns int64, ok bool) {
	m := probeLine.FindStringSubmatch(line)
	if m == nil || m[1] != address {
		return 0, false
	}
	us, err := strconv.ParseInt(m[2], 10, 40)
	return us * 1000, err == nil
}
