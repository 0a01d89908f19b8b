// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

// These tests run as root in a guest with three NICs on one hub: an e1000, whose
// driver they kill, an RTL8139, which they send on afterwards, and a virtio-net, where
// they look at what arrives. Modules: e1000, virtio_net, 8139cp, bonding, tun,
// sch_plug, macvlan, 8021q.
package hold_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
)

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// nic returns the interface a driver serves, up and without a master.
func nic(t *testing.T, driver string) netlink.Link {
	t.Helper()
	dirs, _ := filepath.Glob("/sys/class/net/*/device/driver")
	for _, d := range dirs {
		if to, err := os.Readlink(d); err != nil || filepath.Base(to) != driver {
			continue
		}
		l, err := netlink.LinkByName(filepath.Base(filepath.Dir(filepath.Dir(d))))
		if err != nil {
			t.Fatal(err)
		}
		quietIPv6(t, l, true)
		linkUp(t, l)
		return l
	}
	t.Fatalf("no interface with driver %s", driver)
	return nil
}

// quietIPv6 keeps an interface from sending anything of its own.
func quietIPv6(t *testing.T, l netlink.Link, quiet bool) {
	t.Helper()
	value := []byte("0")
	if quiet {
		value = []byte("1")
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+l.Attrs().Name+"/disable_ipv6", value, 0); err != nil {
		t.Fatal(err)
	}
}

func linkUp(t *testing.T, l netlink.Link) {
	t.Helper()
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatalf("set %s up: %v", l.Attrs().Name, err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		now, err := netlink.LinkByIndex(l.Attrs().Index)
		if err != nil {
			t.Fatal(err)
		}
		if now.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return
		}
	}
	t.Fatalf("%s has no carrier", l.Attrs().Name)
}

func linkDown(t *testing.T, l netlink.Link) {
	t.Helper()
	if err := netlink.LinkSetDown(l); err != nil {
		t.Fatalf("set %s down: %v", l.Attrs().Name, err)
	}
}

// kill takes away a NIC's access to memory, as its absence would: it fetches no
// descriptor any more, and none is ever completed. It is undone at the test's end.
func kill(t *testing.T, l netlink.Link) {
	t.Helper()
	path := filepath.Join("/sys/class/net", l.Attrs().Name, "device/config")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	const command, busMaster = 4, 1 << 2
	var b [2]byte
	if _, err := f.ReadAt(b[:], command); err != nil {
		t.Fatal(err)
	}
	set := func(v byte) {
		if _, err := f.WriteAt([]byte{v, b[1]}, command); err != nil {
			t.Error(err)
		}
	}
	set(b[0] &^ busMaster)
	t.Cleanup(func() {
		linkDown(t, l)
		set(b[0])
		f.Close()
	})
}

// numberedFrame is a UDP datagram over IPv4 to nobody that carries its number, in its
// identification too, as a socket's datagrams do.
func numberedFrame(n, size int) []byte {
	b := make([]byte, size)
	copy(b, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00})
	copy(b[14:], []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 9, 0, 9})
	binary.BigEndian.PutUint16(b[16:], uint16(size-14))
	binary.BigEndian.PutUint16(b[18:], uint16(n+1))
	binary.BigEndian.PutUint16(b[38:], uint16(size-34))
	binary.BigEndian.PutUint32(b[42:], uint32(n))
	for i := 46; i < size; i++ {
		b[i] = byte(n + i)
	}
	return b
}

// number is the inverse of numberedFrame.
func number(t *testing.T, b []byte) int {
	t.Helper()
	if len(b) < 46 {
		t.Fatalf("frame of %d bytes: % x", len(b), b)
	}
	n := int(binary.BigEndian.Uint32(b[42:]))
	if !bytes.Equal(b, numberedFrame(n, len(b))) {
		t.Fatalf("not a frame of this test's: % x", b)
	}
	return n
}

// transmit sends the frames from to to-1 as an application does, through the
// interface's queue.
func transmit(t *testing.T, ifindex, from, to, size int) {
	t.Helper()
	fd := applicationSocket(t)
	defer unix.Close(fd)
	for n := from; n < to; n++ {
		if err := unix.Sendto(fd, numberedFrame(n, size), 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
			t.Fatalf("send frame %d: %v", n, err)
		}
	}
}

func applicationSocket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20); err != nil {
		t.Fatal(err)
	}
	return fd
}

