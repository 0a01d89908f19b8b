// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrRefused is matched by the error of a request that PID 1 refused.
var ErrRefused = errors.New("refused by init")

// defaultTimeout bounds a request whose context has no deadline.
const defaultTimeout = 5 * time.Second

// A Client speaks with PID 1. Each request is a connection of its own, so
// there is nothing to lose and nothing to close.
type Client struct {
	path string
}

// NewClient returns a Client for the socket at path; empty means [Path].
func NewClient(path string) *Client {
	if path == "" {
		path = Path
	}
	return &Client{path: path}
}

// Put leaves the descriptor of f with PID 1 under name, replacing one of that
// name. The caller keeps f.
func (c *Client) Put(ctx context.Context, name string, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("init: %s %s: %w", FDStore, name, err)
	}
	// Not f.Fd(), which switches the open file to blocking mode.
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		_, sendErr = c.do(ctx, Request{Op: FDStore, Name: name}, unix.UnixRights(int(fd)))
	}); err != nil {
		return fmt.Errorf("init: %s %s: %w", FDStore, name, err)
	}
	return sendErr
}

// Remove makes PID 1 close and forget the descriptor of that name.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := c.do(ctx, Request{Op: FDRemove, Name: name}, nil)
	return err
}

// SetRole tells whether the network of a role is up.
func (c *Client) SetRole(ctx context.Context, role string, up bool) error {
	op := Unready
	if up {
		op = Ready
	}
	_, err := c.do(ctx, Request{Op: op, Name: role}, nil)
	return err
}

// SetRecorded tells that what is changed of a role from here on is recorded.
func (c *Client) SetRecorded(ctx context.Context, role string) error {
	_, err := c.do(ctx, Request{Op: Recorded, Name: role}, nil)
	return err
}

// Power asks for [PowerOff], [Reboot] or [Halt].
func (c *Client) Power(ctx context.Context, op Op) error {
	_, err := c.do(ctx, Request{Op: op}, nil)
	return err
}

// Status asks what PID 1 knows of its children.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	r, err := c.do(ctx, Request{Op: Report}, nil)
	if err != nil {
		return nil, err
	}
	if r.Status == nil {
		return nil, fmt.Errorf("init: %s: reply without a status", Report)
	}
	return r.Status, nil
}

// Logs returns the lines that PID 1 remembers of a program, or of all and of itself when
// the name is empty, up to those that came meanwhile.
func (c *Client) Logs(ctx context.Context, program string) ([]Line, error) {
	var all []Line
	for end := uint64(0); ; {
		lines, last, err := c.LinesAfter(ctx, program, lastOf(all), false)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
		end = cmp.Or(end, last)
		if len(lines) == 0 || lastOf(all) >= end {
			return all, nil
		}
	}
}

func lastOf(lines []Line) uint64 {
	if len(lines) == 0 {
		return 0
	}
	return lines[len(lines)-1].N
}

// LogsAfter returns the lines that a program, or any when the name is empty, printed
// after line n: some of them, the oldest first. If there is none and it is told to wait,
// it waits for one, up to [LogsWait], unless too many do.
func (c *Client) LogsAfter(ctx context.Context, program string, n uint64, wait bool) ([]Line, error) {
	lines, _, err := c.LinesAfter(ctx, program, n, wait)
	return lines, err
}

// LinesAfter is LogsAfter that also returns the number of the newest line of all.
func (c *Client) LinesAfter(ctx context.Context, program string, n uint64, wait bool) ([]Line, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, LogsWait+defaultTimeout)
	defer cancel()
	r, err := c.do(ctx, Request{Op: Logs, Name: program, After: n, Wait: wait}, nil)
	if err != nil {
		return nil, 0, err
	}
	return r.Lines, r.Last, nil
}

// do makes one request.
func (c *Client) do(ctx context.Context, req Request, oob []byte) (_ *Reply, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("init: %s: %w", strings.TrimSpace(string(req.Op)+" "+req.Name), err)
		}
	}()
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	text, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix(text, oob, nil); err != nil {
		return nil, err
	}
	buf := make([]byte, MaxReply)
	n, err := conn.Read(buf)
	if err != nil {
		return nil, err
	}
	var reply Reply
	if err := json.Unmarshal(buf[:n], &reply); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	if !reply.OK {
		return nil, fmt.Errorf("%w: %s", ErrRefused, reply.Error)
	}
	return &reply, nil
}
