// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

const (
	// transfer is the size in MiB of what is timed as one: long against the way to the
	// peer and back that ends it.
	transfer  = 32
	transfers = 12 // each way, after one to warm up
)

// throughput takes the time of streams to a sink, which says when it has everything, and
// from a source, by turns.
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
	announced := func(fd int, then func() error) func() error {
		return func() error {
			return errors.Join(writeStream(fd, binary.BigEndian.AppendUint32(nil, transfer), 1), then())
		}
	}
	send := announced(out, func() error {
		return errors.Join(writeStream(out, block, transfer), readStream(out, block, 1))
	})
	receive := announced(in, func() error { return readStream(in, block, transfer<<20) })
	if err := errors.Join(send(), receive()); err != nil {
		return err
	}
	for range transfers {
		if err := errors.Join(timed(record.Send, send), timed(record.Receive, receive)); err != nil {
			return err
		}
	}
	return nil
}

// timed runs f and returns how long it took as a record.
func timed(kind record.Kind, f func() error) error {
	t := now(unix.CLOCK_MONOTONIC)
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	say(record.Record{Kind: kind, Count: transfer, Elapsed: now(unix.CLOCK_MONOTONIC) - t})
	return nil
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