// send puts frames on an interface by a Sender and fails the test unless all were accepted.
func send(t *testing.T, ifindex int, frames []frame.Frame) {
	t.Helper()
	s, err := hold.NewSender(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	res, err := s.Send(testContext(t), frames)
	if err != nil || res.Frames != len(frames) || res.Failed != 0 {
		t.Fatalf("send %d frames: %+v, %v", len(frames), res, err)
	}
}

// capture opens a packet socket for frames of a type on an interface.
func capture(t *testing.T, ifindex int, proto uint16) *os.File {
	t.Helper()
	be := proto<<8 | proto>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "capture")
	t.Cleanup(func() { f.Close() })
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: be}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// receive reads n frames.
func receive(t *testing.T, f *os.File, n int) [][]byte {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(20 * time.Second))
	var got [][]byte
	buf := make([]byte, 1<<16)
	for len(got) < n {
		k, err := f.Read(buf)
		if err != nil {
			t.Fatalf("received %d of %d frames: %v", len(got), n, err)
		}
		got = append(got, bytes.Clone(buf[:k]))
	}
	return got
}

// quiet fails the test if a frame arrives after a marker sent now had to.
func quiet(t *testing.T, f *os.File) {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	buf := make([]byte, 1<<16)
	if n, err := f.Read(buf); err == nil {
		t.Errorf("unexpected frame % x", buf[:min(n, 32)])
	}
}

// wantNumbers fails the test unless got are the frames from a number on, in order.
func wantNumbers(t *testing.T, got [][]byte, from int) {
	t.Helper()
	for i, b := range got {
		if n := number(t, b); n != from+i {
			t.Fatalf("frame %d arrived in the place of %d", n, from+i)
		}
	}
}

// wantHarvested fails the test unless the frames are those from a number on, in order.
func wantHarvested(t *testing.T, frames []frame.Frame, from int) {
	t.Helper()
	for i, f := range frames {
		if n := number(t, f.Data); n != from+i {
			t.Fatalf("frame %d harvested in the place of %d", n, from+i)
		}
	}
}

// wantEach receives until each of the frames from to to-1 has arrived, and fails the test
// unless each did once. The order is not looked at: QEMU lets a frame overtake those
// that wait for a receiver (qemu_net_queue_send(), net/queue.c).
func wantEach(t *testing.T, c *os.File, from, to int) {
	t.Helper()
	times := make([]int, to-from)
	for arrived := 0; arrived < len(times); {
		k := number(t, receive(t, c, 1)[0]) - from
		if k < 0 || k >= len(times) {
			t.Fatalf("frame %d arrived, want %d to %d", from+k, from, to-1)
		}
		if times[k]++; times[k] == 1 {
			arrived++
		}
	}
	quiet(t, c)
	for k, times := range times {
		if times != 1 {
			t.Errorf("frame %d arrived %d times", from+k, times)
		}
	}
}

// wantAscending fails the test unless the frames that an interface's queue gave to its
// driver, captured by c, are in order. A Sender's are not among them.
func wantAscending(t *testing.T, c *os.File) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	buf := make([]byte, 1<<16)
	count := 0
	for last := -1; ; count++ {
		n, err := c.Read(buf)
		if err != nil {
			break
		}
		k := number(t, buf[:n])
		if k <= last {
			t.Errorf("frame %d was sent after %d", k, last)
		}
		last = k
	}
	if count == 0 {
		t.Error("no frames captured on their way out")
	}
}

