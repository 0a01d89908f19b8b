// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package witness is the evidence that a guest lived through a migration
// unharmed: an appliance program for the guest and its counterpart outside.
//
// The [Guest] opens one TCP connection to the [Peer] and never another one.
// Both send checksummed records of predictable content and judge every byte of
// what they receive. Beside it the guest sends numbered datagrams. What the
// guest alone can know, how many datagrams it sent and what it received, it
// tells the peer over the TCP connection. At the peer's word both finish in
// good order, and the peer has the [Verdict].
//
// Neither side has anything to do with shadows, drivers or hypervisors, and
// must never have: a witness that knows what is at stake is none. The package
// uses the standard library alone, so that the guest's program stays small.
package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umbra-vm/umbra/ci/witness/internal/wire"
)

// Guest is the program in the guest. Fill in Addr and call Run, once.
type Guest struct {
	// Addr is the peer's "host:port", the same for TCP and UDP.
	Addr string

	// TCPInterval is the time from one record to the next, UDPInterval from
	// one datagram to the next; 10 ms and 5 ms if 0. A negative UDPInterval
	// means no datagrams.
	TCPInterval, UDPInterval time.Duration

	// UDPSize is the size of a datagram in bytes, from 36 to 8192; 64 if 0.
	UDPSize int

	// Echo asks the peer to send every datagram back.
	Echo bool

	// ReportInterval is the time between reports to the peer; 1 s if 0.
	// Every fifth is also printed.
	ReportInterval time.Duration

	// DialTimeout limits how long Run tries to open the connection for the
	// first time; 30 s if 0.
	DialTimeout time.Duration

	// Out is where lines for a person go; nowhere if nil.
	Out io.Writer

	start   time.Time
	send    *sender
	recv    *receiver
	arrived gapLog

	udpSent, udpFailed, udpEchoed, udpSlow atomic.Uint64
	stop                                   chan struct{} // closed when the peer said so
	broken                                 chan struct{} // closed when the connection was lost
}

// Run runs the appliance until the peer asks it to finish (nil), the
// connection is lost ([ErrUnasked], after which datagrams go on until ctx ends,
// because the peer still counts them) or ctx ends (the context's error). Bytes
// that arrived damaged do not end it; they make it return ErrDamaged.
func (g *Guest) Run(ctx context.Context) error {
	g.defaults()
	if g.UDPSize < wire.MinDatagram || g.UDPSize > wire.MaxDatagram {
		return fmt.Errorf("witness: datagrams of %d bytes, want %d to %d", g.UDPSize, wire.MinDatagram, wire.MaxDatagram)
	}
	conn, err := g.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	g.printf("connected %s -> %s", conn.LocalAddr(), conn.RemoteAddr())
	g.send = &sender{dir: wire.GuestToPeer, w: conn}
	g.recv = newReceiver(conn, wire.PeerToGuest)
	g.stop, g.broken = make(chan struct{}), make(chan struct{})

	udpCtx, stopUDP := context.WithCancel(ctx)
	defer stopUDP()
	var sending, echoes sync.WaitGroup
	if g.UDPInterval > 0 {
		u, err := net.ListenPacket("udp", ":0")
		if err != nil {
			return fmt.Errorf("witness: open UDP socket: %w", err)
		}
		to, err := net.ResolveUDPAddr("udp", g.Addr)
		if err != nil {
			u.Close()
			return fmt.Errorf("witness: %w", err)
		}
		sending.Go(func() { g.sendDatagrams(udpCtx, u, to) })
		echoes.Go(func() { g.countEchoes(u) })
		defer func() {
			stopUDP()
			u.Close() // also wakes a send that blocks
			sending.Wait()
			echoes.Wait()
		}()
	}
	err = g.talk(ctx, conn, func() {
		stopUDP()
		sending.Wait()
	})
	g.printf("%s", g.status())
	if errors.Is(err, ErrUnasked) {
		g.printf("CONNECTION LOST: %v", err)
		<-ctx.Done()
		return fmt.Errorf("witness: %w", err)
	}
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	if t := g.recv.tally(); t.Lost+t.Corrupt > 0 {
		return fmt.Errorf("witness: %w: %d bytes lost, %d corrupt", ErrDamaged, t.Lost, t.Corrupt)
	}
	g.printf("finished in good order")
	return nil
}

// ErrDamaged says that bytes arrived altered or not at all, although the
// connection lived.
var ErrDamaged = errors.New("stream damaged")

func (g *Guest) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&g.TCPInterval, 10*time.Millisecond)
	def(&g.UDPInterval, 5*time.Millisecond)
	def(&g.ReportInterval, time.Second)
	def(&g.DialTimeout, 30*time.Second)
	if g.UDPSize == 0 {
		g.UDPSize = 64
	}
	if g.Out == nil {
		g.Out = io.Discard
	}
	g.start = time.Now()
}

