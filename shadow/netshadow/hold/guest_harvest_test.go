// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package hold_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

func TestGuestHarvestRing(t *testing.T) {
	seen := nic(t, "virtio_net")
	for _, tt := range []struct{ dying, living string }{{"e1000", "8139cp"}, {"8139cp", "e1000"}} {
		t.Run(tt.dying, func(t *testing.T) {
			dying, living := nic(t, tt.dying), nic(t, tt.living)
			c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
			h := newField(t)

			// Sent while the device lives, so the ring wraps in what follows.
			const size, sent = 100, 200
			transmit(t, dying.Attrs().Index, 0, sent, size)
			wantEach(t, c, 0, sent)

			kill(t, dying)
			const want = 150
			transmit(t, dying.Attrs().Index, sent, sent+want, size)
			quiet(t, c)
			arm(t, h, harvest.Target{Device: dying.Attrs().Index})
			linkDown(t, dying)
			disarm(t, h)
			frames := take(t, h)
			if len(frames) != want {
				t.Errorf("harvested %d frames, want %d", len(frames), want)
			}
			wantHarvested(t, frames, sent)
			send(t, living.Attrs().Index, frames)
			wantEach(t, c, sent, sent+want)
		})
	}
}

// TestGuestHarvestStacked harvests what interfaces on top of the device have sent: a
// VLAN tag left to the hardware is in the frame, and another source MAC is no matter.
func TestGuestHarvestStacked(t *testing.T) {
	dying := nic(t, "e1000")
	h := newField(t)
	on := func(name string) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, ParentIndex: dying.Attrs().Index}
	}
	for _, tt := range []struct {
		link netlink.Link
		head []byte // from the ether type on
	}{
		{&netlink.Vlan{LinkAttrs: on("vlan-test"), VlanId: 100}, []byte{0x81, 0, 0, 100, 0x08, 0, 0x45}},
		{&netlink.Macvlan{LinkAttrs: on("macvlan-test"), Mode: netlink.MACVLAN_MODE_PRIVATE}, []byte{0x08, 0, 0x45}},
	} {
		t.Run(tt.link.Type(), func(t *testing.T) {
			linkUp(t, dying)
			if err := netlink.LinkAdd(tt.link); err != nil {
				t.Fatal(err)
			}
			defer netlink.LinkDel(tt.link)
			quietIPv6(t, tt.link, true)
			linkUp(t, tt.link)
			kill(t, dying)
			const want = 20
			transmit(t, tt.link.Attrs().Index, 0, want, 100)
			arm(t, h, harvest.Target{Device: dying.Attrs().Index})
			linkDown(t, dying)
			disarm(t, h)
			frames := take(t, h)
			if len(frames) != want {
				t.Fatalf("harvested %d frames, want %d", len(frames), want)
			}
			for i, f := range frames {
				if !bytes.HasPrefix(f.Data[12:], tt.head) {
					t.Fatalf("frame %d begins with % x", i, f.Data[:24])
				}
				plain := append(bytes.Clone(f.Data[:12]), f.Data[12+len(tt.head)-3:]...)
				if n := number(t, plain); n != i {
					t.Errorf("frame %d harvested in the place of %d", n, i)
				}
			}
		})
	}
}

func TestGuestHarvestQueue(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	const want = 600
	frames := harvestQueue(t, dying, want)
	wantHarvested(t, frames, 0)
	send(t, living.Attrs().Index, frames)
	wantEach(t, c, 0, want)
}

// harvestQueue sends more frames than the ring's 256 descriptors take: the rest is in
// the queue above. It returns what is harvested, and wants it to be as many.
func harvestQueue(t *testing.T, dying netlink.Link, want int) []frame.Frame {
	t.Helper()
	h := newField(t)
	kill(t, dying)
	transmit(t, dying.Attrs().Index, 0, want, 64)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index})
	linkDown(t, dying)
	disarm(t, h)
	frames := take(t, h)
	if len(frames) != want {
		t.Fatalf("harvested %d frames, want %d", len(frames), want)
	}
	return frames
}

