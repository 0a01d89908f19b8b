// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

func question(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func TestSourceStreamsAsManyMiBAsItIsAskedFor(t *testing.T) {
	near, far := net.Pipe()
	ended := make(chan struct{})
	go func() {
		supplyStream(far)
		far.Close()
		close(ended)
	}()
	for _, n := range []int{2, 1} {
		if _, err := near.Write(question(n)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.CopyN(io.Discard, near, int64(n)<<20); err != nil {
			t.Fatalf("%d MiB: %d bytes, %v", n, got, err)
		}
	}
	near.Close()
	<-ended
}

func TestSourceSendsAsManyDatagramsAsItIsAskedFor(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go supplyDatagrams(pc)
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// What is too short to be a question is none.
	for _, q := range [][]byte{{1}, question(3), question(2)} {
		if _, err := c.Write(q); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 2*sourceDatagram)
	for i := range 5 {
		if n, err := c.Read(buf); err != nil || n != sourceDatagram {
			t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
		}
	}
}
