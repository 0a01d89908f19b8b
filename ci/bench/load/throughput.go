// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

const (
	// transfer is the size in MiB of what is timed as one: long against the way to the
	// peer and back that ends it.
	transfer  = 16
	transfers = 16 // each way, after one to warm up
)

// throughput takes the time of streams to a sink, which says when it has everything, and
// from a source, by turns: first as fast as they go, and then over a link with a line rate.
func throughput(sink, source string) error {
	if err := expectNoLoss(); err != nil {
		return err
	}
	out, err := openStream(sink)
	if err != nil {
		return err
	}
	in, err := openStream(source)
	if err != nil {
		return err
	}
	block := bytes.Repeat([]byte{0xa5}, 1<<20)
	send := func() error {
		return errors.Join(announce(out, transfer), writeStream(out, block, transfer), readStream(out, block, 1))
	}
	receive := func() error {
		return errors.Join(announce(in, transfer), readStream(in, block, transfer<<20))
	}
	turn := func(question uint32, kind record.Kind, f func() error) (record.Record, error) {
		if err := errors.Join(announce(out, question), readStream(out, block, 1)); err != nil {
			return record.Record{}, fmt.Errorf("turn: %w", err)
		}
		return timed(kind, f)
	}
	series := func(question uint32, sends, receives record.Kind) error {
		for n := range 1 + transfers {
			sent, err := turn(question, sends, send)
			if err != nil {
				return err
			}
			received, err := turn(question, receives, receive)
			if err != nil {
				return err
			}
			if n > 0 {
				say(sent)
				say(received)
			}
		}
		return nil
	}
	if err := series(record.AskTurn, record.Send, record.Receive); err != nil {
		return err
	}
	say(record.Record{Kind: record.Free})
	return series(record.AskLine, record.LineSend, record.LineReceive)
}

// announce says on a stream what is to come, or wanted.
func announce(fd int, n uint32) error {
	return writeStream(fd, binary.BigEndian.AppendUint32(nil, n), 1)
}

// timed runs f and returns how long it took as a record.
func timed(kind record.Kind, f func() error) (record.Record, error) {
	idled, err := idle()
	if err != nil {
		return record.Record{}, err
	}
	t := now(unix.CLOCK_MONOTONIC)
	if err := f(); err != nil {
		return record.Record{}, fmt.Errorf("%s: %w", kind, err)
	}
	elapsed := now(unix.CLOCK_MONOTONIC) - t
	idles, err := idle()
	return record.Record{Kind: kind, Count: transfer, Elapsed: elapsed, Idle: idles - idled}, err
}

// tickLength is the unit of /proc/stat in ns: proc(5), USER_HZ, 100 on x86.
const tickLength = 10_000_000

// idle is how long a processor has had nothing to do since the guest's start, in ns.
func idle() (int64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	ticks, err := parseIdle(string(b))
	if err != nil {
		return 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return ticks * tickLength / int64(runtime.NumCPU()), nil
}

// parseIdle returns the ticks that all processors idled, of what /proc/stat says.
func parseIdle(stat string) (ticks int64, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	// user, nice, system, idle, and waiting for disks, which is idle too
	f := strings.Fields(line)
	if len(f) < 6 || f[0] != "cpu" {
		return 0, fmt.Errorf("%q is no line of all processors", line)
	}
	for _, text := range f[4:6] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks, nil
}

// openStream connects to addr, with room for no more on its way than the network on the
// host's side queues.
func openStream(addr string) (int, error) {
	to, err := sockaddr(addr)
	if err != nil {
		return 0, err
	}
	fd, err := connect(to, unix.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	for _, opt := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1<<20); err != nil {
			return 0, fmt.Errorf("socket buffer: %w", err)
		}
	}
	return fd, nil
}

// readStream reads size bytes, through buf.
func readStream(fd int, buf []byte, size int) error {
	for size > 0 {
		n, err := read(fd, buf[:min(size, len(buf))])
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: the peer has closed with %d bytes to come", errMissing, size)
		}
		size -= n
	}
	return nil
}