// TestGuestHarvestUsersQueue is TestGuestHarvestQueue where the user has put a queueing
// discipline of his own on the device.
func TestGuestHarvestUsersQueue(t *testing.T) {
	for _, qdisc := range []string{
		"pfifo limit 500", "prio", "htb", "tbf rate 8kbit burst 2000 limit 500000", "sfq", "cake", "drr",
		"fq flow_limit 500", "netem limit 500 delay 1ms",
	} {
		t.Run(strings.Fields(qdisc)[0], func(t *testing.T) {
			dying := nic(t, "e1000")
			tc(t, "qdisc replace dev "+dying.Attrs().Name+" root handle 1: "+qdisc)
			defer tc(t, "qdisc del dev "+dying.Attrs().Name+" root")
			if qdisc == "drr" { // drops what no filter leads to a class
				tc(t, "class add dev "+dying.Attrs().Name+" parent 1: classid 1:1 drr")
				tc(t, "filter add dev "+dying.Attrs().Name+" parent 1: protocol all prio 1 matchall classid 1:1")
			}
			frames := harvestQueue(t, dying, 350) // sfq has room for 127
			if qdisc == "sfq" {                   // gives up the last first (sfq_reset())
				slices.SortFunc(frames, func(a, b frame.Frame) int { return number(t, a.Data) - number(t, b.Data) })
			}
			wantHarvested(t, frames, 0)
		})
	}
}

// TestGuestHarvestEarly empties the queue of a dead device before the harvest is armed.
func TestGuestHarvestEarly(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
	h := newField(t)
	index := dying.Attrs().Index
	if err := h.Watch(index); err != nil {
		t.Fatal(err)
	}
	kill(t, dying)
	// More than the ring takes: the rest is queued, of which there are some.
	const sent, ring = 700, 256
	transmit(t, index, 0, sent, 64)
	linkDown(t, dying)
	arm(t, h, harvest.Target{Device: index})
	disarm(t, h)
	frames := take(t, h)
	if len(frames) < sent-ring || len(frames) > sent {
		t.Errorf("%d frames were queued, of %d sent to a ring of %d", len(frames), sent, ring)
	}
	first := sent - len(frames)
	wantHarvested(t, frames, first)
	send(t, living.Attrs().Index, frames)
	wantEach(t, c, first, sent)
}

// TestGuestHarvestReset has the kernel's watchdog find that a dead device sends nothing. Its
// driver resets it, and frees what is in its ring, before the harvest is armed.
func TestGuestHarvestReset(t *testing.T) {
	living, seen := nic(t, "e1000"), nic(t, "virtio_net")
	for _, tt := range []struct {
		driver, carrier string
		attempts        int // of which one has to succeed
	}{
		{"8139cp", "1", 1}, // frees as dropped what it gives up
		// It frees that as consumed: the harvest is in a race with its worker. Nothing tells
		// it afterwards that it has a link.
		{"e1000e", "0", 3},
	} {
		t.Run(tt.driver, func(t *testing.T) {
			c := capture(t, seen.Attrs().Index, unix.ETH_P_IP)
			const lost = 400 // more than either ring takes
			var frames []frame.Frame
			for n := 0; n < tt.attempts && len(frames) != lost; n++ {
				t.Run("attempt", func(t *testing.T) { frames = harvestReset(t, nic(t, tt.driver), tt.carrier, lost) })
			}
			if len(frames) != lost {
				t.Fatalf("%d frames are had, of %d that were lost", len(frames), lost)
			}
			wantHarvested(t, frames, 0)
			send(t, living.Attrs().Index, frames)
			wantEach(t, c, 0, lost)
		})
	}
}

// harvestReset sends as many frames, has the device reset, and returns what is harvested. Its
// carrier is what it has then.
func harvestReset(t *testing.T, dying netlink.Link, carrier string, frames int) []frame.Frame {
	t.Helper()
	h := newField(t)
	index := dying.Attrs().Index
	if err := h.Watch(index); err != nil {
		t.Fatal(err)
	}
	timeouts := attribute(t, dying, "queues/tx-0/tx_timeout")
	kill(t, dying)
	transmit(t, index, 0, frames, 64)
	waitFor(t, dying, "queues/tx-0/tx_timeout", func(now string) bool { return now != timeouts })
	waitFor(t, dying, "carrier", func(now string) bool { return now == carrier })
	if _, err := netlink.LinkByIndex(index); err != nil { // waits for the lock that a reset may hold
		t.Fatal(err)
	}
	arm(t, h, harvest.Target{Device: index})
	linkDown(t, dying)
	disarm(t, h)
	return take(t, h)
}

// attribute returns the text of an interface's file in sysfs.
func attribute(t *testing.T, l netlink.Link, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/class/net", l.Attrs().Name, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// waitFor waits until such a file says what is wanted.
func waitFor(t *testing.T, l netlink.Link, name string, wanted func(string) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !wanted(attribute(t, l, name)); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: %s has been %q for a minute", l.Attrs().Name, name, attribute(t, l, name))
		}
	}
}

