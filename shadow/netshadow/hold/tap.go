// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// Limits bound what a [TapReader] keeps. Frames beyond either are dropped and
// counted.
type Limits struct {
	Bytes  int
	Frames int
}

// Collected counts what a [TapReader] has read, in total.
type Collected struct {
	Frames int // kept
	Drops  int // beyond the limits
}

// OpenTap opens, and creates if need be, the TAP interface of that name, one frame a
// read with nothing before it (IFF_NO_PI). It declares no offloads (TUNSETOFFLOAD 0),
// so the kernel completes checksums and segments before a frame gets there, and what is
// read is finished. The interface lives as long as the file or a duplicate of it.
func OpenTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("hold: open TAP %s: %w", name, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err})
	}
	if err := setTap(fd, name); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("hold: open TAP %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "tap:"+name), nil
}

func setTap(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return os.NewSyscallError("ioctl TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return os.NewSyscallError("ioctl TUNSETOFFLOAD", err)
	}
	return nil
}

// TapReader collects the frames that the proxy sends to the TAP behind it. While
// the TAP is not the proxy's active port there are none, and the reader sleeps.
type TapReader struct {
	log    *slog.Logger
	limits Limits
	file   *os.File
	raw    syscall.RawConn
	done   chan struct{}

	mu     sync.Mutex
	closed bool
	buf    []byte
	frames []frame.Frame
	bytes  int
	total  Collected
}

// NewTapReader reads from a TAP opened by [OpenTap], or a file descriptor of it
// that a predecessor left, until Close. It duplicates the descriptor, makes it
// non-blocking and leaves tap to the caller. A nil logger discards.
func NewTapReader(logger *slog.Logger, tap *os.File, limits Limits) (*TapReader, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	file, err := duplicate(tap)
	if err != nil {
		return nil, fmt.Errorf("hold: read TAP: %w", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("hold: read TAP: %w", err)
	}
	r := &TapReader{
		log:    logger,
		limits: limits,
		file:   file,
		raw:    raw,
		done:   make(chan struct{}),
		buf:    make([]byte, maxFrame),
	}
	go r.read()
	return r, nil
}

func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := raw.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err != nil {
			err = os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
			return
		}
		if err = unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// maxFrame is the most bytes a TAP delivers at once: an IP packet of 65535 bytes
// behind an Ethernet header and two VLAN tags.
const maxFrame = 65535 + 22

// Close stops reading. Frames not taken are lost; those that come later wait in the
// interface's own queue, or are dropped by it.
func (r *TapReader) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	err := r.file.Close()
	<-r.done
	return err
}

// Take returns the collected frames in the order in which they were sent, those
// included that the kernel has queued for the TAP until now.
func (r *TapReader) Take() []frame.Frame {
	// Control does not wait for the goroutine that waits for frames.
	_ = r.raw.Control(func(fd uintptr) { _ = r.drain(int(fd)) })
	r.mu.Lock()
	defer r.mu.Unlock()
	frames := r.frames
	r.frames, r.bytes = nil, 0
	return frames
}

// Collected returns the totals since the reader was made.
func (r *TapReader) Collected() Collected {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

func (r *TapReader) read() {
	defer close(r.done)
	var err error
	werr := r.raw.Read(func(fd uintptr) bool {
		err = r.drain(int(fd))
		return err != unix.EAGAIN // wait for more
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed { // EBADFD, EFAULT: the interface was deleted (tun_chr_read_iter())
		r.log.Error("hold: read TAP", "err", errors.Join(werr, err))
	}
}

// drain reads until there is nothing to read, and returns why: EAGAIN is good.
func (r *TapReader) drain(fd int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		n, err := unix.Read(fd, r.buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		default:
			r.keep(r.buf[:n])
		}
	}
}

func (r *TapReader) keep(b []byte) {
	if r.bytes+len(b) > r.limits.Bytes || len(r.frames) >= r.limits.Frames {
		r.total.Drops++
		return
	}
	r.frames = append(r.frames, frame.Frame{Data: bytes.Clone(b)})
	r.bytes += len(b)
	r.total.Frames++
}
