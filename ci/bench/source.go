// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/binary"
	"io"
	"net"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

// sourceDatagram is the size in bytes of the datagrams that a source sends.
const sourceDatagram = 64

// A turn is asked when a guest wants to go on, and returns when it may; lined if that is
// with the link's rate.
type turn func(lined bool) error

// confirmStream reads as many MiB as a number of 4 bytes says, says with a byte that it
// has them, and waits for the next number, until either side ends. A number that is a
// question is answered when next returns.
func confirmStream(c net.Conn, next turn) {
	var size [4]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		var err error
		switch n := binary.BigEndian.Uint32(size[:]); n {
		case record.AskTurn, record.AskLine:
			err = next(n == record.AskLine)
		default:
			_, err = io.CopyN(io.Discard, c, int64(n)<<20)
		}
		if err != nil {
			return
		}
		if _, err := c.Write(size[:1]); err != nil {
			return
		}
	}
}

// A source is asked by a number of 4 bytes, for as many datagrams, or MiB of a stream.

// supplyStream answers on a stream until either side ends.
func supplyStream(c net.Conn) {
	var question [4]byte
	block := make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(c, question[:]); err != nil {
			return
		}
		for range binary.BigEndian.Uint32(question[:]) {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}
}

// supplyDatagrams answers with datagrams until pc is closed.
func supplyDatagrams(pc net.PacketConn) {
	var question [4]byte
	block := make([]byte, sourceDatagram)
	for {
		n, from, err := pc.ReadFrom(question[:])
		if err != nil {
			return
		}
		if n < len(question) {
			continue
		}
		for range binary.BigEndian.Uint32(question[:]) {
			if _, err := pc.WriteTo(block, from); err != nil {
				return
			}
		}
	}
}
