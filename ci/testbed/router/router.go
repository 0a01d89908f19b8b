// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package router is an IPv6 router on a test network, as far as its neighbours see
// one: it advertises a prefix and itself as the gateway, answers solicitations, and
// keeps a table of what hosts have said of their addresses. It forwards nothing.
//
// It knows frames; which switch its link leads to it must never know.
package router

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A Link carries Ethernet frames without their check sequence. ReadFrame's result
// is not modified; WriteFrame does not keep its argument.
type Link interface {
	ReadFrame(ctx context.Context) ([]byte, error)
	WriteFrame(frame []byte) error
}

// Config says what the router advertises (RFC 4861, 4.2). Times are rounded down to
// seconds.
type Config struct {
	MAC     net.HardwareAddr
	Address netip.Addr   // of its own, link-local
	Prefix  netip.Prefix // on the link, and for hosts to make addresses of
	Managed bool         // addresses are to be had by DHCPv6: M flag
	DNS     []netip.Addr // RFC 8106

	Lifetime         time.Duration // of the router as a gateway, and of DNS; 30 min if 0
	Preferred, Valid time.Duration // of addresses made of the prefix; 1 h and 2 h if 0
	Interval         time.Duration // between unsolicited advertisements; 10 s if 0
}

// A Neighbour is what a host has said of one of its addresses.
type Neighbour struct {
	MAC net.HardwareAddr // as it was announced last
	// Announced counts neighbour advertisements that nobody had asked for.
	Announced int
	// Checked counts questions whether another host has the address (RFC 4862,
	// 5.4.2).
	Checked int
}

// A Router is one neighbour of every host on its link.
type Router struct {
	cfg    Config
	link   Link
	advert []byte
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu         sync.Mutex
	neighbours map[netip.Addr]Neighbour
	solicited  int
}

// New starts a router on link. It runs until Close, or until the link ends.
func New(link Link, cfg Config) (*Router, error) {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Lifetime, 30*time.Minute)
	def(&cfg.Preferred, time.Hour)
	def(&cfg.Valid, 2*time.Hour)
	def(&cfg.Interval, 10*time.Second)
	switch {
	case len(cfg.MAC) != 6:
		return nil, fmt.Errorf("router: MAC address %q is not an Ethernet address", cfg.MAC)
	case !cfg.Address.Is6() || !cfg.Address.IsLinkLocalUnicast():
		return nil, fmt.Errorf("router: address %s is not link-local", cfg.Address)
	}
	r := &Router{cfg: cfg, link: link, neighbours: make(map[netip.Addr]Neighbour)}
	var err error
	if r.advert, err = r.advertisement(); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.wg.Go(func() { r.receive(ctx) })
	r.wg.Go(func() { r.repeat(ctx) })
	return r, nil
}

// Close ends the router, without a last word. The link stays open.
func (r *Router) Close() error {
	r.cancel()
	r.wg.Wait()
	return nil
}

// Neighbours returns what is known by address.
func (r *Router) Neighbours() map[netip.Addr]Neighbour {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.neighbours)
}

// Solicited returns how often hosts have asked for an advertisement.
func (r *Router) Solicited() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.solicited
}

func (r *Router) repeat(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if r.link.WriteFrame(r.advert) != nil {
				return
			}
		}
	}
}

func (r *Router) receive(ctx context.Context) {
	for {
		frame, err := r.link.ReadFrame(ctx)
		if err != nil {
			return
		}
		answer, err := r.heard(frame)
		if err != nil || answer == nil {
			continue // not for a router
		}
		if r.link.WriteFrame(answer) != nil {
			return
		}
	}
}

const nextHeader = 14 + 6 // in a frame, of its IPv6 header

