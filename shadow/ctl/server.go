// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Bounds of one connection. A client that does not read its replies stops
// being served when they are reached; it never holds up another one.
const (
	maxInFlight = 16 // requests being handled or waiting for their reply to be taken
	maxQueued   = 64 // messages waiting to be written; further events are dropped
)

// A Handler answers one command. It is called on a goroutine of its own, and
// its context ends with the connection. What it returns is sent as JSON.
type Handler func(ctx context.Context, args json.RawMessage) (any, error)

// Handle makes a Handler of a function that takes its arguments decoded.
// Unknown keys are refused; absent arguments are A's zero value.
func Handle[A any](f func(context.Context, A) (any, error)) Handler {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := decodeStrict(raw, &args); err != nil {
				return nil, &RemoteError{Code: CodeBadRequest, Message: fmt.Sprintf("arguments: %v", err)}
			}
		}
		return f(ctx, args)
	}
}

// A Server answers commands on any number of connections.
type Server struct {
	handlers map[string]Handler
	logger   *slog.Logger

	mu    sync.Mutex
	conns map[*serverConn]struct{}
}

// NewServer returns a server that answers the commands in handlers. A nil
// logger discards.
func NewServer(handlers map[string]Handler, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Server{handlers: maps.Clone(handlers), logger: logger, conns: make(map[*serverConn]struct{})}
}

// Listen listens on the unix socket at path, for this user only. A socket that
// a killed predecessor left there is replaced.
func Listen(path string) (net.Listener, error) { return listen(path, 0o600, -1) }

// ListenFor is Listen for the members of a group, too.
func ListenFor(path string, gid int) (net.Listener, error) { return listen(path, 0o660, gid) }

func listen(path string, mode os.FileMode, gid int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	err = os.Chown(path, -1, gid)
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

// Serve accepts and serves connections until ctx ends, which is no error. It
// closes l and returns when all connections are closed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()

	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			cancel()
			return fmt.Errorf("accepting on %s: %w", l.Addr(), err)
		}
		wg.Go(func() {
			if err := s.ServeConn(ctx, c); err != nil {
				s.logger.Debug("control connection ended", "err", err)
			}
		})
	}
}

// ServeConn serves one connection until its end or that of ctx, neither of
// which is an error, and closes it. A client that stops sending still gets the
// replies to what it sent.
func (s *Server) ServeConn(outer context.Context, rwc io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	c := &serverConn{
		server: s,
		rwc:    rwc,
		out:    make(chan []byte, maxQueued),
		slots:  make(chan struct{}, maxInFlight),
	}
	stop := context.AfterFunc(ctx, func() { rwc.Close() })
	defer func() {
		if stop() {
			rwc.Close()
		}
	}()

	written := make(chan error, 1)
	go func() {
		defer cancel() // whoever cannot be written to is not worth reading from
		written <- c.write(ctx)
	}()
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()

	err := c.read(ctx)
	if !errors.Is(err, io.EOF) {
		cancel()
	}
	c.handlers.Wait()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	close(c.out)
	writeErr := <-written

	switch {
	case outer.Err() != nil:
		return nil
	case writeErr != nil:
		return fmt.Errorf("writing to the client: %w", writeErr)
	case errors.Is(err, io.EOF):
		return nil
	}
	return fmt.Errorf("reading from the client: %w", err)
}

// Event sends an unsolicited event to every connection. A connection whose
// client is away or does not read misses it.
func (s *Server) Event(name string, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("event %s: %w", name, err)
	}
	line, err := encodeLine(message{Event: name, Data: raw})
	if err != nil {
		return fmt.Errorf("event %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if p, ok := c.rwc.(interface{ Connected() bool }); ok && !p.Connected() {
			continue
		}
		select {
		case c.out <- line:
		default:
			s.logger.Debug("control event dropped: client does not read", "event", name)
		}
	}
	return nil
}

// commands names what the server answers to, for people.
func (s *Server) commands() string {
	return strings.Join(slices.Sorted(maps.Keys(s.handlers)), ", ")
}

type serverConn struct {
	server *Server
	rwc    io.ReadWriteCloser
	out    chan []byte   // lines to write; closed when there will be no more
	slots  chan struct{} // one element per request in flight

	handlers sync.WaitGroup
}

func (c *serverConn) read(ctx context.Context) error {
	lines := newLineReader(c.rwc)
	for {
		line, err := lines.next()
		var req request
		switch {
		case errors.Is(err, ErrTooLong):
			c.reply(ctx, 0, nil, &RemoteError{Code: CodeTooLong, Message: err.Error()})
			continue
		case err != nil:
			return err
		}
		if err := json.Unmarshal(line, &req); err != nil {
			c.reply(ctx, req.ID, nil, &RemoteError{Code: CodeBadRequest, Message: err.Error()})
			continue
		}
		h, ok := c.server.handlers[req.Cmd]
		if !ok {
			msg := fmt.Sprintf("unknown command %q; there are: %s", req.Cmd, c.server.commands())
			c.reply(ctx, req.ID, nil, &RemoteError{Code: CodeUnknownCommand, Message: msg})
			continue
		}
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.handlers.Go(func() {
			defer func() { <-c.slots }()
			data, err := h(ctx, req.Args)
			c.reply(ctx, req.ID, data, err)
		})
	}
}

// reply queues the reply to request id, waiting for room as long as ctx lives.
func (c *serverConn) reply(ctx context.Context, id uint64, data any, err error) {
	line, encErr := encodeReply(id, data, err)
	if encErr != nil {
		code := CodeFailed
		if errors.Is(encErr, ErrTooLong) {
			code = CodeTooLong
		}
		line, _ = encodeReply(id, nil, &RemoteError{Code: code, Message: fmt.Sprintf("reply: %.200s", encErr)})
	}
	select {
	case c.out <- line:
	case <-ctx.Done():
	}
}

func encodeReply(id uint64, data any, err error) ([]byte, error) {
	ok := err == nil
	m := message{ID: id, OK: &ok}
	if err != nil {
		m.Code, m.Error = CodeFailed, err.Error()
		var remote *RemoteError
		if errors.As(err, &remote) {
			m.Code, m.Error = remote.Code, remote.Message
		}
	} else if data != nil {
		raw, err := json.Marshal(data)
		if err != nil {
			return nil, err
		}
		m.Data = raw
	}
	return encodeLine(m)
}

// write sends what is queued, until the queue is closed or ctx ends. The first
// line starts with a newline: see the package comment.
func (c *serverConn) write(ctx context.Context) error {
	first := true
	for {
		select {
		case line, more := <-c.out:
			if !more {
				return nil
			}
			if first {
				line = append([]byte{'\n'}, line...)
				first = false
			}
			if _, err := c.rwc.Write(line); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
