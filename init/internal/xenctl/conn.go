// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenctl

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Errors of xenstore, by their names on the wire.
var (
	// ErrNoEntry says that there is no such node (ENOENT).
	ErrNoEntry = errors.New("no such node in xenstore")
	// ErrDenied says that the guest may not do that (EACCES, EPERM).
	ErrDenied = errors.New("refused by xenstore")
)

// conn speaks with xenstore. It is for one goroutine.
type conn struct {
	rw     io.ReadWriter
	last   uint32
	events []string // paths of watches that fired while a reply was awaited
}

// read returns the value of a node.
func (c *conn) read(path string) (string, error) {
	b, err := c.call(typeRead, path+"\x00")
	if err != nil {
		return "", fmt.Errorf("xenstore: read %s: %w", path, err)
	}
	return string(b), nil
}

// write sets the value of a node.
func (c *conn) write(path, value string) error {
	if _, err := c.call(typeWrite, path+"\x00"+value); err != nil {
		return fmt.Errorf("xenstore: write %s: %w", path, err)
	}
	return nil
}

// watch makes changes of a node known to [conn.changed]. It fires once at
// once.
func (c *conn) watch(path string) error {
	if _, err := c.call(typeWatch, path+"\x00"+path+"\x00"); err != nil {
		return fmt.Errorf("xenstore: watch %s: %w", path, err)
	}
	return nil
}

// changed waits until a watched node has changed and returns the path it is
// watched by.
func (c *conn) changed() (string, error) {
	for len(c.events) == 0 {
		m, err := readMessage(c.rw)
		if err != nil {
			return "", fmt.Errorf("xenstore: wait for a change: %w", err)
		}
		if err := c.note(m); err != nil {
			return "", fmt.Errorf("xenstore: wait for a change: %w", err)
		}
	}
	path := c.events[0]
	c.events = c.events[1:]
	return path, nil
}

// note keeps the event in m. Replies that nobody awaits are dropped.
func (c *conn) note(m message) error {
	if m.kind != typeWatchEvent {
		return nil
	}
	ws, err := words(m.payload)
	if err != nil {
		return err
	}
	if len(ws) < 2 {
		return fmt.Errorf("%w: event of %d words", ErrWire, len(ws))
	}
	c.events = append(c.events, ws[1]) // the token, which is the watched path
	return nil
}

// call makes a request and returns the payload of its reply.
func (c *conn) call(kind uint32, payload string) ([]byte, error) {
	c.last++
	b, err := message{kind: kind, request: c.last, payload: []byte(payload)}.encode()
	if err != nil {
		return nil, err
	}
	if _, err := c.rw.Write(b); err != nil {
		return nil, err
	}
	for {
		m, err := readMessage(c.rw)
		if err != nil {
			return nil, err
		}
		switch {
		case m.kind == typeWatchEvent:
			if err := c.note(m); err != nil {
				return nil, err
			}
		case m.request != c.last:
			// The reply to a request that was given up.
		case m.kind == typeError:
			return nil, storeError(strings.TrimRight(string(m.payload), "\x00"))
		case m.kind != kind:
			return nil, fmt.Errorf("%w: reply of type %d to a request of type %d", ErrWire, m.kind, kind)
		default:
			return m.payload, nil
		}
	}
}

func storeError(name string) error {
	switch name {
	case "ENOENT":
		return ErrNoEntry
	case "EACCES", "EPERM":
		return fmt.Errorf("%w: %s", ErrDenied, name)
	}
	return fmt.Errorf("xenstore says %q", name)
}
