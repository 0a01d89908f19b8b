// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns a socket of this program and the peer's end of it.
func pair(t *testing.T) (fd int, peer *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	return fds[0], os.NewFile(uintptr(fds[1]), "peer")
}

func TestStreamIsReadToItsEndWhereverItPauses(t *testing.T) {
	fd, peer := pair(t)
	asked := make(chan uint32, 1)
	go func() {
		defer peer.Close()
		var q [4]byte
		if _, err := peer.Read(q[:]); err != nil {
			return
		}
		asked <- binary.BigEndian.Uint32(q[:])
		for range mebibytes {
			time.Sleep(2 * between)
			if _, err := peer.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	s := &sources{tcp: fd}
	if err := s.stream(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if n := <-asked; n != mebibytes {
		t.Errorf("asked for %d, want %d", n, mebibytes)
	}
}

func TestStreamThatEndsTooEarlyIsAnError(t *testing.T) {
	fd, peer := pair(t)
	go func() {
		defer peer.Close()
		if _, err := peer.Read(make([]byte, 4)); err != nil {
			return
		}
		_, _ = peer.Write(make([]byte, 100))
	}()
	s := &sources{tcp: fd}
	if err := s.stream(make([]byte, 1<<20)); !errors.Is(err, errMissing) {
		t.Errorf("got %v, want errMissing", err)
	}
}
