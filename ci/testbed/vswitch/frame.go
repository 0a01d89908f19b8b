// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vswitch

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxFrame is the longest frame QEMU sends or takes, in bytes: NET_BUFSIZE of
// QEMU's include/net/net.h, 64 KiB of payload (segmentation offload) and 4 KiB.
const MaxFrame = 64*1024 + 4096

// prefixLen is the length of the prefix of net/stream.c: the frame's length in
// network byte order, without the prefix itself.
const prefixLen = 4

// A wireFrame is a frame with its length prefix in front, so that it is
// written to a socket in one piece. It is immutable once it was forwarded:
// several ports share it.
type wireFrame []byte

func (f wireFrame) ethernet() []byte { return f[prefixLen:] }

// newWireFrame copies an Ethernet frame.
func newWireFrame(eth []byte) wireFrame {
	f := make(wireFrame, prefixLen+len(eth))
	binary.BigEndian.PutUint32(f, uint32(len(eth)))
	copy(f[prefixLen:], eth)
	return f
}

// readFrame reads the next frame of a QEMU stream. At the end of the stream it
// returns io.EOF between frames and io.ErrUnexpectedEOF inside one. A length
// beyond MaxFrame gives ErrFrameSize: the stream has lost its framing and
// cannot be read further.
func readFrame(r io.Reader) (wireFrame, error) {
	var prefix [prefixLen]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(prefix[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("%w: prefix says %d bytes", ErrFrameSize, n)
	}
	f := make(wireFrame, prefixLen+int(n))
	copy(f, prefix[:])
	if _, err := io.ReadFull(r, f[prefixLen:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return f, nil
}
