// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy stands between guest and peer on loopback and can do what a network
// must not.
type proxy struct {
	t       *testing.T
	l       *net.TCPListener
	pc      net.PacketConn
	peerTCP string
	peerUDP net.Addr
	wg      sync.WaitGroup

	mu       sync.Mutex
	guest    *net.TCPConn
	peer     *net.TCPConn
	guestUDP net.Addr
	toPeer   func([]byte) []byte   // alters a piece of the guest's stream
	toGuest  func([]byte) []byte   // alters a piece of the peer's stream
	datagram func([]byte) [][]byte // what becomes of a datagram of the guest
}

// setup starts a peer, a proxy before it and a guest. The result of the
// guest's Run comes on the channel.
func setup(t *testing.T, opts PeerOptions) (*Peer, *proxy, *Guest, chan error) {
	t.Helper()
	listen := func() (*net.TCPListener, net.PacketConn) {
		for range 50 { // TCP and UDP need the same free port
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			pc, err := net.ListenPacket("udp", l.Addr().String())
			if err == nil {
				return l.(*net.TCPListener), pc
			}
			l.Close()
		}
		t.Fatal("no port free for both TCP and UDP")
		return nil, nil
	}
	pl, ppc := listen()
	p := &proxy{t: t, peerTCP: pl.Addr().String(), peerUDP: ppc.LocalAddr()}
	opts.Interval = time.Millisecond
	peer := NewPeer(pl, ppc, opts)
	p.l, p.pc = listen()
	p.wg.Go(p.accept)
	p.wg.Go(p.forwardDatagrams)

	g := &Guest{
		Addr:        p.l.Addr().String(),
		TCPInterval: time.Millisecond, UDPInterval: time.Millisecond,
		ReportInterval: 20 * time.Millisecond,
		Out:            &bytes.Buffer{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		peer.Close()
		p.close()
	})
	go func() { result <- g.Run(ctx) }()
	if err := peer.Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	return peer, p, g, result
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a condition on the peer's view.
func until(t *testing.T, p *Peer, what string, cond func(Snapshot) bool) {
	t.Helper()
	ctx := deadline(t)
	for !cond(p.Snapshot()) {
		select {
		case <-ctx.Done():
			t.Fatalf("no %s: %+v", what, p.Snapshot())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func flowing(s Snapshot) bool {
	return s.FromGuest.Records > 50 && s.ToGuest.Records > 50 && s.UDPOut.Received > 50
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		d, err := net.Dial("tcp", p.peerTCP)
		if err != nil {
			c.Close()
			continue
		}
		g, q := c.(*net.TCPConn), d.(*net.TCPConn)
		p.mu.Lock()
		p.guest, p.peer = g, q
		p.mu.Unlock()
		p.wg.Go(func() { p.pipe(q, g, &p.toPeer) })
		p.wg.Go(func() { p.pipe(g, q, &p.toGuest) })
	}
}

func (p *proxy) pipe(dst, src *net.TCPConn, alter *func([]byte) []byte) {
	buf := make([]byte, 1000) // smaller than most records
	for {
		n, err := src.Read(buf)
		b := buf[:n]
		p.mu.Lock()
		if *alter != nil {
			b = (*alter)(bytes.Clone(b))
		}
		p.mu.Unlock()
		if _, werr := dst.Write(b); werr != nil {
			src.Close()
			return
		}
		if err == io.EOF {
			dst.CloseWrite()
			return
		}
		if err != nil {
			dst.Close()
			return
		}
	}
}

func (p *proxy) forwardDatagrams() {
	buf := make([]byte, 65536)
	for {
		n, from, err := p.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		if from.String() == p.peerUDP.String() {
			to := p.guestUDP
			p.mu.Unlock()
			p.pc.WriteTo(buf[:n], to)
			continue
		}
		p.guestUDP = from
		out := [][]byte{buf[:n]}
		if p.datagram != nil {
			out = p.datagram(bytes.Clone(buf[:n]))
		}
		p.mu.Unlock()
		for _, d := range out {
			p.pc.WriteTo(d, p.peerUDP)
		}
	}
}

// reset makes the kernel send RST to both ends.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []*net.TCPConn{p.guest, p.peer} {
		c.SetLinger(0)
		c.Close()
	}
}

func (p *proxy) close() {
	p.l.Close()
	p.pc.Close()
	p.mu.Lock()
	for _, c := range []*net.TCPConn{p.guest, p.peer} {
		if c != nil {
			c.Close()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// once returns a function that alters the first piece it sees and then passes
// everything, and tells on the channel that it did.
func once(f func([]byte) []byte) (func([]byte) []byte, chan struct{}) {
	done := make(chan struct{})
	hit := false
	return func(b []byte) []byte {
		if hit || len(b) < 100 {
			return b
		}
		hit = true
		close(done)
		return f(b)
	}, done
}

func TestUnharmedRunPasses(t *testing.T) {
	peer, _, g, result := setup(t, PeerOptions{})
	until(t, peer, "flow", flowing)
	v, err := peer.Final(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Err(); err != nil {
		t.Errorf("verdict: %v", err)
	}
	if err := <-result; err != nil {
		t.Errorf("guest: %v", err)
	}
	if !v.Finished || v.FromGuest.Records < 50 || v.ToGuest.Records < 50 ||
		v.UDPOut.Received != v.UDPOut.Sent || v.BytesSent != v.FromGuest.Sent+v.ToGuest.Sent {
		t.Errorf("verdict %+v", v)
	}
	if out := g.Out.(*bytes.Buffer).String(); !strings.Contains(out, "finished in good order") {
		t.Errorf("the guest printed %q", out)
	}
}

func TestHarmIsDetected(t *testing.T) {
	flip := func(b []byte) []byte { b[50] ^= 1; return b }
	drop := func(b []byte) []byte { return b[60:] }
	insert := func(b []byte) []byte { return append([]byte("ghost"), b...) }
	for _, tc := range []struct {
		name  string
		harm  func(p *proxy) (done chan struct{})
		check func(v Verdict) bool
		guest error // what the guest's program must say
	}{
		{"a flipped bit on the way to the peer",
			func(p *proxy) (d chan struct{}) { p.toPeer, d = once(flip); return },
			func(v Verdict) bool { return v.FromGuest.Corrupt > 0 && v.Finished }, nil},
		{"a flipped bit on the way to the guest",
			func(p *proxy) (d chan struct{}) { p.toGuest, d = once(flip); return },
			func(v Verdict) bool { return v.ToGuest.Corrupt > 0 && v.Finished }, ErrDamaged},
		{"bytes dropped on the way to the peer",
			func(p *proxy) (d chan struct{}) { p.toPeer, d = once(drop); return },
			func(v Verdict) bool { return v.FromGuest.Lost == 60 && v.Finished }, nil},
		{"bytes dropped on the way to the guest",
			func(p *proxy) (d chan struct{}) { p.toGuest, d = once(drop); return },
			func(v Verdict) bool { return v.ToGuest.Lost == 60 && v.Finished }, ErrDamaged},
		{"bytes from nowhere",
			func(p *proxy) (d chan struct{}) { p.toPeer, d = once(insert); return },
			func(v Verdict) bool { return v.BytesCorrupt >= 5 && v.Finished }, nil},
		{"a connection reset",
			func(p *proxy) chan struct{} {
				d := make(chan struct{})
				go func() { p.reset(); close(d) }()
				return d
			},
			func(v Verdict) bool { return v.Resets == 1 && !v.Finished }, ErrUnasked},
		{"a connection closed in good manners but unasked",
			func(p *proxy) chan struct{} {
				d := make(chan struct{})
				go func() {
					p.mu.Lock()
					p.peer.CloseWrite()
					p.guest.CloseWrite()
					p.mu.Unlock()
					close(d)
				}()
				return d
			},
			func(v Verdict) bool { return v.Resets == 1 && !v.Finished }, ErrUnasked},
		{"a lost datagram",
			func(p *proxy) chan struct{} {
				n, d := 0, make(chan struct{})
				p.datagram = func(b []byte) [][]byte {
					if n++; n == 5 {
						close(d)
						return nil
					}
					return [][]byte{b}
				}
				return d
			},
			func(v Verdict) bool { return v.UDPOut.Missing == 1 && len(v.UDPOut.MissingRanges) == 1 && v.Finished }, nil},
		{"a corrupt datagram",
			func(p *proxy) chan struct{} {
				n, d := 0, make(chan struct{})
				p.datagram = func(b []byte) [][]byte {
					if n++; n == 5 {
						close(d)
						b[40] ^= 1
					}
					return [][]byte{b}
				}
				return d
			},
			func(v Verdict) bool { return v.UDPOut.Missing == 1 && v.UDPOut.Corrupt == 1 }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			peer, p, _, result := setup(t, PeerOptions{Linger: 50 * time.Millisecond})
			until(t, peer, "flow", flowing)
			p.mu.Lock()
			done := tc.harm(p)
			p.mu.Unlock()
			<-done
			if tc.guest == ErrUnasked {
				until(t, peer, "reset", func(s Snapshot) bool { return s.Resets > 0 })
			}
			v, err := peer.Final(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Err(); !errors.Is(err, ErrHarm) {
				t.Errorf("the verdict passed: %v", err)
			}
			if !tc.check(v) {
				t.Errorf("verdict %+v", v)
			}
			if tc.guest == ErrUnasked {
				return // the guest goes on with its datagrams
			}
			if err := <-result; !errors.Is(err, tc.guest) {
				t.Errorf("guest: %v, want %v", err, tc.guest)
			}
		})
	}
}

func TestDuplicatedAndReorderedDatagramsAreCountedAndNoHarm(t *testing.T) {
	peer, p, _, _ := setup(t, PeerOptions{})
	until(t, peer, "flow", flowing)
	p.mu.Lock()
	n := 0
	var kept []byte
	p.datagram = func(b []byte) [][]byte {
		switch n++; n {
		case 1:
			return [][]byte{b, b}
		case 2:
			kept = b
			return nil
		case 3:
			return [][]byte{b, kept}
		}
		return [][]byte{b}
	}
	p.mu.Unlock()
	until(t, peer, "late datagram", func(s Snapshot) bool { return s.UDPOut.Reordered > 0 })
	v, err := peer.Final(deadline(t))
	if err != nil || v.Err() != nil {
		t.Fatalf("verdict %v, %v", v.Err(), err)
	}
	if v.UDPOut.Duplicated != 1 || v.UDPOut.Reordered != 1 {
		t.Errorf("%d duplicated, %d reordered, want 1 and 1", v.UDPOut.Duplicated, v.UDPOut.Reordered)
	}
}

func TestLostConnectionIsFinalButDatagramsGoOn(t *testing.T) {
	peer, p, _, result := setup(t, PeerOptions{})
	until(t, peer, "flow", flowing)
	p.reset()
	until(t, peer, "reset", func(s Snapshot) bool { return s.Resets == 1 })
	before := peer.Snapshot()
	until(t, peer, "datagrams after the reset", func(s Snapshot) bool {
		return s.UDPOut.Received > before.UDPOut.Received+50
	})
	if s := peer.Snapshot(); s.Connected || s.Reconnects != 0 || s.Resets != 1 {
		t.Errorf("snapshot %+v", s)
	}
	select {
	case err := <-result:
		t.Errorf("the guest ended: %v", err)
	default:
	}
}

func TestSecondConnectionIsRefusedAndFails(t *testing.T) {
	peer, p, _, _ := setup(t, PeerOptions{})
	until(t, peer, "flow", flowing)
	c, err := net.Dial("tcp", p.peerTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("second connection: %v, want EOF", err)
	}
	v, err := peer.Final(deadline(t))
	if err != nil || v.Reconnects != 1 || !errors.Is(v.Err(), ErrHarm) {
		t.Errorf("verdict %+v, %v", v, err)
	}
}

func TestStallIsMeasuredBetweenItsNeighbours(t *testing.T) {
	peer, p, _, _ := setup(t, PeerOptions{})
	until(t, peer, "flow", flowing)
	from := time.Now()
	const hold = 150 * time.Millisecond
	p.mu.Lock() // nothing passes the proxy
	time.Sleep(hold)
	p.mu.Unlock()
	released := time.Now()
	until(t, peer, "flow after the stall", func(s Snapshot) bool { return s.LastRecord.After(released) && s.LastUDP.After(released) })
	s := peer.Stalls(from, released)
	for name, g := range map[string]Gap{"records": s.FromGuest, "round trip": s.RoundTrip, "UDP": s.UDP, "TCP": s.TCP()} {
		if g.Duration() < hold-Resolution {
			t.Errorf("%s: gap of %v, the proxy held everything for %v", name, g.Duration(), hold)
		}
	}
	first, ok := peer.FirstRecordAfter(from.Add(hold / 2))
	if !ok || first != s.FromGuest.To {
		t.Errorf("first record after the middle of the stall at %v, want its end %v", first, s.FromGuest.To)
	}
	if v, err := peer.Final(deadline(t)); err != nil || v.Err() != nil {
		t.Errorf("a stall is no harm: %v, %v", v.Err(), err)
	}
}

func TestEcho(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer := NewPeer(l, pc, PeerOptions{})
	defer peer.Close()
	g := &Guest{Addr: l.Addr().String(), Echo: true, UDPInterval: time.Millisecond, UDPSize: 1200}
	result := make(chan error, 1)
	go func() { result <- g.Run(deadline(t)) }()
	for g.udpEchoed.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	if v, err := peer.Final(deadline(t)); err != nil || v.Err() != nil {
		t.Errorf("verdict %v, %v", v.Err(), err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestFinalWithoutGuest(t *testing.T) {
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	pc, _ := net.ListenPacket("udp", "127.0.0.1:0")
	peer := NewPeer(l, pc, PeerOptions{})
	defer peer.Close()
	if v, err := peer.Final(t.Context()); !errors.Is(err, ErrNoGuest) || v.Err() == nil {
		t.Errorf("Final = %v, %v", v.Err(), err)
	}
}

func TestFinalGivesUpOnASilentGuest(t *testing.T) {
	peer, p, _, _ := setup(t, PeerOptions{})
	until(t, peer, "flow", flowing)
	p.mu.Lock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	v, err := peer.Final(ctx)
	cancel()
	p.mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(v.Err(), ErrHarm) || v.Finished {
		t.Errorf("Final = %+v, %v", v, err)
	}
	if v.Resets != 0 {
		t.Error("giving up was counted as a reset")
	}
}
