// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A terminal of the kernel, which would echo, edit and translate, carries the protocol.
func TestServeTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	// While this side is open, what is set of the terminal stays.
	path := fmt.Sprintf("/dev/pts/%d", n)
	first, err := openTerminal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()

	srv := NewServer(map[string]Handler{
		"echo": Handle(func(_ context.Context, s string) (any, error) { return s, nil }),
	}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTerminal(ctx, path) }()
	client := NewClient(master, nil)
	const want = "\x03 \x04 \x7f \x11\x13 \r é"
	var got string
	if err := client.Call(t.Context(), "echo", want, &got); err != nil || got != want {
		t.Errorf("the answer is %q, %v, want %q", got, err, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serving ended with %v", err)
	}
	first.Close()
	client.Close()
}
