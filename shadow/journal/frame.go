// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A journal is a header and frames. Integers are little-endian.
//
//	+-----------------+-------+-------+-------+----
//	| "umbrajn1"      | frame | frame | frame | ...
//	+-----------------+-------+-------+-------+----
//	  8 bytes; the last character is the version
//
//	 frame
//	 0       2      3      4           8           12          16
//	+-------+------+------+-----------+-----------+-----------+- - - - - -+
//	| magic | kind | zero | length    | sequence  | crc32c    | payload   |
//	| B5 6A |      |      |           |           |           |           |
//	+-------+------+------+-----------+-----------+-----------+- - - - - -+
//
//	field     meaning
//	magic     where to look for the next frame after a damaged one
//	kind      what the payload is: see kindOp and its like; 0 is none
//	length    of the payload in bytes, at most maxPayload
//	sequence  one more than the frame's before it; the first frame's is 1
//	crc32c    Castagnoli, of the 12 bytes before it and the payload
//	payload   one JSON value
//
// A frame is good when all of this holds. What follows the last good frame, in
// a file where a frame was being written when the writer died, is some part of
// one frame (or, on a disk that lost power, a frame-sized hole): the torn tail,
// which Open cuts off. A bad frame with a good one anywhere behind it cannot
// have come about that way: that is corruption, and Open refuses.
//
// A damaged last frame cannot be told from a torn one and is cut off with it.
const (
	fileMagic  = "umbrajn1"
	headerSize = 16
	maxPayload = 1 << 20
)

var frameMagic = [2]byte{0xb5, 'j'}

// The kinds of a frame.
const (
	kindOp       byte = 1 + iota // opRecord: an operation of the log
	kindFact                     // factRecord
	kindProgress                 // ctl.Timeline of the recovery that is under way
	kindDone                     // ctl.Timeline of a recovery that ended
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBadFrame = errors.New("no good frame")

type frame struct {
	kind    byte
	seq     uint32
	payload []byte
}

func (f frame) size() int { return headerSize + len(f.payload) }

func appendFrame(b []byte, f frame) []byte {
	start := len(b)
	b = append(b, frameMagic[0], frameMagic[1], f.kind, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.payload)))
	b = binary.LittleEndian.AppendUint32(b, f.seq)
	crc := crc32.Update(crc32.Checksum(b[start:], castagnoli), castagnoli, f.payload)
	b = binary.LittleEndian.AppendUint32(b, crc)
	return append(b, f.payload...)
}

// parseFrame reads the frame that b starts with.
func parseFrame(b []byte) (frame, error) {
	switch {
	case len(b) < headerSize:
		return frame{}, fmt.Errorf("%w: header cut short after %d bytes", errBadFrame, len(b))
	case b[0] != frameMagic[0] || b[1] != frameMagic[1] || b[2] == 0 || b[3] != 0:
		return frame{}, fmt.Errorf("%w: header starts with % x", errBadFrame, b[:4])
	}
	n := binary.LittleEndian.Uint32(b[4:])
	switch {
	case n > maxPayload:
		return frame{}, fmt.Errorf("%w: payload of %d bytes, at most %d", errBadFrame, n, maxPayload)
	case int(n) > len(b)-headerSize:
		return frame{}, fmt.Errorf("%w: payload cut short after %d of %d bytes", errBadFrame, len(b)-headerSize, n)
	}
	f := frame{kind: b[2], seq: binary.LittleEndian.Uint32(b[8:]), payload: b[headerSize : headerSize+int(n)]}
	want := binary.LittleEndian.Uint32(b[12:])
	got := crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, f.payload)
	if got != want {
		return frame{}, fmt.Errorf("%w: checksum %08x, want %08x", errBadFrame, got, want)
	}
	return f, nil
}

// goodFrameIn reports whether a good frame starts anywhere in b.
func goodFrameIn(b []byte) bool {
	for i := range b {
		if b[i] != frameMagic[0] {
			continue
		}
		if _, err := parseFrame(b[i:]); err == nil {
			return true
		}
	}
	return false
}

// scan passes the frames of a whole journal file to visit and returns how many
// bytes of it are good; what is behind them is a torn tail. The error, of visit
// or about the file, comes with the offset that it is about. A file that holds
// no more than a part of the file magic is an empty journal.
func scan(b []byte, visit func(frame) error) (good int, err error) {
	if len(b) < len(fileMagic) && string(b) == fileMagic[:len(b)] {
		return 0, nil
	}
	if len(b) < len(fileMagic) || string(b[:len(fileMagic)]) != fileMagic {
		return 0, fmt.Errorf("it does not start with %q", fileMagic)
	}
	good = len(fileMagic)
	for seq := uint32(1); good < len(b); seq++ {
		f, err := parseFrame(b[good:])
		if err != nil {
			if goodFrameIn(b[good+1:]) {
				return good, fmt.Errorf("%w, but good ones behind it", err)
			}
			return good, nil
		}
		if f.seq != seq {
			return good, fmt.Errorf("frame %d where %d must be", f.seq, seq)
		}
		if err := visit(f); err != nil {
			return good, err
		}
		good += f.size()
	}
	return good, nil
}
