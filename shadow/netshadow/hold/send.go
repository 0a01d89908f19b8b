// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// Sent is the result of sending frames.
type Sent struct {
	Frames int // accepted by the interface's queue
	Failed int // refused for good
	// Reasons counts the refused frames by error text.
	Reasons map[string]int
	// Rest are the frames that were not tried, because the context ended or the
	// interface went away. They can be sent again.
	Rest []frame.Frame
}

// Sender puts frames on an interface through a packet socket.
//
// Frames take the interface's own queue (no PACKET_QDISC_BYPASS): there they stay
// ahead of those a plug above releases afterwards, and the kernel segments for a
// device that cannot (__dev_direct_xmit() drops such frames). A frame's priority is
// kept, so that the bands of that queue do not change the order within a flow.
type Sender struct {
	ifindex  int
	file     *os.File
	raw      syscall.RawConn
	priority uint32
	buf      []byte
}

// sendBuffer bounds the memory of frames waiting in the interface's queue, in
// bytes. It holds several frames of 64 KiB, and fewer small ones than the queues
// of drivers' interfaces take.
const sendBuffer = 1 << 20

// NewSender opens a packet socket for sending on the interface. It needs
// CAP_NET_RAW.
func NewSender(ifindex int) (*Sender, error) {
	s := &Sender{ifindex: ifindex}
	// Protocol 0: the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &OpError{"open sender on", ifindex, os.NewSyscallError("socket", err)}
	}
	s.file = os.NewFile(uintptr(fd), fmt.Sprintf("packet:%d", ifindex))
	if err := s.setUp(fd); err != nil {
		s.file.Close()
		return nil, &OpError{"open sender on", ifindex, err}
	}
	return s, nil
}

func (s *Sender) setUp(fd int) (err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return os.NewSyscallError("setsockopt PACKET_VNET_HDR", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer); err != nil {
		return os.NewSyscallError("setsockopt SO_SNDBUFFORCE", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.ifindex}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	s.raw, err = s.file.SyscallConn()
	return err
}

// Close closes the socket. Frames in the interface's queue stay there.
func (s *Sender) Close() error { return s.file.Close() }

// Send sends the frames one after the other and waits when the interface's queue
// is full, as long as ctx lasts. No frame disappears: each is in Frames, Failed or
// Rest of the result. The error is nil unless there is a Rest.
// Send must not be called concurrently.
func (s *Sender) Send(ctx context.Context, frames []frame.Frame) (Sent, error) {
	res := Sent{Reasons: make(map[string]int)}
	stop := context.AfterFunc(ctx, func() { s.file.SetWriteDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			s.file.SetWriteDeadline(time.Time{})
		}
	}()
	for i, f := range frames {
		err := s.send(ctx, f)
		switch {
		case err == nil:
			res.Frames++
		case ctx.Err() != nil:
			res.Rest = frames[i:]
			return res, &OpError{"send on", s.ifindex, ctx.Err()}
		case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENETDOWN):
			res.Rest = frames[i:]
			return res, &OpError{"send on", s.ifindex, err}
		default:
			res.Failed++
			res.Reasons[err.Error()]++
		}
	}
	return res, nil
}

func (s *Sender) send(ctx context.Context, f frame.Frame) error {
	s.buf = append(f.Offload.AppendHeader(s.buf[:0]), f.Data...)
	for w := newWait(); ; {
		err := s.write(f.Priority)
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// The queue was full and dropped the frame. Nothing tells when it is not.
		if err := w.next(ctx); err != nil {
			return err
		}
	}
}

// write sends s.buf, and waits while the socket's send buffer is full.
func (s *Sender) write(priority uint32) error {
	var err error
	werr := s.raw.Write(func(fd uintptr) bool {
		if priority != s.priority {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, int(priority)); err != nil {
				err = os.NewSyscallError("setsockopt SO_PRIORITY", err)
				return true
			}
			s.priority = priority
		}
		for {
			if _, err = unix.Write(int(fd), s.buf); err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN
	})
	if err == nil || err == unix.EAGAIN {
		err = werr
	}
	return err
}
