// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vswitch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Counters are what passed one port since its creation. In is from the host
// into the switch, Out from the switch to the host.
type Counters struct {
	InFrames, InBytes   uint64
	OutFrames, OutBytes uint64

	QueueFull  uint64 // frames dropped because the host read too slowly
	NoCarrier  uint64 // frames dropped because nobody was connected
	Blackholed uint64 // frames dropped because a test asked for it
	Malformed  uint64 // frames from the host without an Ethernet header
}

type counters struct {
	inFrames, inBytes, outFrames, outBytes      atomic.Uint64
	queueFull, noCarrier, blackholed, malformed atomic.Uint64
}

// A Port is one socket of the switch, and at most one host is plugged into it.
type Port struct {
	sw       *Switch
	name     string
	path     string // of the UNIX socket; empty for a port in the process
	lossless bool

	queue     chan wireFrame
	gate      gate
	blackhole atomic.Bool
	awaited   atomic.Pointer[MAC]
	taken     atomic.Bool // by a connection, until its last goroutine ended
	carrier   atomic.Bool
	count     counters

	closeOnce sync.Once
	done      chan struct{}
	listener  net.Listener
}

// Name returns the name the port was created with.
func (p *Port) Name() string { return p.name }

// Path returns the path of the port's UNIX socket, for QEMU's
// "-netdev stream,server=off,addr.type=unix,addr.path=PATH".
func (p *Port) Path() string { return p.path }

// Carrier tells whether a host is plugged in.
func (p *Port) Carrier() bool { return p.carrier.Load() }

// Counters returns a copy of the port's counters.
func (p *Port) Counters() Counters {
	c := &p.count
	return Counters{
		InFrames: c.inFrames.Load(), InBytes: c.inBytes.Load(),
		OutFrames: c.outFrames.Load(), OutBytes: c.outBytes.Load(),
		QueueFull: c.queueFull.Load(), NoCarrier: c.noCarrier.Load(),
		Blackholed: c.blackholed.Load(), Malformed: c.malformed.Load(),
	}
}

// Pause stops the port like an Ethernet pause frame: the switch reads nothing
// from the host and keeps what is for it in the queue, up to the queue's bound.
func (p *Port) Pause() { p.gate.shut() }

// Resume ends a pause; queued frames follow in order.
func (p *Port) Resume() { p.gate.open() }

// Blackhole makes the port drop every frame in both directions, silently for
// the host, until it is called with false.
func (p *Port) Blackhole(on bool) { p.blackhole.Store(on) }

// Close unplugs the host and removes the port. A socket port's path is gone
// when Close returns.
func (p *Port) Close() error {
	p.closeOnce.Do(func() {
		close(p.done)
		p.gate.open()
		p.sw.remove(p)
		if p.listener != nil {
			p.listener.Close()
		}
	})
	return nil
}

func (p *Port) isClosed() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Await makes the port drop what is for the host behind it until that has sent a frame
// from mac. QEMU keeps frames for a NIC that no driver has opened; on a cable there is no
// link until one has.
func (p *Port) Await(mac MAC) { p.awaited.Store(&mac) }

// egress queues f for the host behind p.
func (p *Port) egress(f wireFrame) {
	switch {
	case p.blackhole.Load() || p.awaited.Load() != nil:
		p.count.blackholed.Add(1)
		return
	case !p.carrier.Load():
		p.count.noCarrier.Add(1)
		return
	}
	if p.lossless {
		select {
		case p.queue <- f:
		case <-p.done:
			p.count.noCarrier.Add(1)
		}
		return
	}
	select {
	case p.queue <- f:
	default:
		p.count.queueFull.Add(1)
	}
}

// delivered counts a frame the host has taken.
func (p *Port) delivered(f wireFrame) {
	p.count.outFrames.Add(1)
	p.count.outBytes.Add(uint64(len(f.ethernet())))
}

// drain empties the queue: the frames left the switch on a cable without an end.
func (p *Port) drain() {
	for {
		select {
		case <-p.queue:
			p.count.noCarrier.Add(1)
		default:
			return
		}
	}
}

func (s *Switch) newPort(name string) *Port {
	return &Port{
		sw:    s,
		name:  name,
		queue: make(chan wireFrame, s.queue),
		done:  make(chan struct{}),
	}
}

