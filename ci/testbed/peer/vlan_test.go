// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package peer

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"testing"
)

// wire is a link that brings what is in it, and keeps what is sent.
type wire struct {
	in   [][]byte
	sent [][]byte
}

func (w *wire) ReadFrame(context.Context) ([]byte, error) {
	if len(w.in) == 0 {
		return nil, io.EOF
	}
	f := w.in[0]
	w.in = w.in[1:]
	return f, nil
}

func (w *wire) WriteFrame(f []byte) error {
	w.sent = append(w.sent, bytes.Clone(f))
	return nil
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	macs  = "0200000000010200000000ff"
	plain = macs + "0800" + "4500"
	on42  = macs + "8100002a" + "0800" + "4500"
)

func TestTaggedReads(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string
	}{
		{"its own frames come without the tag", on42, plain},
		{"a priority is no part of the id", macs + "8100e02a" + "0800" + "4500", plain},
		{"only the outer tag is its own", macs + "8100002a" + "8100002b" + "0800", macs + "8100002b" + "0800"},
		{"frames without a tag are not for it", plain, ""},
		{"frames of another VLAN are not for it", macs + "8100002b" + "0800" + "4500", ""},
		{"a tag that is cut off is none", macs + "810000", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := unhex(t, tt.in)
			l, err := Tagged(&wire{in: [][]byte{in}}, 42)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.ReadFrame(t.Context())
			if hex.EncodeToString(got) != tt.want || (tt.want == "") != (err == io.EOF) {
				t.Errorf("got %x, %v, want %s", got, err, tt.want)
			}
			if hex.EncodeToString(in) != tt.in {
				t.Error("the frame, which belongs to the link, was modified")
			}
		})
	}
}

func TestTaggedWrites(t *testing.T) {
	w := new(wire)
	l, err := Tagged(w, 42)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WriteFrame(unhex(t, plain)); err != nil || len(w.sent) != 1 || hex.EncodeToString(w.sent[0]) != on42 {
		t.Errorf("sent %x, %v, want %s", w.sent, err, on42)
	}
}

func TestTaggedRefuses(t *testing.T) {
	for _, id := range []uint16{0, 4095, 5000} {
		if _, err := Tagged(new(wire), id); err == nil {
			t.Errorf("VLAN %d was accepted", id)
		}
	}
}