func newHarvester(t *testing.T) *harvest.Harvester {
	t.Helper()
	start := time.Now()
	h, err := harvest.New(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("programs loaded in %v", time.Since(start))
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func arm(t *testing.T, h *harvest.Harvester, target harvest.Target) {
	t.Helper()
	start := time.Now()
	if err := h.Arm(testContext(t), target); err != nil {
		t.Fatal(err)
	}
	t.Logf("armed in %v", time.Since(start))
}

func disarm(t *testing.T, h *harvest.Harvester) {
	t.Helper()
	start := time.Now()
	if err := h.Disarm(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("disarmed in %v", time.Since(start))
	c, err := h.Counters()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("counters %+v", c)
	if c.Seen != c.Taken+c.Failed+c.Lost {
		t.Errorf("counters do not add up: %+v", c)
	}
	if c.Failed != 0 || c.Lost != 0 {
		t.Errorf("frames given up: %+v", c)
	}
}

func TestGuestHarvestRing(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newHarvester(t)

	// Sent while the device lives, so the ring wraps in what follows.
	const size, sent = 100, 200
	transmit(t, dying.Attrs().Index, 0, sent, size)
	wantNumbers(t, receive(t, c, sent), 0)

	kill(t, dying)
	const want = 150
	transmit(t, dying.Attrs().Index, sent, sent+want, size)
	quiet(t, c)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index})
	linkDown(t, dying)
	disarm(t, h)
	frames := h.Take()
	if len(frames) != want {
		t.Errorf("harvested %d frames, want %d", len(frames), want)
	}
	wantHarvested(t, frames, sent)
	send(t, living.Attrs().Index, frames)
	wantEach(t, c, sent, sent+want)
}

func TestGuestHarvestQueue(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newHarvester(t)
	kill(t, dying)
	// More than the ring's 256 descriptors: the rest is in the queue above.
	const size, want = 64, 600
	transmit(t, dying.Attrs().Index, 0, want, size)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index})
	linkDown(t, dying)
	disarm(t, h)
	frames := h.Take()
	if len(frames) != want {
		t.Errorf("harvested %d frames, want %d", len(frames), want)
	}
	wantHarvested(t, frames, 0)
	send(t, living.Attrs().Index, frames)
	wantEach(t, c, 0, want)
}

func TestGuestHarvestLeavesReceivedAlone(t *testing.T) {
	dying, living := nic(t, "e1000"), nic(t, "8139cp")
	tap := capture(t, dying.Attrs().Index, unix.ETH_P_ALL)
	h := newHarvester(t)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index, Alive: true})
	const n = 50
	transmit(t, living.Attrs().Index, 0, n, 100)  // received
	transmit(t, dying.Attrs().Index, n, 2*n, 100) // sent and completed
	receive(t, tap, 2*n)
	linkDown(t, dying)
	disarm(t, h)
	if frames := h.Take(); len(frames) != 0 {
		t.Errorf("harvested %d frames of a device that had sent all", len(frames))
	}
}

// TestGuestHarvestTCP proves that a receiver accepts TCP segments harvested from a
// driver that segments in hardware, and re-sent on a device that does not.
func TestGuestHarvestTCP(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	h := newHarvester(t)
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, tt := range []struct {
		name, local, peer string
		queued            bool
	}{
		{"IPv4 in the ring", "10.99.0.1/24", "10.99.0.2/24", false},
		// An e1000 does not segment IPv6: its frames are whole only in the queue above.
		{"IPv6 in the queue", "fd99::1/64", "fd99::2/64", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			quietIPv6(t, dying, false)
			linkUp(t, dying)
			ns := newNamespace(t, seen)
			ns.do(t, func() { address(t, seen.Attrs().Name, tt.peer) })
			address(t, dying.Attrs().Name, tt.local)
			defer quietIPv6(t, dying, true)
			defer flush(t, dying)

			host := net.ParseIP(tt.peer[:len(tt.peer)-3]).String()
			var ln net.Listener
			ns.do(t, func() {
				var err error
				if ln, err = net.Listen("tcp", net.JoinHostPort(host, "7777")); err != nil {
					t.Fatal(err)
				}
			})
			defer ln.Close()
			conn, err := net.DialTimeout("tcp", ln.Addr().String(), 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.(*net.TCPConn).SetLinger(0)
			peer, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()

			// Open the congestion window while the device lives.
			data := make([]byte, 1<<20)
			for i := range data {
				data[i] = byte(i * 7)
			}
			const warm = 256 << 10
			go conn.Write(data[:warm])
			got := make([]byte, warm)
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, data[:warm]) {
				t.Fatalf("before: %v", err)
			}
			kill(t, dying)
			if tt.queued {
				if err := p.Hold(testContext(t), dying.Attrs().Index, 16<<20); err != nil {
					t.Fatal(err)
				}
				defer p.Release(testContext(t), dying.Attrs().Index, 0)
			}
			conn.(*net.TCPConn).SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			conn.Write(data[warm:])

			before, err := h.Counters()
			if err != nil {
				t.Fatal(err)
			}
			arm(t, h, harvest.Target{Device: dying.Attrs().Index})
			linkDown(t, dying) // what arrives from now on was re-sent by us
			disarm(t, h)
			frames := h.Take()
			payload := 0
			for _, f := range frames {
				if len(f.Data) > 14+1500 {
					t.Fatalf("harvested frame of %d bytes was not segmented", len(f.Data))
				}
				payload += tcpPayload(f.Data)
			}
			send(t, living.Attrs().Index, frames)
			got = make([]byte, payload)
			peer.SetReadDeadline(time.Now().Add(20 * time.Second))
			if n, err := io.ReadFull(peer, got); err != nil {
				t.Fatalf("peer read %d of %d bytes in %d frames: %v", n, payload, len(frames), err)
			}
			if !bytes.Equal(got, data[warm:warm+payload]) {
				t.Error("peer read other bytes than were sent")
			}
			c, err := h.Counters()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d socket buffers harvested so far, %d frames now, %d bytes of payload", c.Taken, len(frames), payload)
			if whole := c.Taken - before.Taken; uint64(len(frames)) <= whole {
				t.Errorf("%d socket buffers became %d frames: none was to be segmented", whole, len(frames))
			}
		})
	}
}

