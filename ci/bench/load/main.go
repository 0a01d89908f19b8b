// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command load is what the benchmarks run in a guest. It measures, and prints
// what it measured on the console (see package record); it decides nothing.
//
// As a service of the guest it says when it was started, and then, with
// bench.load=steady on the kernel's command line, what sending and receiving cost, with
// bench.load=streams, how long streams take, one guest at a time, or, with bench.load=clock, what time it is.
// As process 1 (rdinit=/bin/load) it is a guest without umbra, and says what a NIC's
// driver costs alone.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

func main() {
	switch {
	case os.Getpid() == 1:
		alone()
	case len(os.Args) > 1 && os.Args[1] == soakArg:
		soak()
	case len(os.Args) == 4:
		if err := service(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			say(record.Record{Kind: record.Fail, Error: err.Error()})
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: load DISCARD SOURCE SINK")
		os.Exit(2)
	}
}

// service is the program as a user's.
func service(peer, source, sink string) error {
	start := record.Record{Kind: record.Start, Boottime: now(unix.CLOCK_BOOTTIME)}
	var err error
	if start.Init, err = handedOver(); err != nil {
		return err
	}
	say(start)
	args, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	words := strings.Fields(string(args))
	switch {
	case slices.Contains(words, "bench.load=clock"):
		return tick(peer)
	case slices.Contains(words, "bench.load=steady"):
		err = steady(peer, source)
	case slices.Contains(words, "bench.load=streams"):
		err = throughput(sink, source)
	default:
		return nil // the guest moves, or boots; nothing is to be in its way
	}
	if err != nil {
		return err
	}
	say(record.Record{Kind: record.Done})
	return nil
}

// tick tells what time it is, for ever, in datagrams that nobody has to receive.
func tick(peer string) error {
	conn, err := net.Dial("udp", peer)
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		b := binary.BigEndian.AppendUint64([]byte(record.Tick), uint64(now(unix.CLOCK_MONOTONIC)))
		if _, err := conn.Write(b); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("tell the time: %w", err)
		}
		time.Sleep(tickPause)
	}
}

// tickPause is the time between two datagrams of tick.
const tickPause = 100 * time.Millisecond

// alone is the program as process 1, which must not end.
func alone() {
	err := bare(context.Background())
	say(record.Record{Kind: record.Fail, Error: err.Error()})
	for {
		time.Sleep(time.Hour)
	}
}

func say(r record.Record) {
	if err := record.Write(os.Stdout, r); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// now reads a clock in nanoseconds.
func now(clock int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic(err) // every Linux has the clocks used here
	}
	return ts.Nano()
}
