// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenctl

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/internal/power"
)

// store is xenstored for one client: it answers requests on one end of a pipe.
type store struct {
	conn  net.Conn
	nodes map[string]string
	log   []string // writes, in order
}

func (s *store) send(t *testing.T, m message) {
	t.Helper()
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.Write(b); err != nil {
		t.Error(err)
	}
}

// answer answers one request.
func (s *store) answer(t *testing.T) {
	t.Helper()
	m, err := readMessage(s.conn)
	if err != nil {
		t.Error(err)
		return
	}
	reply := message{kind: m.kind, request: m.request}
	switch m.kind {
	case typeWatch:
		reply.payload = []byte("OK\x00")
	case typeRead:
		value, ok := s.nodes[strings.TrimRight(string(m.payload), "\x00")]
		if !ok {
			reply.kind, value = typeError, "ENOENT\x00"
		}
		reply.payload = []byte(value)
	case typeWrite:
		path, value, _ := strings.Cut(string(m.payload), "\x00")
		s.nodes[path] = value
		s.log = append(s.log, path+"="+value)
		reply.payload = []byte("OK\x00")
	}
	s.send(t, reply)
}

func (s *store) fire(t *testing.T) {
	t.Helper()
	s.send(t, message{kind: typeWatchEvent, payload: []byte(shutdownNode + "\x00" + shutdownNode + "\x00")})
}

func TestWatch(t *testing.T) {
	near, far := net.Pipe()
	s := &store{conn: far, nodes: map[string]string{}}
	asked := make(chan power.Request, 8)
	ended := make(chan error, 1)
	go func() { ended <- watch(near, func(r power.Request) { asked <- r }) }()

	s.answer(t) // watch
	s.fire(t)   // as xenstore does at once
	s.answer(t) // read: no such node
	for _, step := range []struct {
		value string
		acked bool
		want  power.Action
	}{
		{"suspend", false, ""},
		{"", false, ""},
		{"crash", false, ""},
		{"reboot", true, power.Reboot},
		{"", false, ""}, // our own acknowledgement fires the watch too
		{"poweroff", true, power.PowerOff},
		{"halt", true, power.Halt},
	} {
		s.nodes[shutdownNode] = step.value
		s.fire(t)
		s.answer(t) // read
		if !step.acked {
			continue
		}
		s.answer(t) // write
		if got := <-asked; got.Action != step.want {
			t.Errorf("%q asked for %q, want %q", step.value, got.Action, step.want)
		}
		if s.nodes[shutdownNode] != "" {
			t.Errorf("%q was not acknowledged", step.value)
		}
	}
	far.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("watch ended with %v, want EOF", err)
	}
	if len(asked) != 0 {
		t.Errorf("asked once too often: %v", <-asked)
	}
	if want := []string{shutdownNode + "=", shutdownNode + "=", shutdownNode + "="}; !cmp.Equal(s.log, want) {
		t.Errorf("writes %q, want %q", s.log, want)
	}
}

func TestCall(t *testing.T) {
	for _, tt := range []struct {
		name    string
		replies []message
		want    string
		err     error
		events  int
	}{
		{"the reply of the request's number is taken",
			[]message{{kind: typeRead, request: 7, payload: []byte("old")}, {kind: typeRead, request: 1, payload: []byte("new")}}, "new", nil, 0},
		{"an event before the reply is kept for later",
			[]message{{kind: typeWatchEvent, payload: []byte("a\x00b\x00")}, {kind: typeRead, request: 1, payload: []byte("v")}}, "v", nil, 1},
		{"ENOENT means that there is no such node",
			[]message{{kind: typeError, request: 1, payload: []byte("ENOENT\x00")}}, "", ErrNoEntry, 0},
		{"EACCES means that it was refused",
			[]message{{kind: typeError, request: 1, payload: []byte("EACCES\x00")}}, "", ErrDenied, 0},
		{"a reply of another type is malformed",
			[]message{{kind: typeWrite, request: 1, payload: []byte("OK\x00")}}, "", ErrWire, 0},
		{"an event without a token is malformed",
			[]message{{kind: typeWatchEvent, payload: []byte("a\x00")}}, "", ErrWire, 0},
		{"the end in the middle is told", nil, "", io.EOF, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in bytes.Buffer
			for _, m := range tt.replies {
				b, err := m.encode()
				if err != nil {
					t.Fatal(err)
				}
				in.Write(b)
			}
			c := &conn{rw: struct {
				io.Reader
				io.Writer
			}{&in, io.Discard}}
			got, err := c.read("control/shutdown")
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
			if len(c.events) != tt.events {
				t.Errorf("%d events kept, want %d", len(c.events), tt.events)
			}
		})
	}
}

func TestRequestThatIsTooLongIsNotSent(t *testing.T) {
	var out bytes.Buffer
	c := &conn{rw: struct {
		io.Reader
		io.Writer
	}{strings.NewReader(""), &out}}
	if err := c.write("a", strings.Repeat("x", maxPayload)); !errors.Is(err, ErrWire) {
		t.Errorf("error %v, want ErrWire", err)
	}
	if out.Len() != 0 {
		t.Errorf("%d bytes were sent", out.Len())
	}
}

func FuzzReadMessage(f *testing.F) {
	for _, m := range []message{
		{kind: typeWatchEvent, payload: []byte(shutdownNode + "\x00" + shutdownNode + "\x00")},
		{kind: typeError, request: 3, payload: []byte("ENOENT\x00")},
		{kind: typeRead, request: 1 << 31},
	} {
		b, err := m.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		m, err := readMessage(r)
		if err != nil {
			return
		}
		if len(m.payload) > maxPayload {
			t.Fatalf("payload of %d bytes", len(m.payload))
		}
		used := len(data) - r.Len()
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		copy(data[8:12], []byte{0, 0, 0, 0}) // the transaction, which we have none of
		if !bytes.Equal(b, data[:used]) {
			t.Fatalf("%x became %x", data[:used], b)
		}
		c := &conn{}
		if c.note(m) == nil && m.kind == typeWatchEvent && len(c.events) != 1 {
			t.Fatal("an event was lost")
		}
	})
}
