// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command witness is an appliance for a guest under test: one TCP connection
// and numbered datagrams to a peer that checks every byte. See package witness.
//
// It exits with 0 when the peer asked it to finish and all was well, with 1 if
// the connection was lost or bytes were damaged, with 2 for a bad command line.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/umbra-vm/umbra/ci/witness"
)

func main() {
	g := witness.Guest{Out: os.Stdout}
	flag.StringVar(&g.Addr, "peer", "10.99.0.1:7000", "`host:port` of the peer, for TCP and UDP")
	flag.DurationVar(&g.TCPInterval, "tcp-interval", 0, "time between records (default 10ms)")
	flag.DurationVar(&g.UDPInterval, "udp-interval", 0, "time between datagrams; negative for none (default 5ms)")
	flag.IntVar(&g.UDPSize, "udp-size", 64, "`bytes` of a datagram")
	flag.BoolVar(&g.Echo, "echo", false, "ask the peer to send datagrams back")
	flag.DurationVar(&g.ReportInterval, "report", 0, "time between reports to the peer; every fifth is printed (default 1s)")
	flag.DurationVar(&g.DialTimeout, "dial-timeout", 0, "how long to try to open the connection (default 30s)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "witness: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := g.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
