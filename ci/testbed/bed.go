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

	// Taps are further observers of all frames.
	Taps []vswitch.Tap

	// Neighbours are further hosts, each with a witness's peer.
	Neighbours []Neighbour

	Witness witness.PeerOptions
	Logger  *slog.Logger
}

// A Neighbour describes a host beside the peer.
type Neighbour struct {
	Addr    netip.Prefix // its IPv4 address and its subnet
	VLAN    uint16       // that it is on; 0 for none
	Gateway netip.Addr   // its way to other subnets, none if invalid
}

// A Station is a host that plays a witness's peer.
type Station struct {
	Witness *witness.Peer
	Addr    netip.AddrPort // what the witness in the guest wants as its -peer

	host *peer.Host
	port *vswitch.Local
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

	// Stations are the peer and its neighbours, in the order of the options.
	Stations []*Station

	dir     string
	capture *capture.File
	closers []func() error // in the order of creation
	unhook  func() bool

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
	for _, t := range opts.Taps {
		taps = append(taps, vswitch.WithTap(t))
	}
	if opts.Capture != "" {
		tap, err := b.openCapture(opts)
		if err != nil {
			return err
		}
		taps = append(taps, vswitch.WithTap(tap))
	}
	b.Switch = vswitch.New(taps...)
	b.closers = append(b.closers, b.Switch.Close)

	if opts.Witness.Logger == nil {
		opts.Witness.Logger = log
	}
	addresses := []netip.Prefix{b.Subnet, Subnet6}
	if opts.IPv6 != nil { // the witness is at the first
		slices.Reverse(addresses)
	}
	if err := b.settle("peer", 0, peer.Config{MAC: PeerMAC, Addresses: addresses}, opts.Witness); err != nil {
		return err
	}
	b.Peer, b.Witness = b.Stations[0].host, b.Stations[0].Witness

	bootps, err := b.Peer.ListenPacket(netip.MustParseAddrPort("0.0.0.0:67"))
	if err != nil {
		return err
	}
	b.DHCP, err = dhcp.Serve(bootps, dhcp.Config{
		Server: b.Subnet.Addr(), Subnet: b.Subnet.Masked(), First: b.firstLease(),
		Router: b.Subnet.Addr(), NTP: b.Subnet.Addr(), Logger: log,
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
	for i, n := range opts.Neighbours {
		mac := slices.Clone(PeerMAC)
		mac[len(mac)-1] += byte(1 + i)
		cfg := peer.Config{MAC: mac, Addresses: []netip.Prefix{n.Addr}, Gateway: n.Gateway}
		if err := b.settle(fmt.Sprint("neighbour", 1+i), n.VLAN, cfg, opts.Witness); err != nil {
			return err
		}
	}
	return nil
}

// settle adds a station. Its witness listens at the first of its addresses.
func (b *Bed) settle(name string, vlan uint16, cfg peer.Config, opts witness.PeerOptions) error {
	s := &Station{Addr: netip.AddrPortFrom(cfg.Addresses[0].Addr(), WitnessPort)}
	// Lossless: what a guest had held back comes in one burst, and must not
	// be lost by this process and then be blamed on the guest.
	var err error
	if s.port, err = b.Switch.Attach(name, true); err != nil {
		return err
	}
	var link peer.Link = s.port
	if vlan != 0 {
		if link, err = peer.Tagged(link, vlan); err != nil {
			return err
		}
	}
	if s.host, err = peer.New(link, cfg); err != nil {
		return err
	}
	b.closers = append(b.closers, s.host.Close)
	l, err := s.host.Listen(s.Addr)
	if err != nil {
		return err
	}
	pc, err := s.host.ListenPacket(s.Addr)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.Witness = witness.NewPeer(l, pc, opts)
	b.closers = append(b.closers, s.Witness.Close)
	b.Stations = append(b.Stations, s)
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
	for _, s := range b.Stations {
		check(s.host.Stats().UDPDropped, fmt.Sprintf("datagrams that %s did not read in time", s.Addr))
		c := s.port.Counters()
		check(c.QueueFull+c.NoCarrier+c.Blackholed, fmt.Sprintf("frames on the way to %s", s.Addr))
	}
	for _, p := range b.Switch.Ports() {
		c := p.Counters()
		check(c.Malformed, "runt frames from port "+p.Name())
	}
	return errors.Join(errs...)
}
