// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package dhcp6 is a small DHCPv6 server for a test network.
//
// It hands out addresses of one prefix, one for each DUID and IAID and always the
// same, so that a guest which asks again after its hardware was exchanged shows by
// its lease whether it is still the same client. It runs on any net.PacketConn that
// hears the servers' group and knows nothing of the network below.
package dhcp6

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/insomniacslk/dhcp/iana"
)

// Group is what clients send to: all servers and relay agents on the link (RFC 8415,
// 7.1), at Port.
var Group = netip.MustParseAddr("ff02::1:2")

// Port is the server's.
const Port = dhcpv6.DefaultServerPort

// Config says what the server hands out.
type Config struct {
	MAC   net.HardwareAddr // the server's identifier is made of it
	First netip.Addr       // first address to lease, each client the next
	DNS   []netip.Addr
	// Valid is how long a lease lasts, Preferred how long its address is to be used
	// for new connections; 2 h and 1 h if 0. T1 and T2 are when it is to be extended;
	// the client's affair if 0.
	Preferred, Valid, T1, T2 time.Duration
	Logger                   *slog.Logger
}

// A Server answers clients. Make one with [Serve].
type Server struct {
	cfg  Config
	id   dhcpv6.DUID
	log  *slog.Logger
	srv  *server6.Server
	done chan struct{}

	mu     sync.Mutex
	leases map[string]netip.Addr
	next   netip.Addr
	heard  map[dhcpv6.MessageType]int
}

// Serve starts answering on conn, which the server owns from now on.
func Serve(conn net.PacketConn, cfg Config) (*Server, error) {
	s, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	s.srv, err = server6.NewServer("", nil, s.handle, server6.WithConn(conn))
	if err != nil {
		return nil, fmt.Errorf("dhcp6: %w", err)
	}
	go func() {
		defer close(s.done)
		if err := s.srv.Serve(); !errors.Is(err, net.ErrClosed) {
			s.log.Error("dhcp6 server ended", "err", err)
		}
	}()
	return s, nil
}

func newServer(cfg Config) (*Server, error) {
	switch {
	case len(cfg.MAC) != 6:
		return nil, fmt.Errorf("dhcp6: MAC address %q is not an Ethernet address", cfg.MAC)
	case !cfg.First.Is6():
		return nil, fmt.Errorf("dhcp6: first address %s is not IPv6", cfg.First)
	}
	if cfg.Valid == 0 {
		cfg.Valid = 2 * time.Hour
	}
	if cfg.Preferred == 0 {
		cfg.Preferred = cfg.Valid / 2
	}
	s := &Server{
		cfg: cfg, id: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cfg.MAC},
		log: cfg.Logger, done: make(chan struct{}),
		leases: make(map[string]netip.Addr), next: cfg.First, heard: make(map[dhcpv6.MessageType]int),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Close stops the server and closes its socket.
func (s *Server) Close() error {
	err := s.srv.Close()
	<-s.done
	return err
}

// Leases returns the address of each client, "DUID/IAID" in hexadecimal, that has or
// had one.
func (s *Server) Leases() map[string]netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.leases)
}

// Heard returns how many messages of a kind were for this server.
func (s *Server) Heard(kind dhcpv6.MessageType) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard[kind]
}

// Forget makes the server forget all leases, as one does that is started again.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.leases)
	s.next = s.cfg.First
}

func (s *Server) handle(conn net.PacketConn, client net.Addr, m dhcpv6.DHCPv6) {
	msg, ok := m.(*dhcpv6.Message)
	if !ok {
		return // from a relay
	}
	reply := s.answer(msg)
	if reply == nil {
		return
	}
	if _, err := conn.WriteTo(reply.ToBytes(), client); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Warn("dhcp6 reply not sent", "client", client, "err", err)
		return
	}
	s.log.Debug("dhcp6", "client", client, "message", msg.MessageType, "reply", reply.MessageType)
}

// answer makes the reply to m (RFC 8415, 18.3), nil where the server stays silent.
func (s *Server) answer(m *dhcpv6.Message) *dhcpv6.Message {
	client, server := m.Options.ClientID(), m.Options.ServerID()
	if client == nil || server != nil && !server.Equal(s.id) {
		return nil // meant for another server
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard[m.MessageType]++
	kind := dhcpv6.MessageTypeReply
	grants, must := true, false // a lease may be new; a server must be named
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		kind = dhcpv6.MessageTypeAdvertise
	case dhcpv6.MessageTypeRequest:
		must = true
	case dhcpv6.MessageTypeRenew:
		grants, must = false, true
	case dhcpv6.MessageTypeRebind:
		grants = false
	default: // leases are for ever: a release and a decline change nothing
		return nil
	}
	ia := m.Options.OneIANA()
	if ia == nil || must && server == nil {
		return nil
	}
	reply := &dhcpv6.Message{MessageType: kind, TransactionID: m.TransactionID}
	reply.AddOption(dhcpv6.OptClientID(client))
	reply.AddOption(dhcpv6.OptServerID(s.id))
	reply.AddOption(s.grant(fmt.Sprintf("%x/%x", client.ToBytes(), ia.IaId), ia.IaId, grants))
	if len(s.cfg.DNS) > 0 {
		var dns []net.IP
		for _, a := range s.cfg.DNS {
			dns = append(dns, a.AsSlice())
		}
		reply.AddOption(dhcpv6.OptDNS(dns...))
	}
	return reply
}

// grant answers for one identity association.
func (s *Server) grant(client string, iaid [4]byte, anew bool) *dhcpv6.OptIANA {
	answer := &dhcpv6.OptIANA{IaId: iaid, T1: s.cfg.T1, T2: s.cfg.T2}
	addr, known := s.leases[client]
	switch {
	case !known && !anew:
		answer.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoBinding, StatusMessage: "never seen"})
		return answer
	case !known:
		addr, s.next = s.next, s.next.Next()
		s.leases[client] = addr
	}
	answer.Options.Add(&dhcpv6.OptIAAddress{
		IPv6Addr: addr.AsSlice(), PreferredLifetime: s.cfg.Preferred, ValidLifetime: s.cfg.Valid,
	})
	return answer
}
