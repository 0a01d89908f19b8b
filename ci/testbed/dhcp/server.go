// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package dhcp is a small DHCPv4 server for a test network.
//
// It hands out addresses of one subnet, one for each hardware address and
// always the same, so that a guest which asks again after its hardware was
// exchanged shows by its lease whether it kept its MAC address. It runs on any
// net.PacketConn that can broadcast and knows nothing of the network below.
package dhcp

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

// ErrExhausted says that all addresses of the range are leased.
var ErrExhausted = errors.New("dhcp: no free address")

// Config says what the server hands out.
type Config struct {
	Server netip.Addr            // the server's own address, its identifier
	Subnet netip.Prefix          // mask and network of the leases
	First  netip.Addr            // first address to lease; the range ends with the subnet
	Fixed  map[string]netip.Addr // leases set in advance, by hardware address "52:54:00:…"
	Router netip.Addr            // default gateway, none if invalid
	DNS    []netip.Addr
	NTP    netip.Addr    // option 42, absent if invalid
	MTU    uint16        // option 26, absent if 0
	Lease  time.Duration // one hour if 0
	Logger *slog.Logger
}

// A Server answers clients. Make one with [Serve].
type Server struct {
	cfg  Config
	log  *slog.Logger
	srv  *server4.Server
	done chan struct{}

	mu     sync.Mutex
	leases map[string]netip.Addr
	next   netip.Addr
	acks   uint64
}

// Serve starts answering on conn, which the server owns from now on.
func Serve(conn net.PacketConn, cfg Config) (*Server, error) {
	s, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	s.srv, err = server4.NewServer("", nil, s.handle, server4.WithConn(conn))
	if err != nil {
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	go func() {
		defer close(s.done)
		if err := s.srv.Serve(); !errors.Is(err, net.ErrClosed) {
			s.log.Error("dhcp server ended", "err", err)
		}
	}()
	return s, nil
}

func newServer(cfg Config) (*Server, error) {
	switch {
	case !cfg.Server.Is4():
		return nil, fmt.Errorf("dhcp: server address %s is not IPv4", cfg.Server)
	case !cfg.Subnet.Contains(cfg.First):
		return nil, fmt.Errorf("dhcp: first address %s is not in %s", cfg.First, cfg.Subnet)
	}
	if cfg.Lease == 0 {
		cfg.Lease = time.Hour
	}
	s := &Server{
		cfg:    cfg,
		log:    cfg.Logger,
		done:   make(chan struct{}),
		leases: maps.Clone(cfg.Fixed),
		next:   cfg.First,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.leases == nil {
		s.leases = make(map[string]netip.Addr)
	}
	return s, nil
}

// Close stops the server and closes its socket.
func (s *Server) Close() error {
	err := s.srv.Close()
	<-s.done
	return err
}

// Leases returns the address of each hardware address that has or had one.
func (s *Server) Leases() map[string]netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.leases)
}

// Acks returns how many requests were acknowledged, renewals included.
func (s *Server) Acks() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acks
}

func (s *Server) handle(conn net.PacketConn, client net.Addr, m *dhcpv4.DHCPv4) {
	reply, err := s.answer(m)
	if err != nil {
		s.log.Warn("dhcp request not served", "client", m.ClientHWAddr.String(), "type", m.MessageType(), "err", err)
		return
	}
	if reply == nil {
		return
	}
	if _, err := conn.WriteTo(reply.ToBytes(), client); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Warn("dhcp reply not sent", "client", m.ClientHWAddr.String(), "err", err)
		return
	}
	s.log.Debug("dhcp", "client", m.ClientHWAddr.String(), "reply", reply.MessageType(), "address", reply.YourIPAddr)
}

// answer makes the reply to m by the table of RFC 2131 section 4.3; nil
// without an error where that server stays silent.
func (s *Server) answer(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return nil, nil
	}
	self := net.IP(s.cfg.Server.AsSlice())
	if id := m.ServerIdentifier(); id != nil && !id.Equal(self) {
		return nil, nil // meant for another server
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithServerIP(self),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self)),
	}
	var kind dhcpv4.MessageType
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
	default: // a release changes nothing: leases are for ever
		return nil, nil
	}
	lease, err := s.lease(m.ClientHWAddr)
	if err != nil {
		return nil, err
	}
	if kind == dhcpv4.MessageTypeAck && !requested(m).Equal(lease.AsSlice()) {
		return dhcpv4.NewReplyFromRequest(m, append(options,
			dhcpv4.WithMessageType(dhcpv4.MessageTypeNak))...)
	}
	options = append(options,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(lease.AsSlice()),
		dhcpv4.WithNetmask(net.CIDRMask(s.cfg.Subnet.Bits(), 32)),
		dhcpv4.WithLeaseTime(uint32(s.cfg.Lease/time.Second)))
	if s.cfg.Router.IsValid() {
		options = append(options, dhcpv4.WithRouter(s.cfg.Router.AsSlice()))
	}
	if len(s.cfg.DNS) > 0 {
		dns := make([]net.IP, len(s.cfg.DNS))
		for i, a := range s.cfg.DNS {
			dns[i] = a.AsSlice()
		}
		options = append(options, dhcpv4.WithDNS(dns...))
	}
	if s.cfg.NTP.IsValid() {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptNTPServers(s.cfg.NTP.AsSlice())))
	}
	if s.cfg.MTU != 0 {
		options = append(options, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU,
			[]byte{byte(s.cfg.MTU >> 8), byte(s.cfg.MTU)}))
	}
	if kind == dhcpv4.MessageTypeAck {
		s.mu.Lock()
		s.acks++
		s.mu.Unlock()
	}
	return dhcpv4.NewReplyFromRequest(m, options...)
}

// requested is the address a DHCPREQUEST is about: the option while selecting
// and rebooting, ciaddr while renewing (RFC 2131 section 4.3.2).
func requested(m *dhcpv4.DHCPv4) net.IP {
	if ip := m.RequestedIPAddress(); ip != nil {
		return ip
	}
	return m.ClientIPAddr
}

func (s *Server) lease(mac net.HardwareAddr) (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := mac.String()
	if a, ok := s.leases[key]; ok {
		return a, nil
	}
	taken := make(map[netip.Addr]bool, len(s.leases)+1)
	taken[s.cfg.Server] = true
	for _, a := range s.leases {
		taken[a] = true
	}
	for taken[s.next] {
		s.next = s.next.Next()
	}
	// The last address of the subnet is its broadcast address.
	if !s.cfg.Subnet.Contains(s.next.Next()) {
		return netip.Addr{}, fmt.Errorf("%w for %s in %s", ErrExhausted, key, s.cfg.Subnet)
	}
	s.leases[key] = s.next
	return s.next, nil
}
