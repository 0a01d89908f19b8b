// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package capture holds the neutral witnesses of a test network: taps that
// record what really was on the wire, whatever the programs at its ends say.
//
// [File] writes a capture that tcpdump and Wireshark read, [Flows] counts TCP
// connections and their resets. Both observe frames and never touch them; they
// know nothing of the switch they listen to.
package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// Block types and options of the PCAP Next Generation format,
// draft-ietf-opsawg-pcapng sections 4.1, 4.2 and 4.3.
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 0x00000001
	blockPacket    = 0x00000006

	byteOrderMagic = 0x1A2B3C4D
	linkEthernet   = 1

	optEnd       = 0
	optIfName    = 2
	optIfTsresol = 9

	tsNano = 9 // if_tsresol: units of 10^-9 s
)

// A File is a tap that writes frames in pcapng format. Each switch port is an
// interface of the capture, so a reader sees which host a frame came from.
type File struct {
	snap  int
	limit int64

	mu      sync.Mutex
	w       io.Writer
	ports   map[string]uint32
	written int64
	skipped uint64
	err     error
	buf     []byte
}

// NewFile starts a capture on w. Of each frame the first snap bytes are kept
// (all of it if snap is 0). When the next frame would take the capture past
// limit bytes (0: unlimited) it is counted as skipped instead of written.
func NewFile(w io.Writer, snap int, limit int64) (*File, error) {
	f := &File{w: w, snap: snap, limit: limit, ports: make(map[string]uint32)}
	f.begin(blockSection)
	f.u32(byteOrderMagic)
	f.u16(1) // version 1.0
	f.u16(0)
	f.u32(0xffffffff) // section length: unknown
	f.u32(0xffffffff)
	if err := f.end(); err != nil {
		return nil, fmt.Errorf("capture: write header: %w", err)
	}
	return f, nil
}

// Observe writes one frame. Errors stop the capture; see [File.Err].
func (f *File) Observe(at time.Time, port string, frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		f.skipped++
		return
	}
	kept := frame
	if f.snap > 0 && len(kept) > f.snap {
		kept = kept[:f.snap]
	}
	if f.limit > 0 && f.written+int64(len(kept))+64 > f.limit {
		f.skipped++
		return
	}
	id, ok := f.ports[port]
	if !ok {
		id = uint32(len(f.ports))
		f.ports[port] = id
		f.begin(blockInterface)
		f.u16(linkEthernet)
		f.u16(0)
		f.u32(uint32(f.snap))
		f.option(optIfName, []byte(port))
		f.option(optIfTsresol, []byte{tsNano})
		f.option(optEnd, nil)
		if f.err = f.end(); f.err != nil {
			return
		}
	}
	ns := uint64(at.UnixNano())
	f.begin(blockPacket)
	f.u32(id)
	f.u32(uint32(ns >> 32))
	f.u32(uint32(ns))
	f.u32(uint32(len(kept)))
	f.u32(uint32(len(frame)))
	f.bytes(kept)
	f.err = f.end()
}

// Skipped returns how many frames are missing from the capture because of its
// limit or of a write error.
func (f *File) Skipped() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.skipped
}

// Err returns the write error that ended the capture, if any.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *File) begin(block uint32) {
	f.buf = f.buf[:0]
	f.u32(block)
	f.u32(0) // total length, set by end
}

func (f *File) u16(v uint16) { f.buf = binary.LittleEndian.AppendUint16(f.buf, v) }
func (f *File) u32(v uint32) { f.buf = binary.LittleEndian.AppendUint32(f.buf, v) }

// bytes appends b padded to 32 bits, as every variable field of the format is.
func (f *File) bytes(b []byte) {
	f.buf = append(f.buf, b...)
	for len(f.buf)%4 != 0 {
		f.buf = append(f.buf, 0)
	}
}

func (f *File) option(code uint16, value []byte) {
	f.u16(code)
	f.u16(uint16(len(value)))
	f.bytes(value)
}

func (f *File) end() error {
	total := uint32(len(f.buf) + 4)
	f.u32(total)
	binary.LittleEndian.PutUint32(f.buf[4:], total)
	n, err := f.w.Write(f.buf)
	f.written += int64(n)
	return err
}
