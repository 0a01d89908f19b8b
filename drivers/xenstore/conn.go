// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xenstore is a client of xenstore, the tree of names and values that a Xen
// guest shares with its toolstack and with the back ends of its devices. It goes
// through the guest's kernel, which passes requests on and registers watches anew
// after a migration.
//
// It reads, writes, removes, lists and watches; transactions and permissions are left out. It
// must never know what a node means.
package xenstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/umbra-vm/umbra/drivers/xenstore/internal/wire"
)

// Errors of xenstore, by their names on the wire.
var (
	// ErrNoEntry says that there is no such node (ENOENT).
	ErrNoEntry = errors.New("no such node in xenstore")
	// ErrNoXen says that this is no Xen guest, or one without xenstore.
	ErrNoXen = errors.New("not on Xen")
	// ErrWire says that what came is no message of xenstore's protocol.
	ErrWire = wire.ErrMalformed
	// ErrDenied says that the guest may not do that (EACCES, EPERM).
	ErrDenied = errors.New("refused by xenstore")
)

// Device is the file by which Linux passes requests on
// (drivers/xen/xenbus/xenbus_dev_frontend.c).
const Device = "/dev/xen/xenbus"

// A Conn is a connection to xenstore, with watches of its own. It is for one
// goroutine; Close may be called by another. Paths are relative to the guest's own
// directory, or absolute.
type Conn struct {
	rw     io.ReadWriteCloser
	last   uint32
	events []string // paths of watches that fired while a reply was awaited
}

// Open connects to the xenstore of this guest. The error is ErrNoXen where there is
// none.
func Open() (*Conn, error) {
	if kind, err := os.ReadFile("/sys/hypervisor/type"); err != nil || strings.TrimSpace(string(kind)) != "xen" {
		return nil, ErrNoXen
	}
	f, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoXen, err)
	}
	return NewConn(f), nil
}

// NewConn returns a Conn that speaks over rw, and closes it.
func NewConn(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw} }

// Close ends the connection and its watches. Whoever waits in a method gets an error.
func (c *Conn) Close() error { return c.rw.Close() }

// Read returns the value of a node.
func (c *Conn) Read(path string) (string, error) {
	b, err := c.call(wire.Read, path+"\x00")
	if err != nil {
		return "", fmt.Errorf("xenstore: read %s: %w", path, err)
	}
	return string(b), nil
}

// Write sets the value of a node.
func (c *Conn) Write(path, value string) error {
	if _, err := c.call(wire.Write, path+"\x00"+value); err != nil {
		return fmt.Errorf("xenstore: write %s: %w", path, err)
	}
	return nil
}

// Remove removes a node and what is below it.
func (c *Conn) Remove(path string) error {
	if _, err := c.call(wire.Remove, path+"\x00"); err != nil {
		return fmt.Errorf("xenstore: remove %s: %w", path, err)
	}
	return nil
}

// List returns the names of the nodes below a node.
func (c *Conn) List(path string) ([]string, error) {
	b, err := c.call(wire.Directory, path+"\x00")
	if err != nil {
		return nil, fmt.Errorf("xenstore: list %s: %w", path, err)
	}
	names, err := wire.Words(b)
	if err != nil {
		return nil, fmt.Errorf("xenstore: list %s: %w", path, err)
	}
	return names, nil
}

// Watch makes changes of a node known to [Conn.Changed]. It fires once at
// once, and once after each resume of the guest (xs_resume in
// drivers/xen/xenbus/xenbus_xs.c).
func (c *Conn) Watch(path string) error {
	if _, err := c.call(wire.Watch, path+"\x00"+path+"\x00"); err != nil {
		return fmt.Errorf("xenstore: watch %s: %w", path, err)
	}
	return nil
}

// Changed waits until a watched node has changed and returns the path it is
// watched by.
func (c *Conn) Changed() (string, error) {
	for len(c.events) == 0 {
		m, err := wire.Decode(c.rw)
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
func (c *Conn) note(m wire.Message) error {
	if m.Kind != wire.WatchEvent {
		return nil
	}
	ws, err := wire.Words(m.Payload)
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
func (c *Conn) call(kind uint32, payload string) ([]byte, error) {
	c.last++
	b, err := wire.Message{Kind: kind, Request: c.last, Payload: []byte(payload)}.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := c.rw.Write(b); err != nil {
		return nil, err
	}
	for {
		m, err := wire.Decode(c.rw)
		if err != nil {
			return nil, err
		}
		switch {
		case m.Kind == wire.WatchEvent:
			if err := c.note(m); err != nil {
				return nil, err
			}
		case m.Request != c.last:
			// The reply to a request that was given up.
		case m.Kind == wire.Error:
			return nil, storeError(strings.TrimRight(string(m.Payload), "\x00"))
		case m.Kind != kind:
			return nil, fmt.Errorf("%w: reply of type %d to a request of type %d", ErrWire, m.Kind, kind)
		default:
			return m.Payload, nil
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
