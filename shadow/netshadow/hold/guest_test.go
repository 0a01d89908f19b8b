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
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
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

func tc(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("tc", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("tc %s: %v: %s", line, err, out)
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

// arrival is how long a frame is waited for that is to come.
const arrival = 20 * time.Second

// receive reads n frames.
func receive(t *testing.T, f *os.File, n int) [][]byte {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(arrival))
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
	buf := make([]byte, 1<<16)
	for arrived := 0; arrived < len(times); {
		c.SetReadDeadline(time.Now().Add(arrival))
		n, err := c.Read(buf)
		if err != nil {
			t.Errorf("%d of %d frames arrived: %v", arrived, len(times), err)
			break
		}
		k := number(t, buf[:n]) - from
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

// newPlug returns a Plug that ends with the test.
func newPlug(t *testing.T) *hold.Plug {
	t.Helper()
	p, err := hold.NewPlug(testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// newField returns the harvest of a role.
func newField(t *testing.T) *harvest.Field {
	t.Helper()
	return field(t, newHarvester(t))
}

func newHarvester(t *testing.T, opts ...harvest.Option) *harvest.Harvester {
	t.Helper()
	start := time.Now()
	h, err := harvest.New(testLogger(t), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("programs ready in %v", time.Since(start))
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func field(t *testing.T, h *harvest.Harvester) *harvest.Field {
	t.Helper()
	f, err := h.Field(3)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func arm(t *testing.T, h *harvest.Field, target harvest.Target) {
	t.Helper()
	start := time.Now()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	if err := h.Arm(testContext(t), target, time.Duration(now.Nano())); err != nil {
		t.Fatal(err)
	}
	t.Logf("armed in %v", time.Since(start))
}

func disarm(t *testing.T, h *harvest.Field) {
	t.Helper()
	start := time.Now()
	if err := h.Disarm(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("disarmed in %v", time.Since(start))
}

// take returns what has been harvested, and wants nothing to be lost.
func take(t *testing.T, h *harvest.Field) []frame.Frame {
	t.Helper()
	own, behind := h.Take()
	c := h.Counters()
	if c.Seen != c.Taken {
		t.Errorf("frames lost: %+v", c)
	}
	return append(own, behind...)
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

// sendUntilStopped sends numbered frames one after the other until the returned function
// is called, which returns how many. As UDP does, it takes no notice of ENOBUFS, which
// says that a queueing discipline refused a frame, even one that is being removed
// (__dev_xmit_skb()): that one too is to arrive.
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
			if err := unix.Sendto(fd, numberedFrame(n, size), 0, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil && err != unix.ENOBUFS {
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
