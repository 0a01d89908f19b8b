// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoPort is matched when the guest has no virtio-serial port of a name.
var ErrNoPort = errors.New("no such virtio-serial port")

// How often OpenPort looks for a port that is not there yet, or is still held
// by an agent that is being killed.
const (
	portRetryMin = 10 * time.Millisecond
	portRetryMax = time.Second
)

// A Port is the guest end of a virtio-serial port. Hosts connect to the other
// end and leave again, and a live migration replaces it; the Port stays the
// same through all of that, and its Read and Write wait while nobody is there.
//
// The rules come from the kernel's drivers/char/virtio_console.c: while no host
// is connected read(2) returns 0, write(2) returns EAGAIN on a non-blocking
// descriptor, and poll(2) reports EPOLLHUP. A write on a blocking descriptor
// would spin in the kernel, with interrupts off, until the host has taken the
// data (__send_to_port), so a Port is always non-blocking.
type Port struct {
	f  *os.File
	rc syscall.RawConn
}

// OpenPort opens the virtio-serial port called name. It waits until the port
// exists and can be opened, or ctx ends; then the error also matches what was
// in the way, e.g. ErrNoPort.
func OpenPort(ctx context.Context, name string) (*Port, error) {
	return openPort(ctx, "/sys", "/dev", name)
}

func openPort(ctx context.Context, sys, dev, name string) (*Port, error) {
	return retry(ctx, "port "+name, func() (*Port, error) { return tryPort(sys, dev, name) })
}

// retry opens what may not be there yet, until that succeeds or ctx ends.
func retry[T any](ctx context.Context, what string, open func() (T, error)) (T, error) {
	for wait := portRetryMin; ; wait = min(2*wait, portRetryMax) {
		p, err := open()
		if err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return p, fmt.Errorf("opening %s: %w: %w", what, err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

func tryPort(sys, dev, name string) (*Port, error) {
	node, err := findPort(sys, name)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dev, node)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return newPort(fd, path)
}

// findPort returns the device node, e.g. "vport0p1", of the port called name.
func findPort(sys, name string) (string, error) {
	dir := filepath.Join(sys, "class/virtio-ports")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "name"))
		if err == nil && strings.TrimSuffix(string(b), "\n") == name {
			return e.Name(), nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNoPort, name)
}

// newPort takes over fd, which must be non-blocking.
func newPort(fd int, path string) (*Port, error) {
	f := os.NewFile(uintptr(fd), path)
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Port{f: f, rc: rc}, nil
}

// Read reads what a host sent. It never returns io.EOF: while no host is
// connected it waits for the next one. A port that was unplugged returns
// ENODEV, a closed one os.ErrClosed.
func (p *Port) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	// Returning false parks the goroutine until the next edge from epoll. The
	// runtime arms it before the first try, so no edge between a read of 0 and
	// the wait is missed.
	rcErr := p.rc.Read(func(fd uintptr) bool {
		n, err = ignoringEINTR(unix.Read, int(fd), b)
		return !(err == unix.EAGAIN || err == nil && n == 0)
	})
	return max(n, 0), p.wrap("read", err, rcErr)
}

// Write writes all of b, waiting for a host to take it.
func (p *Port) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		var n int
		var err error
		rcErr := p.rc.Write(func(fd uintptr) bool {
			n, err = ignoringEINTR(unix.Write, int(fd), b[written:])
			return err != unix.EAGAIN
		})
		if err == nil && rcErr == nil && n <= 0 {
			err = io.ErrShortWrite
		}
		if err := p.wrap("write", err, rcErr); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// Connected reports whether a host is connected now.
func (p *Port) Connected() bool {
	connected := false
	p.rc.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		_, err := unix.Poll(fds, 0)
		connected = err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) == 0
	})
	return connected
}

// Close closes the port and ends a Read or Write that waits.
func (p *Port) Close() error { return p.f.Close() }

// wrap makes the error of an operation from that of the system call and that
// of the runtime's wait around it, which fails only when the port is closed.
func (p *Port) wrap(op string, err, waitErr error) error {
	if waitErr != nil {
		err = os.ErrClosed
	}
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: p.f.Name(), Err: err}
}

func ignoringEINTR(f func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := f(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// ServePort serves the virtio-serial port called name until ctx ends, which is
// no error. A port that does not exist, or is unplugged, is waited for.
func (s *Server) ServePort(ctx context.Context, name string) error {
	return s.serveAgain(ctx, name, portRetryMin, func() (io.ReadWriteCloser, error) { return OpenPort(ctx, name) })
}

// serveAgain serves what open returns, and when that has ended, after a pause, what it
// returns then, until ctx ends.
func (s *Server) serveAgain(ctx context.Context, name string, pause time.Duration, open func() (io.ReadWriteCloser, error)) error {
	for {
		p, err := open()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s.logger.Debug("control port open", "port", name)
		if err := s.ServeConn(ctx, p); err != nil {
			s.logger.Warn("control port lost", "port", name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