// tcpPayload returns the bytes of payload in a frame.
func tcpPayload(b []byte) int {
	ip, n, proto := 14+20, int(binary.BigEndian.Uint16(b[16:]))-20, b[23]
	if b[14]>>4 == 6 {
		ip, n, proto = 14+40, int(binary.BigEndian.Uint16(b[18:])), b[20]
	}
	if proto != unix.IPPROTO_TCP {
		return 0
	}
	return n - int(b[ip+12]>>4)*4
}

// TestGuestPlug holds frames on a bond whose port is dead and releases them to
// another, while a sender goes on without pause.
func TestGuestPlug(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newHarvester(t)
	bond, tap := newBond(t, dying)
	defer tap.Close()
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx := testContext(t)

	if _, err := p.Stats(ctx, bond.Attrs().Index); !errors.Is(err, hold.ErrNotPlugged) {
		t.Errorf("stats before: %v, want ErrNotPlugged", err)
	}
	before := rootQdisc(t, bond)

	const size = 120
	count := sendUntilStopped(t, bond.Attrs().Index, size)
	time.Sleep(50 * time.Millisecond)
	kill(t, dying)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index, Proxy: bond.Attrs().Index})
	if err := p.Hold(ctx, bond.Attrs().Index, 16<<20); err != nil {
		t.Fatal(err)
	}
	setActive(t, bond, "tap-test")
	linkDown(t, dying)
	if err := netlink.LinkSetNoMaster(dying); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if st, err := p.Stats(ctx, bond.Attrs().Index); err != nil || st.Frames == 0 {
		t.Errorf("while held: %+v, %v", st, err)
	}
	linkDown(t, living)
	if err := netlink.LinkSetMaster(living, bond); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkSetNoMaster(living)
	linkUp(t, living)
	if err := h.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	harvested := h.Take()
	send(t, living.Attrs().Index, harvested)
	setActive(t, bond, living.Attrs().Name)
	out := capture(t, living.Attrs().Index, unix.ETH_P_ALL)
	res, err := p.Release(ctx, bond.Attrs().Index, living.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	disarm(t, h)
	tail := h.Take()
	send(t, living.Attrs().Index, tail)
	time.Sleep(50 * time.Millisecond)
	n := count()
	t.Logf("harvested %d, released %+v, after %d, sent %d", len(harvested), res, len(tail), n)
	if res.Held == 0 || res.Drops != 0 || res.PortDrops != 0 {
		t.Errorf("released %+v", res)
	}
	if after := rootQdisc(t, bond); after != before {
		t.Errorf("root queueing discipline is %q, was %q", after, before)
	}

	wantEach(t, c, 0, n)
	wantAscending(t, out)
	if len(harvested) > 0 {
		wantHarvested(t, harvested, number(t, harvested[0].Data))
	}
}

// TestGuestExchange proves that no frame is lost while the plug is put on and taken
// off under a sender that never pauses.
func TestGuestExchange(t *testing.T) {
	living, seen := nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newHarvester(t)
	bond, tap := newBond(t, living)
	defer tap.Close()
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx := testContext(t)
	arm(t, h, harvest.Target{Proxy: bond.Attrs().Index})
	count := sendUntilStopped(t, bond.Attrs().Index, 100)
	caught := 0
	for range 20 {
		if err := p.Hold(ctx, bond.Attrs().Index, 1<<20); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
		if _, err := p.Release(ctx, bond.Attrs().Index, living.Attrs().Index); err != nil {
			t.Fatal(err)
		}
		if err := h.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		frames := h.Take()
		caught += len(frames)
		send(t, living.Attrs().Index, frames)
	}
	n := count()
	disarm(t, h)
	last := h.Take()
	send(t, living.Attrs().Index, last)
	t.Logf("%d of %d frames were caught between queueing disciplines", caught+len(last), n)
	wantEach(t, c, 0, n)
}

