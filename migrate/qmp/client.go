// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

// maxMessage bounds one line of the monitor in bytes; the longest known,
// query-qmp-schema, is about 200 kB.
const maxMessage = 8 << 20

// A Client is a connection to one monitor. Its methods may be called from any
// number of goroutines.
type Client struct {
	addr string
	conn net.Conn

	// Version is what QEMU said of itself when it was connected.
	Version goqemu.Version

	wmu sync.Mutex // one command's bytes at a time

	mu      sync.Mutex
	nextID  uint64
	pending map[string]chan message
	subs    map[*Subscription]struct{}
	err     error
	done    chan struct{}
}

// message is anything that QEMU sends after its greeting.
type message struct {
	goqemu.Event

	ID     string          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

type command struct {
	goqemu.Command
	ID string `json:"id"`
}

// Dial connects to the monitor at a UNIX socket. If the socket is not there yet
// or nobody accepts, as in the moment after QEMU was started, Dial tries again
// until the context ends.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return New(ctx, conn)
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, &OpError{Op: "connect", Addr: path, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, &OpError{Op: "connect", Addr: path, Err: errors.Join(context.Cause(ctx), err)}
		case <-time.After(delay):
		}
	}
}

// New makes a client of an established connection: it reads QEMU's greeting and
// leaves the capabilities negotiation. The client owns conn from then on; conn
// is closed if New fails.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		addr:    conn.RemoteAddr().String(),
		conn:    conn,
		pending: make(map[string]chan message),
		subs:    make(map[*Subscription]struct{}),
		done:    make(chan struct{}),
	}
	scanner := bufio.NewScanner(conn)
	scanner.Buffer(make([]byte, 0, 16<<10), maxMessage)
	if err := c.greeting(ctx, scanner); err != nil {
		conn.Close()
		return nil, &OpError{Op: "connect", Addr: c.addr, Err: err}
	}
	go c.receive(scanner)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) greeting(ctx context.Context, s *bufio.Scanner) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	ok := s.Scan()
	if !stop() {
		return context.Cause(ctx)
	}
	if !ok {
		return gone(s.Err())
	}
	var hello struct {
		QMP *struct {
			Version goqemu.Version `json:"version"`
		} `json:"QMP"`
	}
	if err := json.Unmarshal(s.Bytes(), &hello); err != nil || hello.QMP == nil {
		return fmt.Errorf("%w: greeting %.80q", ErrProtocol, s.Bytes())
	}
	c.Version = hello.QMP.Version
	return nil
}

// gone turns what a read or write said into ErrGone with that as its cause.
func gone(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return ErrGone
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// Addr returns the address of the monitor.
func (c *Client) Addr() string { return c.addr }

// Done is closed when no command can be carried out any more. Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the monitor lives; then ErrClosed or an error that
// matches ErrGone or ErrProtocol.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close gives up the connection. QEMU goes on.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Execute runs one command with the given arguments (nil for none) and decodes
// what it returns into result (nil to ignore it). Every error is an *OpError;
// Refused tells QEMU's own refusals from commands whose fate is not known.
func (c *Client) Execute(ctx context.Context, name string, args, result any) error {
	raw, err := c.execute(ctx, name, args)
	if err == nil && result != nil {
		if e := json.Unmarshal(raw, result); e != nil {
			err = fmt.Errorf("%w: reply %.80q: %w", ErrProtocol, raw, e)
		}
	}
	if err != nil {
		return &OpError{Op: name, Addr: c.addr, Err: err}
	}
	return nil
}

// Human runs one line of the human monitor and returns what it printed.
func (c *Client) Human(ctx context.Context, line string) (string, error) {
	var out string
	err := c.Execute(ctx, "human-monitor-command", map[string]string{"command-line": line}, &out)
	return out, err
}

// Status returns QEMU's run state, such as "running" or "postmigrate"
// (qapi/run-state.json).
func (c *Client) Status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := c.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

func (c *Client) execute(ctx context.Context, name string, args any) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	reply := make(chan message, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.Err()
	}
	c.nextID++
	id := strconv.FormatUint(c.nextID, 10)
	c.pending[id] = reply
	c.mu.Unlock()

	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()

	line, err := json.Marshal(command{goqemu.Command{Execute: name, Args: args}, id})
	if err != nil {
		return nil, err
	}
	if err := c.send(ctx, append(line, '\n')); err != nil {
		return nil, err
	}
	select {
	case m := <-reply:
		return answer(m)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.done:
		select {
		case m := <-reply: // the answer came before the end
			return answer(m)
		default:
			return nil, c.Err()
		}
	}
}

func answer(m message) (json.RawMessage, error) {
	if m.Error != nil {
		return nil, m.Error
	}
	return m.Return, nil
}

// send writes one command. A QEMU that does not read any more must not hold the
// caller beyond its context; a line that was cut short cannot be taken back, so
// that ends the client.
func (c *Client) send(ctx context.Context, line []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(fired)
	})
	_, err := c.conn.Write(line)
	if !stop() {
		<-fired
		c.conn.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil
	}
	c.fail(gone(err))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.Err()
}

func (c *Client) receive(s *bufio.Scanner) {
	for s.Scan() {
		var m message
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			c.fail(fmt.Errorf("%w: %.80q: %w", ErrProtocol, s.Bytes(), err))
			return
		}
		c.dispatch(m)
	}
	c.fail(gone(s.Err()))
}

func (c *Client) dispatch(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event.Event != "" {
		for s := range c.subs {
			s.push(Event{m.Event})
		}
		return
	}
	if reply, ok := c.pending[m.ID]; ok {
		delete(c.pending, m.ID)
		reply <- m
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.conn.Close()
	close(c.done)
}
