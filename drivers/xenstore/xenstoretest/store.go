// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xenstoretest is a xenstore to test against: it keeps nodes, answers a
// client's requests and fires its watches as xenstored and the guest's kernel do
// together.
package xenstoretest

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/drivers/xenstore/internal/wire"
)

// A Store keeps nodes in memory. Its methods may be called from any number of
// goroutines.
type Store struct {
	t  testing.TB
	mu sync.Mutex
	// nodes has the values by path. What is above a node exists too.
	nodes   map[string]string
	denied  string // what nobody may read or write: a path and what is below it
	clients []*client
	written []string
}

// New returns a store with nodes: values by path.
func New(t testing.TB, nodes map[string]string) *Store {
	s := &Store{t: t, nodes: make(map[string]string)}
	for path, value := range nodes {
		s.nodes[path] = value
	}
	return s
}

// client is one connection.
type client struct {
	conn    net.Conn
	events  chan wire.Message
	watches []watch
}

type watch struct{ path, token string }

// Open connects to the store; it is what [xenstore.Open] is to a guest's.
func (s *Store) Open() (*xenstore.Conn, error) {
	near, far := net.Pipe()
	c := &client{conn: far, events: make(chan wire.Message, 64)}
	s.mu.Lock()
	s.clients = append(s.clients, c)
	s.mu.Unlock()
	go s.serve(c)
	return xenstore.NewConn(near), nil
}

// Set gives a node a value, as the toolstack does.
func (s *Store) Set(path, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[path] = value
	s.fire(path)
}

// Remove takes a node away, and all below it.
func (s *Store) Remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.nodes {
		if below(p, path) {
			delete(s.nodes, p)
		}
	}
	s.fire(path)
}

// Deny refuses whatever a client does to a node from now on, or below it.
func (s *Store) Deny(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = path
}

// Get returns the value of a node.
func (s *Store) Get(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[path]
}

// Written returns what clients have written, each as "path=value", in order.
func (s *Store) Written() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.written)
}

// Resume fires each watch once, as the guest's kernel does when the guest goes on
// after a migration (xs_resume in drivers/xen/xenbus/xenbus_xs.c).
func (s *Store) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		for _, w := range c.watches {
			c.fire(w.path, w)
		}
	}
}

// below reports whether path is top, or below it.
func below(path, top string) bool { return path == top || strings.HasPrefix(path, top+"/") }

func (s *Store) fire(path string) {
	for _, c := range s.clients {
		for _, w := range c.watches {
			if below(path, w.path) {
				c.fire(path, w)
			}
		}
	}
}

func (c *client) fire(path string, w watch) {
	c.events <- wire.Message{Kind: wire.WatchEvent, Payload: []byte(path + "\x00" + w.token + "\x00")}
}

// serve answers requests until the client closes its end.
func (s *Store) serve(c *client) {
	requests := make(chan wire.Message)
	go func() {
		defer close(requests)
		for {
			m, err := wire.Decode(c.conn)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
					s.t.Errorf("xenstoretest: request: %v", err)
				}
				return
			}
			requests <- m
		}
	}()
	for {
		var out wire.Message
		select {
		case m, ok := <-requests:
			if !ok {
				return
			}
			out = s.answer(c, m)
		case out = <-c.events:
		}
		b, err := out.Encode()
		if err != nil {
			s.t.Errorf("xenstoretest: reply: %v", err)
			return
		}
		if _, err := c.conn.Write(b); err != nil {
			return // the client has gone
		}
	}
}

func (s *Store) answer(c *client, m wire.Message) wire.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, rest, _ := strings.Cut(string(m.Payload), "\x00")
	reply := wire.Message{Kind: m.Kind, Request: m.Request, Payload: []byte("OK\x00")}
	fail := func(name string) wire.Message {
		return wire.Message{Kind: wire.Error, Request: m.Request, Payload: []byte(name + "\x00")}
	}
	if s.denied != "" && below(path, s.denied) {
		return fail("EACCES")
	}
	switch m.Kind {
	case wire.Read, wire.Directory:
		names, exists := s.list(path)
		if !exists {
			return fail("ENOENT")
		}
		reply.Payload = []byte(s.nodes[path])
		if m.Kind == wire.Directory {
			reply.Payload = []byte(strings.Join(append(names, ""), "\x00"))
		}
	case wire.Write:
		s.nodes[path] = rest
		s.written = append(s.written, path+"="+rest)
		s.fire(path)
	case wire.Watch:
		w := watch{path, strings.TrimSuffix(rest, "\x00")}
		c.watches = append(c.watches, w)
		c.fire(path, w)
	default:
		return fail("ENOSYS")
	}
	return reply
}

// list returns the names right below a node, and whether that exists.
func (s *Store) list(path string) (names []string, exists bool) {
	for p := range s.nodes {
		if !below(p, path) {
			continue
		}
		exists = true
		if name, _, _ := strings.Cut(strings.TrimPrefix(p[len(path):], "/"), "/"); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, exists
}