// heard takes in a frame and returns the answer to it, nil if there is none.
func (r *Router) heard(frame []byte) ([]byte, error) {
	// Most frames are none of these: look before unpacking.
	if len(frame) < 54 || binary.BigEndian.Uint16(frame[12:]) != uint16(layers.EthernetTypeIPv6) ||
		frame[nextHeader] != uint8(layers.IPProtocolICMPv6) {
		return nil, nil
	}
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	eth, ok := p.LinkLayer().(*layers.Ethernet)
	ip, ok6 := p.NetworkLayer().(*layers.IPv6)
	if !ok || !ok6 || ip.HopLimit != 255 { // it comes from elsewhere: RFC 4861, 6.1 and 7.1
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range p.Layers() {
		switch m := l.(type) {
		case *layers.ICMPv6RouterSolicitation:
			r.solicited++
			return r.advert, nil
		case *layers.ICMPv6NeighborSolicitation:
			target, _ := netip.AddrFromSlice(m.TargetAddress)
			if ip.SrcIP.IsUnspecified() {
				n := r.neighbours[target]
				n.Checked++
				r.neighbours[target] = n
			} else if target == r.cfg.Address {
				return r.present(eth.SrcMAC, ip.SrcIP)
			}
		case *layers.ICMPv6NeighborAdvertisement:
			target, _ := netip.AddrFromSlice(m.TargetAddress)
			if ip.DstIP.IsMulticast() && !m.Solicited() {
				n := r.neighbours[target]
				n.Announced++
				n.MAC = append(net.HardwareAddr(nil), eth.SrcMAC...)
				r.neighbours[target] = n
			}
		}
	}
	return nil, nil
}

// Flags of advertisements and options (RFC 4861, 4.2, 4.4 and 4.6.2).
const (
	managed = 0x80

	isRouter  = 0x80
	solicited = 0x40
	override  = 0x20

	onLink     = 0x80
	autonomous = 0x40
)

func (r *Router) advertisement() ([]byte, error) {
	var flags uint8
	if r.cfg.Managed {
		flags = managed
	}
	seconds := func(b []byte, d time.Duration) []byte { return binary.BigEndian.AppendUint32(b, uint32(d/time.Second)) }
	prefix := []byte{uint8(r.cfg.Prefix.Bits()), onLink | autonomous}
	prefix = seconds(prefix, r.cfg.Valid)
	prefix = seconds(prefix, r.cfg.Preferred)
	prefix = append(prefix, 0, 0, 0, 0)
	prefix = append(prefix, r.cfg.Prefix.Masked().Addr().AsSlice()...)
	options := layers.ICMPv6Options{
		{Type: layers.ICMPv6OptSourceAddress, Data: r.cfg.MAC},
		{Type: layers.ICMPv6OptPrefixInfo, Data: prefix},
	}
	if len(r.cfg.DNS) > 0 {
		const recursiveDNSServer = 25 // RFC 8106, 5.1
		dns := seconds([]byte{0, 0}, r.cfg.Lifetime)
		for _, a := range r.cfg.DNS {
			dns = append(dns, a.AsSlice()...)
		}
		options = append(options, layers.ICMPv6Option{Type: recursiveDNSServer, Data: dns})
	}
	return r.frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, net.IPv6linklocalallnodes, layers.ICMPv6TypeRouterAdvertisement,
		&layers.ICMPv6RouterAdvertisement{
			HopLimit: 64, Flags: flags, RouterLifetime: uint16(r.cfg.Lifetime / time.Second), Options: options,
		})
}

// present answers who asks for the router's hardware address.
func (r *Router) present(mac net.HardwareAddr, ip net.IP) ([]byte, error) {
	return r.frame(mac, ip, layers.ICMPv6TypeNeighborAdvertisement, &layers.ICMPv6NeighborAdvertisement{
		Flags: isRouter | solicited | override, TargetAddress: r.cfg.Address.AsSlice(),
		Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: r.cfg.MAC}},
	})
}

func (r *Router) frame(mac net.HardwareAddr, ip net.IP, kind uint8, m gopacket.SerializableLayer) ([]byte, error) {
	header := &layers.IPv6{
		Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: r.cfg.Address.AsSlice(), DstIP: ip,
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	if err := icmp.SetNetworkLayerForChecksum(header); err != nil {
		return nil, err
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: r.cfg.MAC, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, header, icmp, m)
	return b.Bytes(), err
}
