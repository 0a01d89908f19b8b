// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/ci/witness/internal/wire"
)

// PeerOptions configures a peer; the zero value is ready to use.
type PeerOptions struct {
	Interval time.Duration // from one record to the next; 10 ms if 0
	Linger   time.Duration // how long Final waits for datagrams on their way; 2 s if 0
	Logger   *slog.Logger
}

// A Peer is the witness outside the guest.
type Peer struct {
	opts PeerOptions
	log  *slog.Logger
	l    net.Listener
	pc   net.PacketConn

	connected chan struct{} // closed at the first connection
	stop      chan struct{} // closed by Final: no more data records
	readDone  chan struct{} // closed when the guest's stream has ended
	dataDone  chan struct{} // closed when the last data record was sent
	stopOnce  sync.Once

	records, acks, datagrams gapLog

	mu         sync.Mutex
	conn       net.Conn
	send       *sender
	recv       *receiver
	ack        uint64
	told       wire.Counters // newest counters of the guest
	final      bool          // told is the last word
	asked      bool          // the guest was asked to finish
	resets     int
	reconnects int
	closing    bool
	cut        bool // Final ran out of time and hung up itself

	udpMu       sync.Mutex
	session     uint64
	haveSession bool
	seen        window
	udpCorrupt  uint64
	udpForeign  uint64

	wg sync.WaitGroup
}

// NewPeer starts a peer that takes the first connection of l and the datagrams
// of pc. Both belong to it from now on.
func NewPeer(l net.Listener, pc net.PacketConn, opts PeerOptions) *Peer {
	if opts.Interval == 0 {
		opts.Interval = 10 * time.Millisecond
	}
	if opts.Linger == 0 {
		opts.Linger = 2 * time.Second
	}
	p := &Peer{
		opts: opts, log: opts.Logger, l: l, pc: pc,
		connected: make(chan struct{}),
		stop:      make(chan struct{}),
		readDone:  make(chan struct{}),
		dataDone:  make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.wg.Go(p.accept)
	p.wg.Go(p.receiveDatagrams)
	return p
}

// Close ends the peer. A connection that was not finished by Final is cut.
func (p *Peer) Close() error {
	p.mu.Lock()
	p.closing = true
	conn := p.conn
	p.mu.Unlock()
	p.halt()
	err := errors.Join(p.l.Close(), p.pc.Close())
	if conn != nil {
		hangUp(conn)
	}
	p.wg.Wait()
	return err
}

func (p *Peer) halt() { p.stopOnce.Do(func() { close(p.stop) }) }

// hangUp wakes whoever waits on c, which Close alone does not do for every
// implementation of net.Conn, and closes it.
func hangUp(c net.Conn) {
	c.SetDeadline(time.Unix(1, 0))
	c.Close()
}

// Wait blocks until the guest has connected.
func (p *Peer) Wait(ctx context.Context) error {
	select {
	case <-p.connected:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("witness: no connection from the guest: %w", context.Cause(ctx))
	}
}

func (p *Peer) accept() {
	for {
		conn, err := p.l.Accept()
		if err != nil {
			p.mu.Lock()
			closing := p.closing
			p.mu.Unlock()
			if !closing {
				p.log.Error("witness peer stopped accepting", "err", err)
			}
			return
		}
		p.mu.Lock()
		if p.conn != nil || p.closing {
			if !p.closing {
				p.reconnects++
			}
			p.mu.Unlock()
			p.log.Warn("witness: another connection from the guest refused", "from", conn.RemoteAddr())
			conn.Close()
			continue
		}
		p.conn = conn
		p.send = &sender{dir: wire.PeerToGuest, w: conn}
		p.recv = newReceiver(conn, wire.GuestToPeer)
		p.mu.Unlock()
		p.log.Info("witness connected", "guest", conn.RemoteAddr())
		close(p.connected)
		p.wg.Go(p.sendRecords)
		p.wg.Go(p.receiveRecords)
	}
}

func (p *Peer) sendRecords() {
	defer close(p.dataDone)
	pace := time.NewTicker(p.opts.Interval)
	defer pace.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-p.readDone:
			return
		case <-pace.C:
			if err := p.send.data(p.recv.tally().Records); err != nil {
				p.lost("send", err)
				return
			}
		}
	}
}