// dial opens the one connection. Until it is open nothing can be lost, so an
// attempt that fails is repeated. Keep-alives are off: whether the connection
// is alive is for its records to say, at whatever length.
func (g *Guest) dial(ctx context.Context) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, g.DialTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: -1}
	for {
		c, err := d.DialContext(ctx, "tcp", g.Addr)
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("witness: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// talk runs the TCP side until its end. quiet is called when the peer wants to
// finish: after it no datagram is sent any more.
func (g *Guest) talk(ctx context.Context, conn *net.TCPConn, quiet func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()

	writes := make(chan error, 1)
	wg.Go(func() {
		err := g.write(quiet)
		if err == nil {
			err = conn.CloseWrite()
		}
		if err != nil {
			conn.Close() // wakes the reader
		}
		writes <- err
	})
	rerr := g.read()
	if rerr != nil {
		close(g.broken)
		conn.Close() // wakes a write that blocks
	}
	werr := <-writes
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case werr != nil && !errors.Is(werr, net.ErrClosed):
		return unasked("send", werr)
	case rerr != nil:
		return unasked("receive", rerr)
	}
	return nil
}

// read judges the peer's stream; nil if it ended after a Stop record.
func (g *Guest) read() error {
	stopped := false
	for {
		h, _, err := g.recv.next()
		switch {
		case err == io.EOF && stopped:
			return nil
		case err != nil:
			return err
		}
		g.arrived.mark(time.Now())
		if h.Kind == wire.Stop && !stopped {
			stopped = true
			close(g.stop)
		}
	}
}

// write sends records until the peer says stop, then the final counters.
func (g *Guest) write(quiet func()) error {
	pace := time.NewTicker(g.TCPInterval)
	defer pace.Stop()
	report := time.NewTicker(g.ReportInterval)
	defer report.Stop()
	for reports := 1; ; {
		select {
		case <-g.broken:
			return net.ErrClosed
		case <-g.stop:
			quiet()
			return g.send.control(wire.Final, g.recv.tally().Records, g.counters().Append(nil))
		case <-report.C:
			if err := g.send.control(wire.Report, g.recv.tally().Records, g.counters().Append(nil)); err != nil {
				return err
			}
			if reports++; reports%5 == 0 {
				g.printf("%s", g.status())
			}
		case <-pace.C:
			if err := g.send.data(g.recv.tally().Records); err != nil {
				return err
			}
		}
	}
}

func (g *Guest) counters() wire.Counters {
	_, sent := g.send.progress()
	t := g.recv.tally()
	_, gap := g.arrived.stats()
	return wire.Counters{
		UDPSent: g.udpSent.Load(), UDPFailed: g.udpFailed.Load(),
		UDPEchoed: g.udpEchoed.Load(), UDPSlow: g.udpSlow.Load(),
		TCPSent: sent,
		Records: t.Records, Bytes: t.Next, Lost: t.Lost, Corrupt: t.Corrupt,
		MaxGap: uint64(gap),
	}
}

func (g *Guest) status() string {
	c := g.counters()
	return fmt.Sprintf("tcp out %d kB, in %d kB, %d lost, %d corrupt, longest gap %d ms; udp out %d, %d failed, %d echoed",
		c.TCPSent>>10, c.Bytes>>10, c.Lost, c.Corrupt, time.Duration(c.MaxGap).Milliseconds(),
		c.UDPSent, c.UDPFailed, c.UDPEchoed)
}

func (g *Guest) printf(format string, args ...any) {
	fmt.Fprintf(g.Out, format+"\n", args...)
}

// sendDatagrams numbers a datagram before it tries to send it: one that could
// not be sent is missing at the peer, as it would be for any application.
func (g *Guest) sendDatagrams(ctx context.Context, u net.PacketConn, to net.Addr) {
	session := rand.Uint64()
	var flags uint8
	if g.Echo {
		flags = wire.FlagEcho
	}
	buf := make([]byte, 0, wire.MaxDatagram)
	tick := time.NewTicker(g.UDPInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		buf = wire.AppendDatagram(buf[:0], wire.Datagram{
			Flags: flags, Session: session, Seq: g.udpSent.Load(), Sent: uint64(began.Sub(g.start)),
		}, g.UDPSize)
		g.udpSent.Add(1)
		if _, err := u.WriteTo(buf, to); err != nil {
			if g.udpFailed.Add(1) == 1 {
				g.printf("first datagram that could not be sent: %v", err)
			}
		}
		if took := uint64(time.Since(began)); took > g.udpSlow.Load() {
			g.udpSlow.Store(took)
		}
	}
}

func (g *Guest) countEchoes(u net.PacketConn) {
	buf := make([]byte, wire.MaxDatagram)
	for {
		n, _, err := u.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier datagram
		}
		if d, err := wire.ParseDatagram(buf[:n]); err == nil && d.Flags&wire.FlagReply != 0 {
			g.udpEchoed.Add(1)
		}
	}
}
