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
	"math/rand/v2"
	"net"
	"sync"
)

// ErrClosed is matched by the error of a call on a connection that has ended.
var ErrClosed = errors.New("control connection closed")

// A RemoteError is an error that the agent answered with. A Handler may return
// one to choose the code.
type RemoteError struct {
	Cmd     string // the command that was called
	Code    string // CodeFailed, ...
	Message string
}

func (e *RemoteError) Error() string {
	if e.Cmd == "" {
		return e.Message
	}
	return e.Cmd + ": " + e.Message
}

// An Event is something that the agent said unasked.
type Event struct {
	Name string
	Data json.RawMessage
}

// A Client calls the commands of one agent. Its methods may be called
// concurrently.
type Client struct {
	rwc     io.ReadWriteCloser
	onEvent func(Event)
	out     chan []byte
	ended   chan struct{} // closed when the connection is over
	wg      sync.WaitGroup

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan message
	err     error // why the connection ended
}

// Dial connects to the unix socket at path: the agent's own in a guest, or the
// host end of its virtio-serial port. onEvent may be nil; see NewClient.
func Dial(ctx context.Context, path string, onEvent func(Event)) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	return NewClient(c, onEvent), nil
}

// NewClient returns a client that owns rwc, whose Close must end a blocked
// Read and Write. Events are passed to onEvent one after the other; it must
// not call the client.
func NewClient(rwc io.ReadWriteCloser, onEvent func(Event)) *Client {
	c := &Client{
		rwc:     rwc,
		onEvent: onEvent,
		out:     make(chan []byte),
		ended:   make(chan struct{}),
		waiting: make(map[uint64]chan message),
		// Below 2^52, so that ids stay exact in JSON readers that know only
		// floating point.
		nextID: 1 + rand.Uint64N(1<<52),
	}
	c.wg.Go(c.read)
	c.wg.Go(c.write)
	return c
}

// Close ends the connection and all calls on it.
func (c *Client) Close() error {
	c.end(ErrClosed)
	c.wg.Wait()
	return nil
}

// Call runs a command of the agent and stores its data in out, unless that is
// nil. args may be nil. An answer that says no is a *RemoteError; the end of the
// connection matches ErrClosed; the end of ctx is ctx's.
func (c *Client) Call(ctx context.Context, cmd string, args, out any) error {
	var raw json.RawMessage
	if args != nil {
		b, err := json.Marshal(args)
		if err != nil {
			return fmt.Errorf("%s: arguments: %w", cmd, err)
		}
		raw = b
	}
	reply := make(chan message, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return fmt.Errorf("%s: %w", cmd, c.err)
	}
	id := c.nextID
	c.nextID++
	c.waiting[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()

	line, err := encodeLine(request{ID: id, Cmd: cmd, Args: raw})
	if err != nil {
		return fmt.Errorf("%s: request: %w", cmd, err)
	}
	select {
	case c.out <- line:
	case <-c.ended:
		return fmt.Errorf("%s: %w", cmd, c.reason())
	case <-ctx.Done():
		return fmt.Errorf("%s: the agent does not take requests: %w", cmd, ctx.Err())
	}
	select {
	case m := <-reply:
		return m.result(cmd, out)
	case <-c.ended:
		select { // the reply may have been the last line
		case m := <-reply:
			return m.result(cmd, out)
		default:
		}
		return fmt.Errorf("%s: %w", cmd, c.reason())
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer from the agent: %w", cmd, ctx.Err())
	}
}

func (m message) result(cmd string, out any) error {
	if !*m.OK {
		return &RemoteError{Cmd: cmd, Code: m.Code, Message: m.Error}
	}
	if out == nil || len(m.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		return fmt.Errorf("%s: answer: %w", cmd, err)
	}
	return nil
}

// end closes the connection, for the first reason given.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.ended)
	c.rwc.Close()
}

func (c *Client) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Client) read() {
	lines := newLineReader(c.rwc)
	for {
		line, err := lines.next()
		if errors.Is(err, ErrTooLong) {
			continue
		}
		if err != nil {
			c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		var m message
		if json.Unmarshal(line, &m) != nil {
			continue
		}
		if m.Event != "" {
			if c.onEvent != nil {
				c.onEvent(Event{Name: m.Event, Data: m.Data})
			}
			continue
		}
		if m.OK == nil {
			continue
		}
		c.mu.Lock()
		reply := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if reply != nil {
			reply <- m
		}
	}
}

func (c *Client) write() {
	first := true
	for {
		select {
		case line := <-c.out:
			if first {
				line = append([]byte{'\n'}, line...)
				first = false
			}
			if _, err := c.rwc.Write(line); err != nil {
				c.end(fmt.Errorf("%w: %w", ErrClosed, err))
				return
			}
		case <-c.ended:
			return
		}
	}
}
