// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command streams is an appliance for two guests of one image: the TCP connections of
// package streams. Which end of them a guest is is a word on its kernel's command line,
// streams=listen or streams=dial@ADDRESS; without one it does nothing.
//
// It says on the console when all connections are there, and why it has ended, which
// it never should.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/umbra-vm/umbra/ci/streams"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Println(streams.Failed, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	ready := func() { fmt.Println(streams.Ready) }
	for _, w := range strings.Fields(string(line)) {
		what, ok := strings.CutPrefix(w, "streams=")
		if !ok {
			continue
		}
		what, at, _ := strings.Cut(what, "@")
		switch what {
		case "listen":
			fmt.Println(streams.Waiting)
			return streams.Listen(ctx, ready)
		case "dial":
			peer, err := netip.ParseAddr(at)
			if err != nil {
				return err
			}
			return streams.Dial(ctx, peer, ready)
		}
		return fmt.Errorf("%q: want streams=listen or streams=dial@ADDRESS", w)
	}
	return nil
}