func (p *Peer) receiveRecords() {
	defer close(p.readDone)
	for {
		h, payload, err := p.recv.next()
		if err != nil {
			p.mu.Lock()
			orderly := err == io.EOF && p.final
			p.mu.Unlock()
			if !orderly {
				p.lost("receive", err)
			}
			return
		}
		now := time.Now()
		p.records.mark(now)
		p.heard(h, payload, now)
	}
}

// heard takes in what a record says beside being there.
func (p *Peer) heard(h wire.Header, payload []byte, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.Ack > p.ack {
		p.ack = h.Ack
		p.acks.mark(now)
	}
	if h.Kind != wire.Report && h.Kind != wire.Final {
		return
	}
	c, err := wire.ParseCounters(payload)
	if err != nil {
		p.log.Error("witness: guest's counters", "err", err)
		return
	}
	p.told = c
	p.final = p.final || h.Kind == wire.Final && p.asked
}

// lost records the end of the connection, once.
func (p *Peer) lost(op string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || p.cut || p.resets > 0 {
		return
	}
	p.resets++
	p.log.Error("witness: connection lost", "in", op, "err", unasked(op, err))
	hangUp(p.conn)
}

func (p *Peer) receiveDatagrams() {
	buf := make([]byte, wire.MaxDatagram+1)
	reply := make([]byte, 0, wire.MaxDatagram)
	for {
		n, from, err := p.pc.ReadFrom(buf)
		if err != nil {
			p.mu.Lock()
			closing := p.closing
			p.mu.Unlock()
			if closing || errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Warn("witness: UDP receive", "err", err)
			select {
			case <-p.stop:
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		now := time.Now()
		d, ok := p.countDatagram(buf[:n])
		if !ok {
			continue
		}
		p.datagrams.mark(now)
		if d.Flags&wire.FlagEcho != 0 {
			d.Flags = wire.FlagReply
			reply = wire.AppendDatagram(reply[:0], d, n)
			p.pc.WriteTo(reply, from) // an echo that is lost is lost
		}
	}
}

func (p *Peer) countDatagram(b []byte) (wire.Datagram, bool) {
	d, err := wire.ParseDatagram(b)
	p.udpMu.Lock()
	defer p.udpMu.Unlock()
	if err != nil {
		p.udpCorrupt++
		return d, false
	}
	if !p.haveSession {
		p.session, p.haveSession = d.Session, true
	}
	if d.Session != p.session {
		p.udpForeign++
		return d, false
	}
	p.seen.add(d.Seq)
	return d, true
}

// Snapshot returns the state of the run.
func (p *Peer) Snapshot() Snapshot {
	s := Snapshot{Verdict: p.verdict()}
	p.mu.Lock()
	if p.conn != nil {
		s.Connected = p.resets == 0 && !p.final
		// A connection that was cut may have forgotten its address.
		if a := p.conn.RemoteAddr(); a != nil {
			s.Guest = a.String()
		}
	}
	p.mu.Unlock()
	s.LastRecord, _ = p.records.stats()
	s.LastUDP, _ = p.datagrams.stats()
	return s
}

// Stalls returns the longest pauses that overlap the time from, to.
func (p *Peer) Stalls(from, to time.Time) Stalls {
	now := time.Now()
	return Stalls{
		FromGuest: p.records.longest(from, to, now),
		RoundTrip: p.acks.longest(from, to, now),
		UDP:       p.datagrams.longest(from, to, now),
	}
}

// FirstRecordAfter returns when the first record of the guest arrived after t:
// exactly, if the stream paused at t for Resolution or more, else to within
// Resolution. It is false if there has been none.
func (p *Peer) FirstRecordAfter(t time.Time) (time.Time, bool) { return p.records.after(t) }

// FirstAckAfter is FirstRecordAfter for confirmations by the guest that records
// of the peer have arrived there.
func (p *Peer) FirstAckAfter(t time.Time) (time.Time, bool) { return p.acks.after(t) }

// FirstDatagramAfter is FirstRecordAfter for datagrams.
func (p *Peer) FirstDatagramAfter(t time.Time) (time.Time, bool) { return p.datagrams.after(t) }

// ErrNoGuest says that the guest never connected.
var ErrNoGuest = errors.New("witness: the guest never connected")

// Final asks the guest to finish, waits until it has and until the datagrams
// on their way have arrived, and returns the verdict. The error says that the
// guest could not be asked or did not finish before ctx ended; the verdict is
// as good as can be had then, and not a good one.
func (p *Peer) Final(ctx context.Context) (Verdict, error) {
	select {
	case <-p.connected:
	default:
		return p.verdict(), ErrNoGuest
	}
	if err := p.finish(ctx); err != nil {
		return p.verdict(), fmt.Errorf("witness: guest did not finish: %w", err)
	}
	linger := time.NewTimer(p.opts.Linger)
	defer linger.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		v := p.verdict()
		if v.UDPOut.Missing == 0 {
			return v, nil
		}
		select {
		case <-poll.C:
		case <-linger.C:
			return p.verdict(), nil
		case <-ctx.Done():
			return p.verdict(), nil
		}
	}
}

func (p *Peer) finish(ctx context.Context) error {
	// A write may block for as long as the guest is away.
	unhook := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		p.cut = true
		p.mu.Unlock()
		hangUp(p.conn)
	})
	defer unhook()
	p.halt()
	<-p.dataDone
	p.mu.Lock()
	again := p.asked
	p.asked = true
	broken := p.resets > 0
	p.mu.Unlock()
	if broken {
		return nil // the verdict says so
	}
	if !again {
		if err := p.send.control(wire.Stop, p.recv.tally().Records, nil); err != nil {
			p.lost("send", err)
			return ctx.Err()
		}
		if c, ok := p.conn.(interface{ CloseWrite() error }); ok {
			if err := c.CloseWrite(); err != nil {
				p.lost("send", err)
			}
		}
	}
	<-p.readDone
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.conn.Close()
	return nil
}

