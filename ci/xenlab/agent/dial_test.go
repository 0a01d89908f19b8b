// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestDialWaitsForTheListenerAndCarriesBothWays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	go func() {
		time.Sleep(3 * dialPause)
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	sent := strings.Repeat("0123456789abcdef", 1<<17)
	go func() {
		io.WriteString(w, sent)
		w.Close()
	}()
	var out bytes.Buffer
	if err := dial(address, in, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != sent {
		t.Errorf("%d of %d bytes came back", out.Len(), len(sent))
	}
}
