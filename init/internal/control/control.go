// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package control is PID 1's side of the protocol of package notify: it
// listens, checks who speaks, and hands each request to a Handler.
//
// It knows sockets, credentials and bounds. It must never know what a request
// does.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/umbra-vm/umbra/init/notify"
	"golang.org/x/sys/unix"
)

// ErrDenied says that the other side runs as another user than this process,
// which in PID 1 means: not as root.
var ErrDenied = errors.New("only root may speak with init")

// Bounds on what clients can cost PID 1.
const (
	maxConns    = 32
	idleTimeout = 30 * time.Second
)

// A Handler does what requests ask for, for several connections at once.
// Handle owns fd, which is -1 unless the request came with a descriptor.
type Handler interface {
	Handle(req notify.Request, fd int) notify.Reply
}

// A Server answers requests on one socket.
type Server struct {
	listener *net.UnixListener
	handler  Handler
	log      *slog.Logger
	slots    chan struct{}
}

// Listen makes the socket, replacing one that is left from before.
func Listen(path string, handler Handler, log *slog.Logger) (*Server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &Server{listener: l, handler: handler, log: log, slots: make(chan struct{}, maxConns)}, nil
}

// Serve answers requests until the Server is closed.
func (s *Server) Serve() error {
	for {
		s.slots <- struct{}{}
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			<-s.slots
			s.log.Warn("control socket: accept", "err", err)
			time.Sleep(100 * time.Millisecond) // most likely out of descriptors
			continue
		}
		go func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			s.converse(conn)
		}()
	}
}

// Close ends Serve.
func (s *Server) Close() error { return s.listener.Close() }

// converse answers the requests of one connection.
func (s *Server) converse(conn *net.UnixConn) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("control socket: request failed", "panic", r)
		}
	}()
	if err := allowed(conn); err != nil {
		s.log.Warn("control socket", "err", err)
		reply(conn, notify.Reply{Error: err.Error()})
		return
	}
	buf := make([]byte, notify.MaxRequest)
	oob := make([]byte, unix.CmsgSpace(4*8))
	for {
		if err := conn.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		if n == 0 { // the end, or an empty datagram, which may carry descriptors
			closeAll(rights(oob[:oobn]))
			return
		}
		req, fd, err := receive(buf[:n], oob[:oobn], flags)
		answer := notify.Reply{}
		if err != nil {
			answer.Error = err.Error()
		} else {
			answer = s.handler.Handle(req, fd)
		}
		if !reply(conn, answer) {
			return
		}
	}
}

// receive makes a request of what was received. No descriptor is left open
// when there is an error.
func receive(datagram, oob []byte, flags int) (req notify.Request, fd int, err error) {
	fds := rights(oob)
	fd = -1
	defer func() {
		for _, f := range fds {
			if err != nil || f != fd {
				unix.Close(f)
			}
		}
	}()
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return req, -1, fmt.Errorf("%w: too long, or too many descriptors", notify.ErrRequest)
	}
	if req, err = notify.ParseRequest(datagram); err != nil {
		return req, -1, err
	}
	switch want := req.Op == notify.FDStore; {
	case want && len(fds) != 1:
		return req, -1, fmt.Errorf("%w: %s takes one descriptor, got %d", notify.ErrRequest, req.Op, len(fds))
	case !want && len(fds) != 0:
		return req, -1, fmt.Errorf("%w: %s takes no descriptor", notify.ErrRequest, req.Op)
	case want:
		fd = fds[0]
	}
	return req, fd, nil
}

// rights returns the descriptors in control messages. What else there is, and
// what cannot be parsed, holds none.
func rights(oob []byte) []int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for _, m := range msgs {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// allowed returns nil if the process at the other end may speak with us.
func allowed(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("peer credentials: %w", credErr)
	}
	return permit(cred, os.Geteuid())
}

func permit(peer *unix.Ucred, self int) error {
	if int(peer.Uid) != self {
		return fmt.Errorf("%w: process %d runs as user %d", ErrDenied, peer.Pid, peer.Uid)
	}
	return nil
}

// reply sends r and reports whether that went well.
func reply(conn *net.UnixConn, r notify.Reply) bool {
	text, err := json.Marshal(r)
	if err == nil && len(text) > notify.MaxReply {
		text, err = json.Marshal(notify.Reply{Error: "the reply is too long"})
	}
	if err != nil {
		return false
	}
	_, err = conn.Write(text)
	return err == nil
}
