// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package sntp

import (
	"net"
	"testing"
	"time"

	"github.com/beevik/ntp"
)

// A client that others have written takes the answers for those of a good server.
func TestServer(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(conn)
	defer s.Close()
	for i, shift := range []time.Duration{0, time.Hour, -time.Minute} {
		s.Shift(shift)
		r, err := ntp.QueryWithOptions(conn.LocalAddr().String(), ntp.QueryOptions{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Validate(); err != nil {
			t.Errorf("shifted by %v: %v", shift, err)
		}
		if off := (r.ClockOffset - shift).Abs(); off > r.RootDistance+time.Second {
			t.Errorf("shifted by %v: the client finds %v, within %v", shift, r.ClockOffset, r.RootDistance)
		}
		if s.Answers() != i+1 {
			t.Errorf("%d answers, want %d", s.Answers(), i+1)
		}
	}
}

func TestWhatIsNoQuestionIsNotAnswered(t *testing.T) {
	s := new(Server)
	for rule, b := range map[string][]byte{
		"too short": make([]byte, packetSize-1), "an answer": append([]byte{0x24}, make([]byte, packetSize)...),
	} {
		if s.answer(b) != nil {
			t.Errorf("%s: it is answered", rule)
		}
	}
}
