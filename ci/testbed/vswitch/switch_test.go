// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vswitch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var (
	macA      = MAC{0x52, 0x54, 0, 0, 0, 0xa}
	macB      = MAC{0x52, 0x54, 0, 0, 0, 0xb}
	broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func ether(dst, src MAC, payload string) []byte {
	f := append(dst[:], src[:]...)
	return append(append(f, 0x88, 0xb5), payload...) // local experimental EtherType
}

func payload(frame []byte) string { return string(frame[headerLen:]) }

func newSwitch(t *testing.T, opts ...Option) *Switch {
	t.Helper()
	s := New(opts...)
	t.Cleanup(func() { s.Close() })
	return s
}

func attach(t *testing.T, s *Switch, name string) *Local {
	t.Helper()
	l, err := s.Attach(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func send(t *testing.T, l *Local, frame []byte) {
	t.Helper()
	if err := l.WriteFrame(frame); err != nil {
		t.Fatal(err)
	}
}

// received takes what is queued for l right now: ports in the process are
// served before WriteFrame returns.
func received(l *Local) []string {
	var got []string
	for {
		select {
		case f := <-l.queue:
			got = append(got, payload(f.ethernet()))
		default:
			return got
		}
	}
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestForwarding(t *testing.T) {
	type step struct {
		from     string
		dst, src MAC
	}
	for _, tc := range []struct {
		name    string
		before  []step
		last    step
		reaches []string
	}{
		{"an unknown destination is flooded, but not back",
			nil, step{"a", macB, macA}, []string{"b", "c"}},
		{"a known destination gets the frame alone",
			[]step{{"b", broadcast, macB}}, step{"a", macB, macA}, []string{"b"}},
		{"broadcast is always flooded",
			[]step{{"b", broadcast, macB}}, step{"a", broadcast, macA}, []string{"b", "c"}},
		{"a group address is never learned as a source",
			[]step{{"b", macA, broadcast}}, step{"a", broadcast, macA}, []string{"b", "c"}},
		{"a station that moved is found at its new port",
			[]step{{"b", broadcast, macB}, {"c", broadcast, macB}}, step{"a", macB, macA}, []string{"c"}},
		{"a frame to a station on its own port goes nowhere",
			[]step{{"a", broadcast, macB}}, step{"a", macB, macA}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSwitch(t)
			ports := map[string]*Local{"a": attach(t, s, "a"), "b": attach(t, s, "b"), "c": attach(t, s, "c")}
			for _, st := range tc.before {
				send(t, ports[st.from], ether(st.dst, st.src, "earlier"))
			}
			for _, p := range ports {
				received(p)
			}
			send(t, ports[tc.last.from], ether(tc.last.dst, tc.last.src, "last"))
			var got []string
			for _, name := range []string{"a", "b", "c"} {
				if n := len(received(ports[name])); n == 1 {
					got = append(got, name)
				} else if n > 1 {
					t.Errorf("port %s got the frame %d times", name, n)
				}
			}
			if !equal(got, tc.reaches) {
				t.Errorf("frame reached %v, want %v", got, tc.reaches)
			}
		})
	}
}

func TestForwardingTableIsBounded(t *testing.T) {
	s := newSwitch(t)
	a := attach(t, s, "a")
	src := macA
	for i := range maxStations + 100 {
		binary.BigEndian.PutUint32(src[2:], uint32(i))
		send(t, a, ether(macB, src, ""))
	}
	if n := len(s.Stations()); n != maxStations {
		t.Errorf("%d stations learned, want %d", n, maxStations)
	}
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	s := newSwitch(t, WithQueue(4))
	a, b := attach(t, s, "a"), attach(t, s, "b")
	for range 10 {
		send(t, a, ether(macB, macA, "x"))
	}
	if got := b.Counters().QueueFull; got != 6 {
		t.Errorf("QueueFull = %d, want 6", got)
	}
	if got := len(received(b)); got != 4 {
		t.Errorf("%d frames arrived, want 4", got)
	}
}

func TestLosslessPortMakesTheSenderWait(t *testing.T) {
	s := newSwitch(t, WithQueue(4))
	a := attach(t, s, "a")
	b, err := s.Attach("b", true)
	if err != nil {
		t.Fatal(err)
	}
	const frames = 1000
	go func() {
		for i := range frames {
			a.WriteFrame(ether(macB, macA, string(rune(i))))
		}
	}()
	for i := range frames {
		f, err := b.ReadFrame(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if payload(f) != string(rune(i)) {
			t.Fatalf("frame %d: got %q", i, payload(f))
		}
	}
	if c := b.Counters(); c.QueueFull != 0 || c.OutFrames != frames {
		t.Errorf("counters = %+v, want %d frames out and none dropped", c, frames)
	}
}

func TestBlackholeDropsBothWaysAndCounts(t *testing.T) {
	s := newSwitch(t)
	a, b := attach(t, s, "a"), attach(t, s, "b")
	b.Blackhole(true)
	send(t, a, ether(broadcast, macA, "to b"))
	send(t, b, ether(broadcast, macB, "from b"))
	if got := append(received(a), received(b)...); got != nil {
		t.Errorf("frames passed the black hole: %q", got)
	}
	if got := b.Counters().Blackholed; got != 2 {
		t.Errorf("Blackholed = %d, want 2", got)
	}
	b.Blackhole(false)
	send(t, a, ether(broadcast, macA, "again"))
	if got := received(b); !equal(got, []string{"again"}) {
		t.Errorf("after the black hole b got %q", got)
	}
}

func TestFrameSizes(t *testing.T) {
	s := newSwitch(t)
	a := attach(t, s, "a")
	for name, tc := range map[string]struct {
		frame []byte
		want  error
	}{
		"a runt is refused":               {make([]byte, headerLen-1), ErrFrameSize},
		"a bare header passes":            {ether(macB, macA, ""), nil},
		"the longest QEMU frame passes":   {make([]byte, MaxFrame), nil},
		"a longer than QEMU's is refused": {make([]byte, MaxFrame+1), ErrFrameSize},
	} {
		t.Run(name, func(t *testing.T) {
			if err := a.WriteFrame(tc.frame); !errors.Is(err, tc.want) {
				t.Errorf("WriteFrame = %v, want %v", err, tc.want)
			}
		})
	}
}

// plug connects to a socket port like QEMU does.
func plug(t *testing.T, s *Switch, name string) (*Port, net.Conn) {
	t.Helper()
	p, err := s.Listen(name, filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return p, connect(t, p)
}

func connect(t *testing.T, p *Port) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", p.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	eventually(t, "carrier", p.Carrier)
	return c
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("no %s", what)
}

func TestSocketPortSpeaksQEMUStream(t *testing.T) {
	s := newSwitch(t)
	a := attach(t, s, "a")
	_, qemu := plug(t, s, "q")

	// Two frames in one write and one frame in two: a stream has no edges.
	f := newWireFrame(ether(macA, macB, "hello"))
	raw := append(append([]byte{}, f...), f...)
	raw = append(raw, f...)
	cut := len(f)*2 + 3
	if _, err := qemu.Write(raw[:cut]); err != nil {
		t.Fatal(err)
	}
	if _, err := qemu.Write(raw[cut:]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got, err := a.ReadFrame(t.Context())
		if err != nil || payload(got) != "hello" {
			t.Fatalf("ReadFrame = %q, %v", got, err)
		}
	}
	send(t, a, ether(macB, macA, "back"))
	got, err := readFrame(qemu)
	if err != nil || payload(got.ethernet()) != "back" {
		t.Fatalf("QEMU read %q, %v", got, err)
	}
}

func TestUnpluggedPort(t *testing.T) {
	s := newSwitch(t)
	a := attach(t, s, "a")
	p, qemu := plug(t, s, "q")
	qemu.Write(newWireFrame(ether(broadcast, macB, "learn me")))
	eventually(t, "learned station", func() bool { return s.Stations()[macB] == "q" })

	qemu.Close()
	eventually(t, "loss of carrier", func() bool { return !p.Carrier() })
	eventually(t, "forgotten station", func() bool { return s.Stations()[macB] == "" })
	send(t, a, ether(macB, macA, "into the void"))
	if c := p.Counters(); c.NoCarrier != 1 {
		t.Errorf("NoCarrier = %d, want 1", c.NoCarrier)
	}

	eventually(t, "free socket", func() bool { return !p.taken.Load() })
	again := connect(t, p)
	send(t, a, ether(broadcast, macA, "welcome back"))
	f, err := readFrame(again)
	if err != nil || payload(f.ethernet()) != "welcome back" {
		t.Fatalf("after the second connection: %q, %v", f, err)
	}
}

// A host that ends right after it sent, as the source of a migration does, has
// sent: that the switch cannot deliver to it any more changes nothing.
func TestLastFramesOfAHostArrive(t *testing.T) {
	const last = 50
	s := newSwitch(t)
	a := attach(t, s, "a")
	for range 20 {
		p, qemu := plug(t, s, "q")
		p.Pause()
		for range last {
			send(t, a, ether(macB, macA, "undeliverable"))
			qemu.Write(newWireFrame(ether(macA, macB, "last words")))
		}
		qemu.Close()
		p.Resume()
		for i := range last {
			if _, err := a.ReadFrame(t.Context()); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
		}
		eventually(t, "loss of carrier", func() bool { return !p.taken.Load() })
		p.Close()
	}
}

func TestSecondConnectionIsRefused(t *testing.T) {
	s := newSwitch(t)
	p, _ := plug(t, s, "q")
	second, err := net.Dial("unix", p.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read on the second connection: %v, want EOF", err)
	}
	if !p.Carrier() {
		t.Error("the first connection was lost")
	}
}

func TestLostFramingClosesTheConnection(t *testing.T) {
	s := newSwitch(t)
	p, qemu := plug(t, s, "q")
	qemu.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if _, err := qemu.Read(make([]byte, 1)); err == nil {
		t.Error("the connection stayed open after a length of 4 GiB")
	}
	eventually(t, "loss of carrier", func() bool { return !p.Carrier() })
}

func TestPauseKeepsOrder(t *testing.T) {
	s := newSwitch(t)
	a := attach(t, s, "a")
	p, qemu := plug(t, s, "q")
	p.Pause()
	for _, m := range []string{"1", "2", "3"} {
		send(t, a, ether(macB, macA, m))
	}
	qemu.Write(newWireFrame(ether(macA, macB, "from the paused host")))
	if out := p.Counters().OutFrames; out != 0 {
		t.Errorf("%d frames left a paused port", out)
	}
	p.Resume()
	for _, want := range []string{"1", "2", "3"} {
		f, err := readFrame(qemu)
		if err != nil || payload(f.ethernet()) != want {
			t.Fatalf("read %q, %v, want %q", f, err, want)
		}
	}
	f, err := a.ReadFrame(t.Context())
	if err != nil || payload(f) != "from the paused host" {
		t.Errorf("ReadFrame = %q, %v", f, err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	s := New()
	a := attach(t, s, "a")
	p, qemu := plug(t, s, "q")
	p.Pause()
	qemu.Write(newWireFrame(ether(macA, macB, "stuck behind the pause")))

	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := a.ReadFrame(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("ReadFrame = %v, want ErrClosed", err)
		}
	})
	s.Close() // returns only when the switch's goroutines have ended
	wg.Wait()
	if err := a.WriteFrame(ether(macB, macA, "")); !errors.Is(err, ErrClosed) {
		t.Errorf("WriteFrame = %v, want ErrClosed", err)
	}
	if _, err := s.Attach("late", false); !errors.Is(err, ErrClosed) {
		t.Errorf("Attach = %v, want ErrClosed", err)
	}
	if _, err := net.Dial("unix", p.Path()); err == nil {
		t.Error("the socket path still answers")
	}
}

func TestNothingIsKeptForAHostThatIsAwaited(t *testing.T) {
	s := newSwitch(t)
	a, b := attach(t, s, "a"), attach(t, s, "b")
	b.Await(macB)
	other := macB
	other[5]++
	send(t, b, ether(broadcast, other, "not yet"))
	send(t, a, ether(broadcast, macA, "lost"))
	send(t, b, ether(broadcast, macB, "here"))
	send(t, a, ether(broadcast, macA, "delivered"))
	if got := received(b); !equal(got, []string{"delivered"}) {
		t.Errorf("it was given %q", got)
	}
	if got := b.Counters().Blackholed; got != 1 {
		t.Errorf("Blackholed = %d, want 1", got)
	}
}

type tapFunc func(port string, frame []byte)

func (f tapFunc) Observe(_ time.Time, port string, frame []byte) { f(port, frame) }

func TestTapSeesEveryFrameOnceBeforeItsFate(t *testing.T) {
	var seen []string
	s := newSwitch(t, WithTap(tapFunc(func(port string, f []byte) {
		seen = append(seen, port+":"+payload(f))
	})))
	a, b := attach(t, s, "a"), attach(t, s, "b")
	attach(t, s, "c")
	send(t, a, ether(broadcast, macA, "flooded"))
	b.Blackhole(true)
	send(t, b, ether(broadcast, macB, "blackholed"))
	if want := []string{"a:flooded", "b:blackholed"}; !equal(seen, want) {
		t.Errorf("tap saw %q, want %q", seen, want)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 2, 'a'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte(newWireFrame(ether(broadcast, macA, "hello"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			before := r.Len()
			frame, err := readFrame(r)
			if err != nil {
				if err == io.EOF && before != 0 {
					t.Fatalf("EOF with %d bytes unread", before)
				}
				return
			}
			used := b[len(b)-before : len(b)-r.Len()]
			if !bytes.Equal(frame, used) {
				t.Fatalf("frame %x from bytes %x", frame, used)
			}
		}
	})
}
