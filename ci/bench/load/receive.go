// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sources are sockets to a peer that sends what it is asked for: on each, a question
// is a number of 4 bytes, of datagrams or MiB.
type sources struct {
	udp, tcp int
	buf      [2 * datagram]byte
}

func openSources(peer string) (*sources, error) {
	addr, err := sockaddr(peer)
	if err != nil {
		return nil, err
	}
	s := new(sources)
	if s.udp, err = connect(addr, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK); err != nil {
		return nil, err
	}
	if s.tcp, err = connect(addr, unix.SOCK_STREAM); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(s.tcp, true); err != nil {
		return nil, err
	}
	for _, fd := range []int{s.udp, s.tcp} {
		// Of a stream no more is under way than the network on the host's side queues.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20); err != nil {
			return nil, fmt.Errorf("receive buffer: %w", err)
		}
	}
	return s, nil
}

const (
	// burst is how many datagrams are asked for at once: fewer than the ring of any
	// NIC has room for.
	burst = 200
	// between two looks passes so long that they cost little, and what has not come
	// after that many looks is not to come.
	between = 5 * time.Millisecond
	looks   = 6000
)

var errMissing = errors.New("the peer's data did not arrive")

// datagrams receives a round of datagrams.
func (s *sources) datagrams() error {
	for range datagrams / burst {
		err := s.collect(s.udp, burst, burst, func() (int, error) {
			_, err := read(s.udp, s.buf[:])
			return 1, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stream receives a round of a stream.
func (s *sources) stream(buf []byte) error {
	return s.collect(s.tcp, mebibytes, mebibytes<<20, func() (int, error) { return read(s.tcp, buf) })
}

// collect asks for n, and reads until the whole is there.
func (s *sources) collect(fd, n, whole int, read func() (int, error)) error {
	if _, err := write(fd, binary.BigEndian.AppendUint32(nil, uint32(n))); err != nil {
		return err
	}
	sleep(between)
	for left := looks; whole > 0; {
		got, err := read()
		switch {
		case err == nil && got > 0:
			whole -= got
		case err == nil:
			return fmt.Errorf("%w: the peer has closed", errMissing)
		case !errors.Is(err, unix.EAGAIN):
			return err
		case left == 0:
			return fmt.Errorf("%w: %d of %d missing", errMissing, whole, n)
		default:
			left--
			sleep(between)
		}
	}
	return nil
}

func read(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, fmt.Errorf("read: %w", errno)
	}
	return int(n), nil
}
