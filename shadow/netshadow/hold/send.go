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
	Frames int // given to the driver
	Failed int // refused for good
	// Reasons counts the refused frames by error text.
	Reasons map[string]int
	// Rest are the frames that were not tried, because the context ended or the
	// interface went away. They can be sent again.
	Rest []frame.Frame
}

// Sender puts frames on an interface through a packet socket.
//
// Frames go to the driver itself (PACKET_QDISC_BYPASS): a frame accepted is in the
// driver's ring, ahead of all that a plug releases afterwards, and no queueing
// discipline drops it (fq_codel would, of frames that wait for a slow device).
type Sender struct {
	ifindex  int
	file     *os.File
	raw      syscall.RawConn
	priority uint32
}

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
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return os.NewSyscallError("setsockopt PACKET_QDISC_BYPASS", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.ifindex}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	s.raw, err = s.file.SyscallConn()
	return err
}

// Close closes the socket. Frames given to the driver stay there.
func (s *Sender) Close() error { return s.file.Close() }

// Send sends the frames one after the other and waits while the driver's ring is full
// or the interface has no carrier, as long as ctx lasts. No frame disappears: each is in
// Frames, Failed or Rest of the result. The error is nil unless there is a Rest.
// Send must not be called concurrently.
func (s *Sender) Send(ctx context.Context, frames []frame.Frame) (Sent, error) {
	res := Sent{Reasons: make(map[string]int)}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		s.file.SetWriteDeadline(time.Unix(1, 0))
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended
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
	for w := newWait(); ; {
		err := s.write(f)
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// The driver took no frame (NETDEV_TX_BUSY, or its queue is stopped), and
		// nothing tells when it does again.
		if err := w.next(ctx); err != nil {
			return err
		}
	}
}

// write sends f, and waits while the socket's send buffer is full.
func (s *Sender) write(f frame.Frame) error {
	var err error
	werr := s.raw.Write(func(fd uintptr) bool {
		if f.Priority != s.priority {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, int(f.Priority)); err != nil {
				err = os.NewSyscallError("setsockopt SO_PRIORITY", err)
				return true
			}
			s.priority = f.Priority
		}
		for {
			if _, err = unix.Write(int(fd), f.Data); err != unix.EINTR {
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
