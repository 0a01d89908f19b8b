// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// handOver begins the line with which the kernel runs process 1 (init/main.c,
// run_init_process).
const handOver = "Run /init as init process"

// maxRecord is the size of the largest record of /dev/kmsg (include/linux/printk.h,
// CONSOLE_EXT_LOG_MAX).
const maxRecord = 8192

var errNoHandOver = errors.New("the kernel's log does not say when it ran /init")

// handedOver reads in the kernel's log when the kernel ran process 1, in nanoseconds
// since its start.
func handedOver() (int64, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("the kernel's log: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, maxRecord)
	for {
		n, err := unix.Read(fd, buf) // one record
		switch {
		case errors.Is(err, unix.EAGAIN):
			return 0, errNoHandOver
		case errors.Is(err, unix.EPIPE): // overwritten meanwhile; the next read has the oldest that is left
			continue
		case err != nil:
			return 0, fmt.Errorf("the kernel's log: %w", err)
		}
		if at, ok := handOverIn(string(bytes.TrimRight(buf[:n], "\n"))); ok {
			return at, nil
		}
	}
}

// handOverIn reads a record as Documentation/ABI/testing/dev-kmsg has it,
// "level,number,µs,flags;text", and is false for others than the one that is looked for.
func handOverIn(record string) (ns int64, ok bool) {
	head, text, _ := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if len(fields) < 3 || !strings.HasPrefix(text, handOver) {
		return 0, false
	}
	us, err := strconv.ParseInt(fields[2], 10, 64)
	return us * 1000, err == nil && us >= 0
}