func TestGuestPlugSuccessor(t *testing.T) {
	dying, seen := nic(t, "e1000"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	ctx := testContext(t)
	index := dying.Attrs().Index
	first, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Hold(ctx, index, 1<<20); err != nil {
		t.Fatal(err)
	}
	const size, n = 100, 40
	transmit(t, index, 0, n, size)
	first.Close()

	second, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Hold(ctx, index, 2<<20); err != nil {
		t.Fatalf("hold what a predecessor holds: %v", err)
	}
	transmit(t, index, n, 2*n, size)
	quiet(t, c)
	res, err := second.Release(ctx, index, 0)
	if err != nil || res.Held != 2*n {
		t.Errorf("release: %+v, %v, want %d held", res, err, 2*n)
	}
	wantNumbers(t, receive(t, c, 2*n), 0)
	if _, err := second.Release(ctx, index, 0); !errors.Is(err, hold.ErrNotPlugged) {
		t.Errorf("release again: %v, want ErrNotPlugged", err)
	}
}

func TestGuestPlugLimit(t *testing.T) {
	dying := nic(t, "e1000")
	ctx := testContext(t)
	index := dying.Attrs().Index
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const size = 100
	if err := p.Hold(ctx, index, 10*size); err != nil {
		t.Fatal(err)
	}
	fd := applicationSocket(t)
	defer unix.Close(fd)
	for n := range 25 { // fails from the tenth on
		unix.Sendto(fd, numberedFrame(n, size), 0, &unix.SockaddrLinklayer{Ifindex: index})
	}
	res, err := p.Release(ctx, index, 0)
	if err != nil || res.Held != 10 || res.Bytes != 10*size || res.Drops != 15 {
		t.Errorf("release: %+v, %v, want 10 held, 15 dropped", res, err)
	}
}

// TestGuestPlugBurst holds more than the port's queue takes at once. What that queue
// refuses is harvested.
func TestGuestPlugBurst(t *testing.T) {
	living, seen := nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newHarvester(t)
	bond, tap := newBond(t, living)
	defer tap.Close()
	ctx := testContext(t)
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	fifo := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: living.Attrs().Index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "pfifo_fast",
	}
	if err := netlink.QdiscAdd(fifo); err != nil {
		t.Fatal(err)
	}
	defer netlink.QdiscDel(fifo)
	if err := p.Hold(ctx, bond.Attrs().Index, 64<<20); err != nil {
		t.Fatal(err)
	}
	const size, held = 64, 6000
	transmit(t, bond.Attrs().Index, 0, held, size)
	out := capture(t, living.Attrs().Index, unix.ETH_P_ALL)
	arm(t, h, harvest.Target{Proxy: bond.Attrs().Index})
	if err := h.Aim(harvest.Target{Proxy: bond.Attrs().Index, Port: living.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	res, err := p.Release(ctx, bond.Attrs().Index, living.Attrs().Index)
	if err != nil || res.Held != held || res.Drops != 0 {
		t.Errorf("release: %+v, %v, want %d held", res, err, held)
	}
	disarm(t, h)
	frames := h.Take()
	if len(frames) != res.PortDrops {
		t.Errorf("harvested %d frames of %d that the port refused", len(frames), res.PortDrops)
	}
	send(t, living.Attrs().Index, frames)
	t.Logf("%d refused by the port", res.PortDrops)
	wantEach(t, c, 0, held)
	wantAscending(t, out)
}

func TestGuestRootBusy(t *testing.T) {
	dying := nic(t, "e1000")
	q := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dying.Attrs().Index, Handle: 0x10000, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "pfifo_fast",
	}
	if err := netlink.QdiscAdd(q); err != nil {
		t.Fatal(err)
	}
	defer netlink.QdiscDel(q)
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Hold(testContext(t), dying.Attrs().Index, 1<<20); !errors.Is(err, hold.ErrRootBusy) {
		t.Errorf("hold: %v, want ErrRootBusy", err)
	}
	if root := rootQdisc(t, dying); root != "pfifo_fast 1:" {
		t.Errorf("root queueing discipline is now %q", root)
	}
}

func TestGuestTap(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	bond, tap := newBond(t, dying)
	defer tap.Close()
	r, err := hold.NewTapReader(testLogger(t), tap, hold.Limits{Bytes: 1 << 20, Frames: 100})
	if err != nil {
		t.Fatal(err)
	}
	setActive(t, bond, "tap-test")
	const size, sent, kept = 100, 130, 100
	transmit(t, bond.Attrs().Index, 0, sent, size)
	got := r.Take()
	if total := r.Collected(); total.Frames != kept || total.Drops != sent-kept || len(got) != kept {
		t.Errorf("took %d frames, collected %+v", len(got), total)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	send(t, living.Attrs().Index, got)
	wantNumbers(t, receive(t, c, len(got)), 0)
}

func TestGuestSenderWithoutInterface(t *testing.T) {
	_, tap := newBond(t, nic(t, "e1000"))
	l, err := netlink.LinkByName("tap-test")
	if err != nil {
		t.Fatal(err)
	}
	s, err := hold.NewSender(l.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tap.Close()
	frames := []frame.Frame{{Data: numberedFrame(0, 100)}, {Data: numberedFrame(1, 100)}, {Data: numberedFrame(2, 100)}}
	res, err := s.Send(testContext(t), frames)
	var op *hold.OpError
	if !errors.As(err, &op) || len(res.Rest) != 3 || res.Frames != 0 {
		t.Errorf("send on an interface that is gone: %+v, %v", res, err)
	}
}

// newBond returns an active-backup bond with a port and a TAP named tap-test.
func newBond(t *testing.T, port netlink.Link) (netlink.Link, *os.File) {
	t.Helper()
	b := netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond-test"})
	b.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
	b.Miimon = 0
	b.AllSlavesActive = 1
	if err := netlink.LinkAdd(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(b) })
	f, err := hold.OpenTap("tap-test")
	if err != nil {
		t.Fatal(err)
	}
	tap, err := netlink.LinkByName("tap-test")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []netlink.Link{port, tap} {
		linkDown(t, l)
		if err := netlink.LinkSetMaster(l, b); err != nil {
			t.Fatal(err)
		}
	}
	quietIPv6(t, b, true)
	quietIPv6(t, tap, true)
	linkUp(t, b)
	linkUp(t, port)
	setActive(t, b, port.Attrs().Name)
	return b, f
}

func setActive(t *testing.T, bond netlink.Link, port string) {
	t.Helper()
	if err := os.WriteFile("/sys/class/net/"+bond.Attrs().Name+"/bonding/active_slave", []byte(port), 0); err != nil {
		t.Fatal(err)
	}
}

func rootQdisc(t *testing.T, l netlink.Link) string {
	t.Helper()
	qs, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qs {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			return fmt.Sprintf("%s %x:", q.Type(), q.Attrs().Handle>>16)
		}
	}
	return ""
}

// sendUntilStopped sends numbered frames one after the other, as an application
// does, that is without looking at errors of the queue, until the returned function
// is called, which returns how many.
func sendUntilStopped(t *testing.T, ifindex, size int) func() int {
	t.Helper()
	fd := applicationSocket(t)
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		defer unix.Close(fd)
		for n := 0; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			if err := unix.Sendto(fd, numberedFrame(n, size), 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
				t.Errorf("send frame %d: %v", n, err)
			}
			time.Sleep(500 * time.Microsecond)
		}
	}()
	return func() int { close(stop); return <-sent }
}

