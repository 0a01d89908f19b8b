// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package vswitch is a learning Ethernet switch in user space.
//
// Its ports are UNIX stream sockets that speak the framing of QEMU's
// "-netdev stream", one socket path for each network card of each virtual
// machine, and ports inside the process for the hosts the test itself plays.
// Nothing in it needs privilege, a tap device or a network namespace.
//
// The switch is a neutral party: it never repairs, delays or repeats a frame.
// A frame it cannot deliver is dropped and counted, by port and by reason, so
// that a test can tell its own losses from those of the machine under test.
// It knows Ethernet and nothing above; who is behind a port, what an IP
// address is, and that machines migrate is none of its business.
package vswitch

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// ErrClosed is returned by operations on a switch or port that was closed.
var ErrClosed = errors.New("vswitch: closed")

// ErrFrameSize reports a frame shorter than an Ethernet header or longer than
// [MaxFrame].
var ErrFrameSize = errors.New("vswitch: frame size out of range")

const (
	headerLen = 14 // destination, source, EtherType

	// maxStations bounds the forwarding table. Sources beyond it are not
	// learned and their traffic is flooded, which is what hardware does too.
	maxStations = 4096
)

// MAC is an Ethernet address in transmission order.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

func (m MAC) group() bool { return m[0]&1 != 0 }

// A Tap observes every frame that enters the switch, once, before any decision
// about it is taken. Observe is called from several goroutines at a time and
// must not keep frame after it returns.
type Tap interface {
	Observe(at time.Time, port string, frame []byte)
}

// A Switch forwards frames between its ports. Make one with [New].
type Switch struct {
	log   *slog.Logger
	taps  []Tap
	queue int

	mu       sync.RWMutex
	ports    []*Port
	stations map[MAC]*Port
	closed   bool

	wg sync.WaitGroup
}

// An Option configures a new switch.
type Option func(*Switch)

// WithLogger makes the switch report connections and protocol errors to l.
func WithLogger(l *slog.Logger) Option { return func(s *Switch) { s.log = l } }

// WithTap adds an observer of all frames.
func WithTap(t Tap) Option { return func(s *Switch) { s.taps = append(s.taps, t) } }

// WithQueue sets how many frames wait at most for one port; 1024 without it.
func WithQueue(frames int) Option { return func(s *Switch) { s.queue = frames } }

// New returns a switch without ports.
func New(opts ...Option) *Switch {
	s := &Switch{
		log:      slog.New(slog.DiscardHandler),
		queue:    1024,
		stations: make(map[MAC]*Port),
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

// Close unplugs every port, removes the socket paths and waits until all of
// the switch's goroutines have ended. It is safe to call it twice.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	ports := slices.Clone(s.ports)
	s.mu.Unlock()
	for _, p := range ports {
		p.Close()
	}
	s.wg.Wait()
	return nil
}

// Ports returns the open ports in the order of their creation.
func (s *Switch) Ports() []*Port {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.ports)
}

// Stations returns a copy of the forwarding table: which port each source
// address was last seen on.
func (s *Switch) Stations() map[MAC]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[MAC]string, len(s.stations))
	for mac, p := range s.stations {
		out[mac] = p.name
	}
	return out
}

func (s *Switch) add(p *Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	for _, q := range s.ports {
		if q.name == p.name {
			return fmt.Errorf("vswitch: port %q exists", p.name)
		}
	}
	s.ports = append(s.ports, p)
	return nil
}

func (s *Switch) remove(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = slices.DeleteFunc(s.ports, func(q *Port) bool { return q == p })
	s.forgetLocked(p)
}

// forget drops what was learned on p: its cable was pulled.
func (s *Switch) forget(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(p)
}

func (s *Switch) forgetLocked(p *Port) {
	maps.DeleteFunc(s.stations, func(_ MAC, q *Port) bool { return q == p })
}

// ingress takes one frame that arrived on port in.
func (s *Switch) ingress(in *Port, f wireFrame) {
	eth := f.ethernet()
	in.count.inFrames.Add(1)
	in.count.inBytes.Add(uint64(len(eth)))
	if len(eth) < headerLen {
		in.count.malformed.Add(1)
		s.log.Warn("runt frame", "port", in.name, "bytes", hex.EncodeToString(eth))
		return
	}
	now := time.Now()
	for _, t := range s.taps {
		t.Observe(now, in.name, eth)
	}
	if in.blackhole.Load() {
		in.count.blackholed.Add(1)
		return
	}
	dst, src := MAC(eth[0:6]), MAC(eth[6:12])
	s.learn(src, in)
	if mac := in.awaited.Load(); mac != nil && *mac == src {
		in.awaited.CompareAndSwap(mac, nil)
	}

	s.mu.RLock()
	out, known := s.stations[dst]
	var flood []*Port
	if dst.group() || !known {
		flood = s.ports
		known = false
	}
	// s.ports is only ever appended to or replaced by DeleteFunc under the
	// write lock, which moves elements in place: iterate over a copy.
	flood = slices.Clone(flood)
	s.mu.RUnlock()

	if known {
		if out != in { // the destination heard it already
			out.egress(f)
		}
		return
	}
	for _, p := range flood {
		if p != in {
			p.egress(f)
		}
	}
}

func (s *Switch) learn(src MAC, in *Port) {
	if src.group() {
		return
	}
	s.mu.RLock()
	p, full := s.stations[src], len(s.stations) >= maxStations
	s.mu.RUnlock()
	if p == in || p == nil && full {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.isClosed() {
		return
	}
	s.stations[src] = in
}
