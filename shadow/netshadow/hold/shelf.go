// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// ErrShelf reports a shelf that holds something else than frames.
var ErrShelf = errors.New("not a shelf of frames")

// Shelf is a file in which frames outlive this process. It belongs on a tmpfs: it
// survives the process, and need not survive the machine.
type Shelf struct{ path string }

// NewShelf returns the shelf in the file path, which need not exist.
func NewShelf(path string) Shelf { return Shelf{path} }

// Put replaces what is on the shelf, as a whole or not at all. No frames remove the
// file.
func (s Shelf) Put(frames []frame.Frame) error {
	if len(frames) == 0 {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hold: empty shelf: %w", err)
		}
		return nil
	}
	tmp := s.path + ".tmp"
	err := os.WriteFile(tmp, appendFrames(nil, frames), 0o600)
	if err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("hold: put %d frames on shelf: %w", len(frames), err)
	}
	return nil
}

// Frames returns what is on the shelf, in the order in which it was put. Errors match
// [ErrShelf] if the file is damaged.
func (s Shelf) Frames() ([]frame.Frame, error) {
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hold: read shelf: %w", err)
	}
	frames, err := parseFrames(b)
	if err != nil {
		return nil, fmt.Errorf("hold: read shelf %s: %w", s.path, err)
	}
	return frames, nil
}

// A frame on the shelf is its priority and its length, 32 bits each in this machine's
// order, and its bytes.
const shelfHeader = 8

func appendFrames(b []byte, frames []frame.Frame) []byte {
	for _, f := range frames {
		b = binary.NativeEndian.AppendUint32(b, f.Priority)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(f.Data)))
		b = append(b, f.Data...)
	}
	return b
}

func parseFrames(b []byte) (frames []frame.Frame, err error) {
	for at := 0; at < len(b); {
		rest := b[at:]
		if len(rest) < shelfHeader {
			return nil, fmt.Errorf("%w: %d bytes after byte %d, a frame has a header of %d", ErrShelf, len(rest), at, shelfHeader)
		}
		n := binary.NativeEndian.Uint32(rest[4:])
		rest = rest[shelfHeader:]
		if uint64(n) > uint64(len(rest)) {
			return nil, fmt.Errorf("%w: frame of %d bytes at byte %d, %d are there", ErrShelf, n, at, len(rest))
		}
		frames = append(frames, frame.Frame{Data: rest[:n:n], Priority: binary.NativeEndian.Uint32(b[at:])})
		at += shelfHeader + int(n)
	}
	return frames, nil
}
