// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ueventBuffer is the receive buffer of the uevent socket in bytes: a bus rescan or
// a module load sends hundreds of events in one go.
const ueventBuffer = 8 << 20

// maxUevent is more than the kernel puts into one (UEVENT_BUFFER_SIZE 2048 and the
// header, include/linux/kobject.h).
const maxUevent = 8 << 10

// Resync is the [Migrated.Detail] of the signal given when uevents were lost:
// anything may have come or gone.
const Resync = "resync"

// Uevents is a [Watcher] of the kernel's uevents of buses with hardware.
type Uevents struct {
	log  *slog.Logger
	file *os.File
	raw  syscall.RawConn
}

// NewUevents opens the uevent socket, so that nothing is missed from now on. An
// error is an [*UnavailableError]. A nil logger discards.
func NewUevents(logger *slog.Logger) (*Uevents, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	u, err := openUevents(logger)
	if err != nil {
		return nil, &UnavailableError{Uevent, err}
	}
	return u, nil
}

func openUevents(logger *slog.Logger) (*Uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	u := &Uevents{log: logger, file: os.NewFile(uintptr(fd), "uevent")}
	// Without CAP_NET_ADMIN the default buffer must do.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer); err != nil {
		logger.Warn("signals: small uevent buffer", "err", os.NewSyscallError("setsockopt SO_RCVBUFFORCE", err))
	}
	const kernelGroup = 1 // group 2 is udev's
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		u.file.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	if u.raw, err = u.file.SyscallConn(); err != nil {
		u.file.Close()
		return nil, err
	}
	return u, nil
}

// Source implements [Watcher].
func (u *Uevents) Source() Source { return Uevent }

// Watch implements [Watcher]. It closes the socket when it returns. It signals the
// coming, going, binding and unbinding of PCI functions and of Xen's front ends, and [Resync] when the
// socket has overflowed.
func (u *Uevents) Watch(ctx context.Context, emit func(Migrated)) error {
	defer u.file.Close()
	defer context.AfterFunc(ctx, func() { u.file.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, maxUevent)
	for {
		n, err := u.receive(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			emit(Migrated{Source: Uevent, At: Now(), Detail: Resync})
			continue
		case err != nil:
			return fmt.Errorf("signals: receive uevent: %w", err)
		}
		e, err := parseUevent(buf[:n])
		if err != nil {
			u.log.Debug("signals: uevent", "err", err)
			continue
		}
		switch e.subsystem {
		case "pci", "xen":
			emit(Migrated{Source: Uevent, At: Now(), Device: e.device, Detail: e.action})
		}
	}
}

// receive returns the next message of the kernel's; others may send to the group.
func (u *Uevents) receive(buf []byte) (n int, err error) {
	rerr := u.raw.Read(func(fd uintptr) bool {
		for {
			var from unix.Sockaddr
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			switch {
			case err == unix.EINTR:
			case err != nil:
				return err != unix.EAGAIN
			default:
				if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
					return true
				}
			}
		}
	})
	if rerr != nil {
		return 0, rerr
	}
	return n, err
}

// uevent is a message of the kernel's about a kobject (lib/kobject_uevent.c).
type uevent struct {
	action    string // "add", "remove", "bind", "unbind", "change", ...
	subsystem string
	device    string // PCI address, else the last element of the path
}

var errUevent = errors.New("malformed uevent")

// parseUevent reads "action@devpath" and the KEY=value strings behind it, each
// ended by a zero byte.
func parseUevent(b []byte) (uevent, error) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	action, path, at := bytes.Cut(head, []byte("@"))
	if !ok || !at || len(action) == 0 || len(path) == 0 {
		return uevent{}, fmt.Errorf("%w: %q", errUevent, head)
	}
	e := uevent{action: string(action), device: string(path[bytes.LastIndexByte(path, '/')+1:])}
	for len(rest) > 0 {
		var field []byte
		field, rest, _ = bytes.Cut(rest, []byte{0})
		key, value, ok := bytes.Cut(field, []byte("="))
		if !ok {
			return uevent{}, fmt.Errorf("%w: field %q", errUevent, field)
		}
		switch string(key) {
		case "SUBSYSTEM":
			e.subsystem = string(value)
		case "PCI_SLOT_NAME":
			e.device = string(value)
		}
	}
	return e, nil
}
