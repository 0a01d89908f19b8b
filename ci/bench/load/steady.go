// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
)

// The machine counts instructions as nanoseconds, but when its processor idles
// the clock runs with the host's. So nothing may idle: a process of the lowest
// priority turns in a loop and counts the turns in memory that it shares. What
// is left of the elapsed time without the turns is what the rest of the guest
// did, softirqs included, to the instruction; waiting for the peer is in the
// turns.

// soakArg makes the program the idle loop.
const soakArg = "soak"

// soakFD is where the loop finds the shared memory.
const soakFD = 3

func sharedPage(fd int) (*atomic.Uint64, error) {
	b, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the turns: %w", err)
	}
	return (*atomic.Uint64)(unsafe.Pointer(&b[0])), nil
}

// soak is the idle loop. It never returns.
func soak() {
	runtime.LockOSThread()
	turns, err := sharedPage(soakFD)
	if err == nil {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	for n := uint64(1); ; n++ {
		turns.Store(n)
	}
}

// A meter tells work from waiting.
type meter struct {
	turns *atomic.Uint64
	spin  float64 // ns of one turn
}

// newMeter starts the idle loop and waits until the guest does little else.
func newMeter() (*meter, error) {
	fd, err := unix.MemfdCreate("turns", 0)
	if err != nil {
		return nil, fmt.Errorf("memory for the turns: %w", err)
	}
	f := os.NewFile(uintptr(fd), "turns")
	defer f.Close()
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		return nil, err
	}
	m := new(meter)
	if m.turns, err = sharedPage(fd); err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", soakArg)
	// The Go runtime must not interrupt what is measured.
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return m, m.settle()
}

const (
	window  = 40 * time.Millisecond // of the guest's time
	windows = 5
	// quiet is how alike the windows must be, relative.
	quiet = 0.002
	// patience is how many windows may pass until they are.
	patience = 400
)

// settle waits for windows that are alike: no driver is being loaded any more,
// no program starts. Their median is what a turn takes, timer ticks included.
func (m *meter) settle() error {
	var last []float64
	for range patience {
		t, n := now(unix.CLOCK_MONOTONIC), m.turns.Load()
		sleep(window)
		turns := m.turns.Load() - n
		if turns == 0 {
			continue
		}
		last = append(last, float64(now(unix.CLOCK_MONOTONIC)-t)/float64(turns))
		if len(last) > windows {
			last = last[1:]
		}
		if s := stats.Of(last); s.N == windows && s.Max-s.Min < quiet*s.Median {
			m.spin = s.Median
			say(record.Record{Kind: record.Quiet, Spin: m.spin})
			return nil
		}
	}
	return fmt.Errorf("the guest does not come to rest: one turn took %v ns", last)
}

// measure runs f and returns what it took as a record.
func (m *meter) measure(kind record.Kind, count, fd int, f func() error) error {
	out, in, err := segments(kind, fd)
	if err != nil {
		return err
	}
	t, n := now(unix.CLOCK_MONOTONIC), m.turns.Load()
	err = f()
	elapsed, turns := now(unix.CLOCK_MONOTONIC)-t, m.turns.Load()-n
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	out1, in1, err := segments(kind, fd)
	if err != nil {
		return err
	}
	say(record.Record{
		Kind: kind, Count: count, Elapsed: elapsed, Work: float64(elapsed) - float64(turns)*m.spin,
		Sent: out1 - out, Received: in1 - in,
	})
	return nil
}

// segments is how many a TCP socket has sent and received.
func segments(kind record.Kind, fd int) (out, in int, err error) {
	if kind != record.TCP && kind != record.TCPReceive {
		return 0, 0, nil
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0, fmt.Errorf("segments: %w", err)
	}
	return int(info.Segs_out), int(info.Segs_in), nil
}

const (
	datagram  = 64   // bytes of payload
	datagrams = 2000 // in a round
	mebibytes = 8    // in a round
	rounds    = 64   // after one to warm up
	// Datagrams cost the same to a tenth of a percent in every round; what the
	// peer's answers to a stream cost varies by more, so that takes them all.
	datagramRounds = 16
)

// steady sends to the peer's discard ports and receives from its sources, UDP and TCP
// by turns.
func steady(peer, source string) error {
	addr, err := sockaddr(peer)
	if err != nil {
		return err
	}
	if err := expectNoLoss(); err != nil {
		return err
	}
	udp, err := connect(addr, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	tcp, err := connect(addr, unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	// Room for a round: the writer fills it and the rest is up to the kernel,
	// whatever the pace of the peer.
	if err := unix.SetsockoptInt(tcp, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*mebibytes<<20); err != nil {
		return fmt.Errorf("send buffer: %w", err)
	}
	program, err := net.Dial("udp", peer)
	if err != nil {
		return err
	}
	small := make([]byte, datagram)
	large := bytes.Repeat([]byte{0xa5}, 1<<20)
	send := func() error { return sendDatagrams(udp, small, datagrams) }
	write := func() error {
		for range datagrams {
			if _, err := program.Write(small); err != nil {
				return err
			}
		}
		return nil
	}
	stream := func() error { return sendStream(tcp, large, mebibytes) }
	in, err := openSources(source)
	if err != nil {
		return err
	}
	receive, take := in.datagrams, func() error { return in.stream(large) }
	if err := errors.Join(send(), write(), stream(), receive(), take()); err != nil {
		return err
	}
	m, err := newMeter()
	if err != nil {
		return err
	}
	for i := range rounds {
		if i%(rounds/datagramRounds) == 0 {
			err := errors.Join(m.measure(record.UDP, datagrams, udp, write), m.measure(record.UDPCall, datagrams, udp, send),
				m.measure(record.UDPReceive, datagrams, in.udp, receive))
			if err != nil {
				return err
			}
		}
		err := errors.Join(m.measure(record.TCP, mebibytes, tcp, stream), m.measure(record.TCPReceive, mebibytes, in.tcp, take))
		if err != nil {
			return err
		}
	}
	return nil
}

// expectNoLoss keeps a peer that is late from looking like a loss: the network has none.
func expectNoLoss() error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte("0"), 0)
}

func sockaddr(text string) (*unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

func connect(addr unix.Sockaddr, kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, addr); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// sleep and write are system calls without the Go runtime's bookkeeping around
// them: its monitor looks every 20 µs at a thread that is in a system call
// (runtime/proc.go, sysmon), which would be a good part of what is measured.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	// A signal ends it early; nothing depends on its length.
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

func write(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, fmt.Errorf("write: %w", errno)
	}
	return int(n), nil
}

func sendDatagrams(fd int, b []byte, n int) error {
	for range n {
		if _, err := write(fd, b); err != nil {
			return err
		}
	}
	return nil
}

// writeStream sends b n times.
func writeStream(fd int, b []byte, n int) error {
	for range n {
		for rest := b; len(rest) > 0; {
			sent, err := write(fd, rest)
			if err != nil {
				return err
			}
			rest = rest[sent:]
		}
	}
	return nil
}

// sendStream sends b n times and waits until the peer has acknowledged all.
func sendStream(fd int, b []byte, n int) error {
	if err := writeStream(fd, b, n); err != nil {
		return err
	}
	for {
		left, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil {
			return fmt.Errorf("unacknowledged bytes: %w", err)
		}
		if left == 0 {
			return nil
		}
		// Long enough that asking costs nothing next to a round.
		sleep(20 * time.Millisecond)
	}
}
