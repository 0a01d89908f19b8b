// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package testbed is the world around a virtual machine under test: a switch,
// a host on it that gives addresses and plays the witness's peer, and neutral
// observers of the wire. All of it lives in this process and needs no
// privilege.
//
// The parts are packages of their own; a [Bed] puts them together as VM tests
// and the demonstration need them. It must not know what moves between the
// machines it connects, nor how.
package testbed

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/ci/testbed/capture"
	"github.com/umbra-vm/umbra/ci/testbed/dhcp"
	"github.com/umbra-vm/umbra/ci/testbed/dhcp6"
	"github.com/umbra-vm/umbra/ci/testbed/peer"
	"github.com/umbra-vm/umbra/ci/testbed/router"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
	"github.com/umbra-vm/umbra/ci/witness"
)

// The addresses of the test network.
var (
	Subnet4 = netip.MustParsePrefix("10.99.0.1/24") // the peer's address and its subnet
	Subnet6 = netip.MustParsePrefix("fd99::1/64")

	// FirstLease is the first address that DHCP gives away.
	FirstLease = netip.MustParseAddr("10.99.0.10")

	// FirstLease6 is the first address that DHCPv6 gives away.
	FirstLease6 = netip.MustParseAddr("fd99::1:0")

	// PeerMAC is the hardware address of the peer.
	PeerMAC = net.HardwareAddr{0x02, 0x75, 0x6d, 0x62, 0x72, 0x61} // 02 "umbra"

	// RouterMAC and RouterAddr are those of the router.
	RouterMAC  = net.HardwareAddr{0x02, 0x75, 0x6d, 0x62, 0x72, 0x36}
	RouterAddr = netip.MustParseAddr("fe80::36")
)

// WitnessPort is the witness's port on the peer, for TCP and UDP.
const WitnessPort = 7000

// WitnessAddr is what the witness in the guest wants as its -peer, WitnessAddr6 on a
// network of IPv6.
var (
	WitnessAddr  = netip.AddrPortFrom(Subnet4.Addr(), WitnessPort).String()
	WitnessAddr6 = netip.AddrPortFrom(Subnet6.Addr(), WitnessPort).String()
)

// Options of a bed; the zero value is ready to use.
type Options struct {
	// Dir is where the switch's sockets are made. It must exist and have a
	// short path: a socket's may have 107 bytes.
	Dir string

	// Subnet is the peer's IPv4 address and its subnet, a /24; Subnet4 if zero. A
	// guest with a NIC on each of several beds can tell them apart by it.
	Subnet netip.Prefix

	// IPv6, if not nil, adds a router and a DHCPv6 server; the witness is at
	// WitnessAddr6 then.
	IPv6 *IPv6

	// Capture is the path of a pcapng file of all frames, none if empty.
	Capture string

	// CaptureLimit bounds the capture, in bytes; 256 MiB if 0.
	CaptureLimit int64

	Witness witness.PeerOptions
	Logger  *slog.Logger
}

// IPv6 is what hosts are told by IPv6.
type IPv6 struct {
	Managed bool          // routers say that addresses are to be had by DHCPv6
	T1      time.Duration // when a lease is to be renewed; the client's affair if 0
}

// A Bed is a running test network.
type Bed struct {
	Switch  *vswitch.Switch
	Peer    *peer.Host
	DHCP    *dhcp.Server
	Router  *router.Router // of IPv6, nil without
	DHCP6   *dhcp6.Server  // nil without IPv6
	Witness *witness.Peer
	Flows   *capture.Flows // sees every frame that enters the switch
	Subnet  netip.Prefix   // the peer's IPv4 address and its subnet

	dir      string
	peerPort *vswitch.Local
	capture  *capture.File
	closers  []func() error // in the order of creation
	unhook   func() bool

	once sync.Once
	err  error // of the shutdown
}

// Open builds a network. It runs until Close, or until ctx ends.
func Open(ctx context.Context, opts Options) (*Bed, error) {
	b := &Bed{dir: opts.Dir, Flows: new(capture.Flows), Subnet: cmp.Or(opts.Subnet, Subnet4)}
	if err := b.build(opts); err != nil {
		return nil, errors.Join(fmt.Errorf("testbed: %w", err), b.Close())
	}
	b.unhook = context.AfterFunc(ctx, func() { b.shutdown() })
	return b, nil
}

