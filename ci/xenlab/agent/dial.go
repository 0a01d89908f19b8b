// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialing is the argument with which the agent is what busybox's nc would be, but for
// its reading 1 KiB at a time: each costs dom0, which is paravirtual, more than the copy.
const dialing = "dial"

const (
	dialTimeout = 10 * time.Second
	dialPause   = 100 * time.Millisecond

	// pipeBytes is as large as a pipe may be made (/proc/sys/fs/pipe-max-size), so that
	// its two ends take turns seldom.
	pipeBytes = 1 << 20
)

// dial carries what comes in to an address, on which somebody is going to listen, and
// out what comes from there.
func dial(address string, in *os.File, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	for errors.Is(err, syscall.ECONNREFUSED) && ctx.Err() == nil {
		time.Sleep(dialPause)
		c, err = d.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	// Smaller pipes work as well.
	_, _ = unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, pipeBytes)
	go func() {
		_, _ = io.Copy(c, in)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(out, c)
	return err
}