// Listen adds a port for one network card of one QEMU and waits for it on a
// UNIX socket at path, which must not exist. When QEMU goes away, what was
// learned on the port is forgotten and the port waits for the next connection;
// a second connection while one is up is refused.
func (s *Switch) Listen(name, path string) (*Port, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("vswitch: port %q: %w", name, err)
	}
	p := s.newPort(name)
	p.path, p.listener = path, l
	// The count is raised before the port can be found by Close.
	s.wg.Add(1)
	if err := s.add(p); err != nil {
		s.wg.Done()
		l.Close()
		return nil, err
	}
	go func() {
		defer s.wg.Done()
		p.accept(l)
	}()
	return p, nil
}

func (p *Port) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if !p.isClosed() {
				p.sw.log.Error("port stopped accepting", "port", p.name, "err", err)
			}
			return
		}
		if !p.taken.CompareAndSwap(false, true) {
			p.sw.log.Warn("port is taken, connection refused", "port", p.name)
			conn.Close()
			continue
		}
		p.sw.wg.Go(func() { p.serve(conn) })
	}
}

// serve runs one connection until either side closes it.
func (p *Port) serve(conn net.Conn) {
	p.carrier.Store(true)
	p.sw.log.Debug("plugged in", "port", p.name)
	gone := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-p.done:
		case <-gone:
		}
		conn.Close()
	})
	wg.Go(func() {
		// A host that takes nothing any more may have sent something before
		// it went: that is read to its end, so the connection stays.
		err := p.transmit(conn, gone)
		p.carrier.Store(false)
		p.sw.log.Debug("transmit ended", "port", p.name, "err", err)
	})
	err := p.receive(conn)
	close(gone)
	wg.Wait()

	p.sw.forget(p)
	p.drain()
	p.taken.Store(false)
	switch {
	case errors.Is(err, ErrFrameSize):
		p.sw.log.Error("stream lost its framing", "port", p.name, "err", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		p.sw.log.Warn("unplugged inside a frame", "port", p.name)
	default:
		p.sw.log.Debug("unplugged", "port", p.name, "err", err)
	}
}

func (p *Port) receive(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 64*1024)
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		if p.gate.wait(p.done); p.isClosed() {
			return ErrClosed
		}
		p.sw.ingress(p, f)
	}
}

func (p *Port) transmit(conn net.Conn, gone <-chan struct{}) error {
	w := bufio.NewWriterSize(conn, 64*1024)
	for {
		var f wireFrame
		select {
		case f = <-p.queue:
		case <-gone:
			return nil
		}
		if !p.gate.wait(gone) {
			p.count.noCarrier.Add(1)
			return nil
		}
		if _, err := w.Write(f); err != nil {
			p.count.noCarrier.Add(1)
			return err
		}
		p.delivered(f)
		if len(p.queue) == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// A Local is a port whose host lives in this process.
type Local struct{ *Port }

// Attach adds a port inside the process. With lossless, a sender waits when
// the port's queue is full (Ethernet flow control) where it would otherwise
// lose the frame: a burst that a real host would take at line rate must not be
// lost because this process was not scheduled.
func (s *Switch) Attach(name string, lossless bool) (*Local, error) {
	p := s.newPort(name)
	p.lossless = lossless
	p.carrier.Store(true)
	if err := s.add(p); err != nil {
		return nil, err
	}
	return &Local{p}, nil
}

// ReadFrame returns the next frame for this host, without the frame check
// sequence. The frame is shared with other ports: do not modify it. After
// Close it returns ErrClosed, after a cancellation the context's error.
func (l *Local) ReadFrame(ctx context.Context) ([]byte, error) {
	if !l.gate.wait(ctx.Done()) {
		return nil, ctx.Err()
	}
	select {
	case f := <-l.queue:
		l.delivered(f)
		return f.ethernet(), nil
	case <-l.done:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// WriteFrame sends a frame into the switch. It copies it.
func (l *Local) WriteFrame(eth []byte) error {
	if len(eth) < headerLen || len(eth) > MaxFrame {
		return fmt.Errorf("%w: %d bytes", ErrFrameSize, len(eth))
	}
	if l.gate.wait(l.done); l.isClosed() {
		return ErrClosed
	}
	l.sw.ingress(l.Port, newWireFrame(eth))
	return nil
}