func (b *Bed) build(opts Options) error {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	taps := []vswitch.Option{vswitch.WithLogger(log), vswitch.WithTap(b.Flows)}
	if opts.Capture != "" {
		tap, err := b.openCapture(opts)
		if err != nil {
			return err
		}
		taps = append(taps, vswitch.WithTap(tap))
	}
	b.Switch = vswitch.New(taps...)
	b.closers = append(b.closers, b.Switch.Close)

	// Lossless: what a guest had held back comes in one burst, and must not
	// be lost by this process and then be blamed on the guest.
	var err error
	if b.peerPort, err = b.Switch.Attach("peer", true); err != nil {
		return err
	}
	b.Peer, err = peer.New(b.peerPort, peer.Config{
		MAC: PeerMAC, Addresses: []netip.Prefix{b.Subnet, Subnet6},
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.Peer.Close)

	bootps, err := b.Peer.ListenPacket(netip.MustParseAddrPort("0.0.0.0:67"))
	if err != nil {
		return err
	}
	b.DHCP, err = dhcp.Serve(bootps, dhcp.Config{
		Server: b.Subnet.Addr(), Subnet: b.Subnet.Masked(), First: b.firstLease(),
		Router: b.Subnet.Addr(), Logger: log,
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.DHCP.Close)

	if opts.IPv6 != nil {
		if err := b.addIPv6(*opts.IPv6, log); err != nil {
			return err
		}
	}
	addr := b.WitnessAddr()
	l, err := b.Peer.Listen(addr)
	if err != nil {
		return err
	}
	pc, err := b.Peer.ListenPacket(addr)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if opts.Witness.Logger == nil {
		opts.Witness.Logger = log
	}
	b.Witness = witness.NewPeer(l, pc, opts.Witness)
	b.closers = append(b.closers, b.Witness.Close)
	return nil
}

// dns is the name server that router and DHCPv6 server tell of.
var dns = []netip.Addr{Subnet6.Addr()}

func (b *Bed) addIPv6(opts IPv6, log *slog.Logger) error {
	port, err := b.Switch.Attach("router", true)
	if err != nil {
		return err
	}
	b.Router, err = router.New(port, router.Config{
		MAC: RouterMAC, Address: RouterAddr, Prefix: Subnet6.Masked(), Managed: opts.Managed, DNS: dns,
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.Router.Close)
	if err := b.Peer.Join(dhcp6.Group); err != nil {
		return err
	}
	conn, err := b.Peer.ListenPacket(netip.AddrPortFrom(netip.IPv6Unspecified(), dhcp6.Port))
	if err != nil {
		return err
	}
	b.DHCP6, err = dhcp6.Serve(conn, dhcp6.Config{MAC: PeerMAC, First: FirstLease6, DNS: dns, T1: opts.T1, Logger: log})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.DHCP6.Close)
	return nil
}

// WitnessAddr is what the witness in the guest wants as its -peer.
func (b *Bed) WitnessAddr() netip.AddrPort {
	if b.Router != nil {
		return netip.AddrPortFrom(Subnet6.Addr(), WitnessPort)
	}
	return netip.AddrPortFrom(b.Subnet.Addr(), WitnessPort)
}

// firstLease is the first address that DHCP gives away: FirstLease on Subnet4.
func (b *Bed) firstLease() netip.Addr {
	a, first := b.Subnet.Addr().As4(), FirstLease.As4()
	a[3] = first[3]
	return netip.AddrFrom4(a)
}

func (b *Bed) openCapture(opts Options) (*capture.File, error) {
	f, err := os.Create(opts.Capture)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	b.closers = append(b.closers, func() error { return errors.Join(w.Flush(), f.Close()) })
	limit := opts.CaptureLimit
	if limit == 0 {
		limit = 256 << 20
	}
	b.capture, err = capture.NewFile(w, 0, limit)
	return b.capture, err
}

// Close ends everything in the reverse order of its creation and writes the
// capture to its end.
func (b *Bed) Close() error {
	if b.unhook != nil {
		b.unhook()
	}
	return b.shutdown()
}

func (b *Bed) shutdown() error {
	b.once.Do(func() {
		var errs []error
		for _, c := range slices.Backward(b.closers) {
			errs = append(errs, c())
		}
		if b.capture != nil {
			errs = append(errs, b.capture.Err())
		}
		b.err = errors.Join(errs...)
	})
	return b.err
}

// Plug adds a port for one network card and returns its back end, the value
// of machine.NIC.Netdev. Names are unique, and are the names of the capture's
// interfaces.
func (b *Bed) Plug(name string) (netdev string, port *vswitch.Port, err error) {
	port, err = b.Switch.Listen(name, filepath.Join(b.dir, name+".net"))
	if err != nil {
		return "", nil, fmt.Errorf("testbed: %w", err)
	}
	return "stream,server=off,addr.type=unix,addr.path=" + port.Path(), port, nil
}

// ErrOwnLoss is matched by the errors of [Bed.Fault].
var ErrOwnLoss = errors.New("testbed: the test network itself lost traffic")

// Fault returns an error if the network lost what a guest had sent, so that a
// verdict on the guest would be unjust; nil if it is beyond blame.
func (b *Bed) Fault() error {
	var errs []error
	check := func(n uint64, what string) {
		if n > 0 {
			errs = append(errs, fmt.Errorf("%w: %d %s", ErrOwnLoss, n, what))
		}
	}
	s := b.Peer.Stats()
	check(s.UDPDropped, "datagrams that the peer did not read in time")
	c := b.peerPort.Counters()
	check(c.QueueFull+c.NoCarrier+c.Blackholed, "frames on the way to the peer")
	for _, p := range b.Switch.Ports() {
		c := p.Counters()
		check(c.Malformed, "runt frames from port "+p.Name())
	}
	return errors.Join(errs...)
}
