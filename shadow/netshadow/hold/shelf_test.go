// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

func TestShelf(t *testing.T) {
	dir := t.TempDir()
	s := NewShelf(filepath.Join(dir, "net0.frames"))
	for _, tt := range []struct {
		name   string
		frames []frame.Frame
	}{
		{"nothing was ever put", nil},
		{"frames keep their order, priority and bytes", []frame.Frame{{Data: []byte("one"), Priority: 6}, {Data: bytes.Repeat([]byte{7}, 1514)}}},
		{"what was put replaces what was there", []frame.Frame{{Data: []byte("two")}}},
		{"no frames empty it", nil},
		{"emptying what is empty is no error", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.Put(tt.frames); err != nil {
				t.Fatal(err)
			}
			got, err := NewShelf(s.path).Frames()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.frames, got); d != "" {
				t.Error(d)
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("an empty shelf leaves %v, %v", left, err)
	}
}

func TestShelfThatCannotBeWrittenKeepsWhatItHas(t *testing.T) {
	s := NewShelf(filepath.Join(t.TempDir(), "net0.frames"))
	want := []frame.Frame{{Data: []byte("kept")}}
	if err := s.Put(want); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path+".tmp", 0o755); err != nil { // in the way of a write
		t.Fatal(err)
	}
	if err := s.Put([]frame.Frame{{Data: []byte("new")}}); err == nil {
		t.Error("no error")
	}
	got, err := s.Frames()
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
}

func TestShelfRefuses(t *testing.T) {
	good := appendFrames(nil, []frame.Frame{{Data: []byte("a frame")}})
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"a header that ends early", good[:shelfHeader-1]},
		{"a frame that ends early", good[:len(good)-1]},
		{"a header that ends early after a frame", append(bytes.Clone(good), 1, 2, 3)},
		{"a length beyond all bounds", bytes.Repeat([]byte{0xff}, shelfHeader)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewShelf(filepath.Join(t.TempDir(), "net0.frames"))
			if err := os.WriteFile(s.path, tt.b, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Frames(); !errors.Is(err, ErrShelf) {
				t.Errorf("got %v, %v, want ErrShelf", got, err)
			}
		})
	}
}

func FuzzParseFrames(f *testing.F) {
	f.Add(appendFrames(nil, []frame.Frame{{Data: []byte("a frame"), Priority: 1}, {}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := parseFrames(b)
		if err == nil && !bytes.Equal(appendFrames(nil, frames), b) {
			t.Errorf("% x does not come back", b)
		}
	})
}