// TestGuestHarvestLeavesSentAlone watches a driver that frees what it has sent as others
// free what they give up: nothing of it is taken, and soon nothing is attached that its
// packets would pay for.
func TestGuestHarvestLeavesSentAlone(t *testing.T) {
	sending := nic(t, "vmxnet3")
	h := newField(t)
	attached := tracing(t)
	if err := h.Watch(sending.Attrs().Index); err != nil {
		t.Fatal(err)
	}
	if n := tracing(t); n != attached+1 {
		t.Errorf("%d programs are attached to watch a driver, want one", n-attached)
	}
	// One by one, as a driver frees what it has sent when it is told, or sends more.
	const sent = 50
	for i := range sent {
		transmit(t, sending.Attrs().Index, i, i+1, 64)
		time.Sleep(10 * time.Millisecond)
	}
	for end := time.Now().Add(time.Minute); tracing(t) != attached; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %d packets the program is still attached", sent)
		}
	}
	arm(t, h, harvest.Target{Device: sending.Attrs().Index})
	linkDown(t, sending)
	disarm(t, h)
	if frames := take(t, h); len(frames) > 0 {
		t.Errorf("%d frames that were sent are taken for lost", len(frames))
	}
}

// tracing counts the programs that are attached to tracepoints and functions.
func tracing(t *testing.T) (n int) {
	t.Helper()
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Type == link.TracingType || info.Type == link.RawTracepointType {
			n++
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestGuestHarvestSuccessor has a process die after Arm. Nobody can have the frames
// that are freed before its successor takes over, and they are counted; those freed
// afterwards are the successor's, without a gap between.
func TestGuestHarvestSuccessor(t *testing.T) {
	dying := nic(t, "e1000")
	pins := harvest.WithPins("/sys/fs/bpf/test")
	start := func() *harvest.Field { return field(t, newHarvester(t, pins)) }
	first := start()
	if first.Armed() {
		t.Error("the first of all is armed already")
	}
	const size, lost, want = 100, 30, 50
	kill(t, dying)
	transmit(t, dying.Attrs().Index, 0, lost, size)
	arm(t, first, harvest.Target{Device: dying.Attrs().Index})
	linkDown(t, dying)
	linkUp(t, dying)
	transmit(t, dying.Attrs().Index, lost, lost+want, size)

	// The first one is left as it is: its death takes nothing away that is pinned.
	f := start()
	if !f.Armed() {
		t.Fatal("the successor is not armed")
	}
	if c, before := f.Counters(), first.Counters(); c.Seen-before.Seen != lost {
		t.Errorf("%d frames seen without a reader, want %d", c.Seen-before.Seen, lost)
	}
	linkDown(t, dying)
	disarm(t, f)
	frames, _ := f.Take()
	if len(frames) != want {
		t.Errorf("harvested %d frames, want %d", len(frames), want)
	}
	wantHarvested(t, frames, lost)
	if c := f.Counters(); c.Seen-c.Taken != lost {
		t.Errorf("counters %+v: want %d frames lost", c, lost)
	}

	// Loaded, but not armed: nothing to take over but the programs.
	if start().Armed() {
		t.Error("armed after Disarm")
	}
}

// TestGuestHarvestRoles has two roles lose their devices at the same time: to each
// its own.
func TestGuestHarvestRoles(t *testing.T) {
	h := newHarvester(t)
	if _, err := h.Field(harvest.MaxRoles); !errors.Is(err, harvest.ErrRole) {
		t.Errorf("a role too many: %v, want ErrRole", err)
	}
	const size, want = 100, 40
	devices := []netlink.Link{nic(t, "e1000"), nic(t, "8139cp")}
	fields := make([]*harvest.Field, len(devices))
	for i, dev := range devices {
		kill(t, dev)
		transmit(t, dev.Attrs().Index, i*want, (i+1)*want, size)
		var err error
		if fields[i], err = h.Field(i); err != nil {
			t.Fatal(err)
		}
		arm(t, fields[i], harvest.Target{Device: dev.Attrs().Index})
	}
	for _, dev := range devices {
		linkDown(t, dev)
	}
	for i, f := range fields {
		disarm(t, f) // the second is armed until its turn
		frames := take(t, f)
		if len(frames) != want {
			t.Errorf("role %d: harvested %d frames, want %d", i, len(frames), want)
		}
		wantHarvested(t, frames, i*want)
	}
}

func TestGuestHarvestLeavesReceivedAlone(t *testing.T) {
	dying, living := nic(t, "e1000"), nic(t, "8139cp")
	tap := capture(t, dying.Attrs().Index, unix.ETH_P_ALL)
	h := newField(t)
	arm(t, h, harvest.Target{Device: dying.Attrs().Index, Alive: true})
	const n = 50
	transmit(t, living.Attrs().Index, 0, n, 100)  // received
	transmit(t, dying.Attrs().Index, n, 2*n, 100) // sent and completed
	receive(t, tap, 2*n)
	linkDown(t, dying)
	disarm(t, h)
	if frames := take(t, h); len(frames) != 0 {
		t.Errorf("harvested %d frames of a device that had sent all", len(frames))
	}
}

// TestGuestHarvestLeavesWaitingPacketsAlone closes a device while a packet waits for the
// address of its neighbour: that has no Ethernet header, and another device cannot send it.
func TestGuestHarvestLeavesWaitingPacketsAlone(t *testing.T) {
	dying := nic(t, "e1000")
	index := dying.Attrs().Index
	address(t, dying.Attrs().Name, "10.76.0.1/24")
	defer flush(t, dying)
	h := newField(t)
	arm(t, h, harvest.Target{Device: index})
	c, err := net.Dial("udp4", "10.76.0.9:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	list, err := netlink.NeighList(index, unix.AF_INET)
	if err != nil || !slices.ContainsFunc(list, func(n netlink.Neigh) bool { return n.State == unix.NUD_INCOMPLETE }) {
		t.Fatalf("nothing waits for a neighbour: %v, %v", list, err)
	}
	linkDown(t, dying)
	disarm(t, h)
	for _, f := range take(t, h) {
		if proto := binary.BigEndian.Uint16(f.Data[12:]); proto != unix.ETH_P_ARP {
			t.Errorf("harvested % x", f.Data)
		}
	}
}

// TestGuestHarvestTCP proves that a receiver accepts TCP segments harvested from a
// driver that segments in hardware, and re-sent on a device that does not.
func TestGuestHarvestTCP(t *testing.T) {
	dying, living, seen := nic(t, "e1000"), nic(t, "8139cp"), nic(t, "virtio_net")
	h := newField(t)
	p := newPlug(t)
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
			acknowledged(t, conn)
			kill(t, dying)
			if tt.queued {
				if err := p.Hold(testContext(t), dying.Attrs().Index, 16<<20); err != nil {
					t.Fatal(err)
				}
				defer p.Release(testContext(t), dying.Attrs().Index, 0)
			}
			conn.(*net.TCPConn).SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			conn.Write(data[warm:])

			before := h.Counters()
			arm(t, h, harvest.Target{Device: dying.Attrs().Index})
			linkDown(t, dying) // what arrives from now on was re-sent by us
			disarm(t, h)
			frames := take(t, h)
			// The same bytes may be among them twice: TCP repeats its last segment as a
			// probe.
			var first, end uint32
			for _, f := range frames {
				if len(f.Data) > 14+1500 {
					t.Fatalf("harvested frame of %d bytes was not segmented", len(f.Data))
				}
				from, n := tcpPayload(f.Data)
				if n > 0 && first == end {
					first, end = from, from
				}
				if n > 0 && int32(from+uint32(n)-end) > 0 {
					end = from + uint32(n)
				}
			}
			payload := int(end - first)
			send(t, living.Attrs().Index, frames)
			got = make([]byte, payload)
			peer.SetReadDeadline(time.Now().Add(20 * time.Second))
			if n, err := io.ReadFull(peer, got); err != nil {
				t.Fatalf("peer read %d of %d bytes in %d frames: %v", n, payload, len(frames), err)
			}
			if !bytes.Equal(got, data[warm:warm+payload]) {
				t.Error("peer read other bytes than were sent")
			}
			c := h.Counters()
			t.Logf("%d socket buffers harvested so far, %d frames now, %d bytes of payload", c.Taken, len(frames), payload)
			if whole := c.Taken - before.Taken; uint64(len(frames)) <= whole {
				t.Errorf("%d socket buffers became %d frames: none was to be segmented", whole, len(frames))
			}
		})
	}
}

// acknowledged waits until the peer has acknowledged all that was sent: what has not
// been would be sent again, and harvested, though the peer has it.
func acknowledged(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for left := -1; left != 0; time.Sleep(time.Millisecond) {
		cerr := raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(cerr, err); err != nil {
			t.Fatal(err)
		}
	}
}

// tcpPayload returns the sequence number and the bytes of payload in a frame.
func tcpPayload(b []byte) (seq uint32, n int) {
	l4, n, proto := 14+20, int(binary.BigEndian.Uint16(b[16:]))-20, b[23]
	if b[14]>>4 == 6 {
		l4, n, proto = 14+40, int(binary.BigEndian.Uint16(b[18:])), b[20]
	}
	if proto != unix.IPPROTO_TCP {
		return 0, 0
	}
	return binary.BigEndian.Uint32(b[l4+4:]), n - int(b[l4+12]>>4)*4
}
