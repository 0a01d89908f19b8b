// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenstore

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/drivers/xenstore/internal/wire"
)

// line is a connection whose other end has said all it will say.
type line struct {
	io.Reader
	sent bytes.Buffer
}

func (l *line) Write(b []byte) (int, error) { return l.sent.Write(b) }
func (*line) Close() error                  { return nil }

func TestCall(t *testing.T) {
	for _, tt := range []struct {
		name    string
		replies []wire.Message
		want    string
		err     error
		events  int
	}{
		{"the reply of the request's number is taken",
			[]wire.Message{{Kind: wire.Read, Request: 7, Payload: []byte("old")}, {Kind: wire.Read, Request: 1, Payload: []byte("new")}}, "new", nil, 0},
		{"an event before the reply is kept for later",
			[]wire.Message{{Kind: wire.WatchEvent, Payload: []byte("a\x00b\x00")}, {Kind: wire.Read, Request: 1, Payload: []byte("v")}}, "v", nil, 1},
		{"ENOENT means that there is no such node",
			[]wire.Message{{Kind: wire.Error, Request: 1, Payload: []byte("ENOENT\x00")}}, "", ErrNoEntry, 0},
		{"EACCES means that it was refused",
			[]wire.Message{{Kind: wire.Error, Request: 1, Payload: []byte("EACCES\x00")}}, "", ErrDenied, 0},
		{"a reply of another type is malformed",
			[]wire.Message{{Kind: wire.Write, Request: 1, Payload: []byte("OK\x00")}}, "", ErrWire, 0},
		{"an event without a token is malformed",
			[]wire.Message{{Kind: wire.WatchEvent, Payload: []byte("a\x00")}}, "", ErrWire, 0},
		{"the end in the middle is told", nil, "", io.EOF, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in bytes.Buffer
			for _, m := range tt.replies {
				b, err := m.Encode()
				if err != nil {
					t.Fatal(err)
				}
				in.Write(b)
			}
			c := NewConn(&line{Reader: &in})
			got, err := c.Read("control/shutdown")
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
			if len(c.events) != tt.events {
				t.Errorf("%d events kept, want %d", len(c.events), tt.events)
			}
		})
	}
}

func TestList(t *testing.T) {
	for _, tt := range []struct {
		name, payload string
		want          []string
		err           error
	}{
		{"names are divided by zero bytes", "vif\x00vbd\x00", []string{"vif", "vbd"}, nil},
		{"a node without any below it has no names", "", nil, nil},
		{"a name without an end is malformed", "vif\x00vb", nil, ErrWire},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := wire.Message{Kind: wire.Directory, Request: 1, Payload: []byte(tt.payload)}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := NewConn(&line{Reader: bytes.NewReader(b)}).List("device")
			if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestRequestThatIsTooLongIsNotSent(t *testing.T) {
	var l line
	c := NewConn(&l)
	if err := c.Write("a", strings.Repeat("x", wire.MaxPayload)); !errors.Is(err, ErrWire) {
		t.Errorf("error %v, want ErrWire", err)
	}
	if l.sent.Len() != 0 {
		t.Errorf("%d bytes were sent", l.sent.Len())
	}
}