// verdict sums up what is known now.
func (p *Peer) verdict() Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := Verdict{Resets: p.resets, Reconnects: p.reconnects, Finished: p.final && p.resets == 0}
	if p.conn != nil {
		in := p.recv.tally()
		_, out := p.send.progress()
		// The guest counts the record that carries its counters only later:
		// what was received was sent.
		sent := max(p.told.TCPSent, in.Next)
		_, gapIn := p.records.stats()
		v.FromGuest = Direction{
			Records: int64(in.Records), Sent: int64(sent),
			Lost: int64(in.Lost + sent - in.Next), Corrupt: int64(in.Corrupt), LongestGap: gapIn,
		}
		// Sent is read before told was received: it can only be behind.
		out = max(out, p.told.Bytes)
		v.ToGuest = Direction{
			Records: int64(p.told.Records), Sent: int64(out),
			Lost: int64(p.told.Lost + out - p.told.Bytes), Corrupt: int64(p.told.Corrupt),
			LongestGap: time.Duration(p.told.MaxGap),
		}
		v.BytesSent = v.FromGuest.Sent + v.ToGuest.Sent
		v.BytesLost = v.FromGuest.Lost + v.ToGuest.Lost
		v.BytesCorrupt = v.FromGuest.Corrupt + v.ToGuest.Corrupt
	}
	p.udpMu.Lock()
	defer p.udpMu.Unlock()
	sent := max(p.told.UDPSent, p.seen.next)
	v.UDPOut = UDPOut{
		Sent: int64(sent), Failed: int64(p.told.UDPFailed),
		Received: int64(p.seen.unique), Missing: int64(sent - p.seen.unique),
		Duplicated: int64(p.seen.duplicated), Reordered: int64(p.seen.reordered),
		Corrupt: int64(p.udpCorrupt), Stale: int64(p.seen.stale), Foreign: int64(p.udpForeign),
		MissingRanges: p.seen.absent(sent), SlowestSend: time.Duration(p.told.UDPSlow),
	}
	return v
}
