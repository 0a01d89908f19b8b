// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package sntp is a small NTP server for a test network (RFC 4330, the server's side).
//
// It tells the time of this machine, or one that is off by as much as the test wants, as
// a primary server does. It runs on any net.PacketConn.
package sntp

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"
)

// Port is the port of NTP.
const Port = 123

const (
	packetSize = 48
	modeClient = 3
	modeServer = 4
	// epoch is 1970 in seconds of NTP's era 0, which begins in 1900.
	epoch = 2208988800
)

// A Server answers clients. Make one with [Serve].
type Server struct {
	conn    net.PacketConn
	offset  atomic.Int64 // of the time that is told, in ns
	answers atomic.Int64
	done    chan struct{}
}

// Serve starts answering on conn, which the server owns from now on.
func Serve(conn net.PacketConn) *Server {
	s := &Server{conn: conn, done: make(chan struct{})}
	go s.serve()
	return s
}

// Shift has the server tell a time that is off by d from now on.
func (s *Server) Shift(d time.Duration) { s.offset.Store(int64(d)) }

// Answers returns how many questions were answered.
func (s *Server) Answers() int { return int(s.answers.Load()) }

// Close stops the server and closes its socket.
func (s *Server) Close() error {
	err := s.conn.Close()
	<-s.done
	return err
}

func (s *Server) serve() {
	defer close(s.done)
	b := make([]byte, 1500)
	for {
		n, client, err := s.conn.ReadFrom(b)
		if err != nil {
			return
		}
		if reply := s.answer(b[:n]); reply != nil {
			if _, err := s.conn.WriteTo(reply, client); err == nil {
				s.answers.Add(1)
			}
		}
	}
}

// answer returns the answer to a question, nil if it is none.
func (s *Server) answer(question []byte) []byte {
	if len(question) < packetSize || question[0]&7 != modeClient {
		return nil
	}
	now := timestamp(time.Now().Add(time.Duration(s.offset.Load())))
	b := make([]byte, packetSize)
	b[0] = question[0]&0x38 | modeServer // its version
	b[1] = 1                             // stratum
	b[2] = question[2]                   // poll
	b[3] = 0xec                          // precision, 2^-20 s
	copy(b[12:], "LOCL")
	copy(b[24:], question[40:48]) // when the client asked
	for _, at := range []int{16, 32, 40} {
		binary.BigEndian.PutUint64(b[at:], now)
	}
	return b
}

// timestamp is a time in NTP's form: seconds, and 2^-32 s.
func timestamp(t time.Time) uint64 {
	return uint64(t.Unix()+epoch)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}