// namespace is a network namespace that an OS thread is kept in.
type namespace struct{ work chan func() }

// newNamespace moves a NIC into a new namespace and brings it back in the end.
func newNamespace(t *testing.T, l netlink.Link) *namespace {
	t.Helper()
	ns := &namespace{work: make(chan func())}
	tid := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		for f := range ns.work {
			f()
		}
	}()
	if err := netlink.LinkSetNsPid(l, <-tid); err != nil {
		t.Fatal(err)
	}
	home, err := os.Open("/proc/1/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.do(t, func() {
			if err := netlink.LinkSetNsFd(l, int(home.Fd())); err != nil {
				t.Error(err)
			}
		})
		close(ns.work)
		home.Close()
	})
	return ns
}

func (ns *namespace) do(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	ns.work <- func() { defer close(done); f() }
	<-done
}

// address gives an interface an address without duplicate detection, and sets it up.
func address(t *testing.T, name, addr string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Error(err)
		return
	}
	a.Flags |= unix.IFA_F_NODAD
	if err := netlink.AddrReplace(l, a); err != nil {
		t.Error(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Error(err)
	}
}

func flush(t *testing.T, l netlink.Link) {
	t.Helper()
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Error(err)
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(l, &a); err != nil {
			t.Error(err)
		}
	}
}
