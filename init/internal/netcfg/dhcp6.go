// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
)

// A dialFunc6 opens a client that sends from a link-local address.
type dialFunc6 func(l Link, from netip.Addr) (*nclient6.Client, error)

// A client6 asks DHCPv6 servers for one address on behalf of one role (RFC 8415,
// IA_NA). Its socket is open during an exchange only.
type client6 struct {
	link Link
	id   identity6
	now  func() time.Duration // CLOCK_BOOTTIME
	dial dialFunc6
	// from returns the interface's link-local address once it can be sent from.
	from func(ctx context.Context) (netip.Addr, error)
	log  *slog.Logger
}

// acquire gets a lease, of the address hint if that is valid and the server agrees.
func (c *client6) acquire(ctx context.Context, hint netip.Addr) (*Lease6, error) {
	nc, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	defer nc.Close()
	solicit, err := dhcpv6.NewSolicit(c.link.MAC, dhcpv6.WithClientID(c.id.duid), dhcpv6.WithIAID(c.id.iaid), address(hint))
	if err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	advert, err := c.ask(ctx, nc, solicit, dhcpv6.MessageTypeAdvertise)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 solicit: %w", err)
	}
	request, err := dhcpv6.NewRequestFromAdvertise(advert)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 request: %w", err)
	}
	return c.request(ctx, nc, "request", request)
}

// renew asks the server that granted the lease to extend it.
func (c *client6) renew(ctx context.Context, old *Lease6) (*Lease6, error) {
	return c.extend(ctx, "renew", dhcpv6.MessageTypeRenew, old)
}

// rebind asks any server to extend the lease, or whether it still holds on a link
// that has just come back (RFC 8415, 18.2.12).
func (c *client6) rebind(ctx context.Context, old *Lease6) (*Lease6, error) {
	return c.extend(ctx, "rebind", dhcpv6.MessageTypeRebind, old)
}

func (c *client6) extend(ctx context.Context, op string, kind dhcpv6.MessageType, old *Lease6) (*Lease6, error) {
	nc, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 %s: %w", op, err)
	}
	defer nc.Close()
	m, err := c.message(kind, old)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 %s: %w", op, err)
	}
	return c.request(ctx, nc, op, m)
}

// decline tells the server that somebody else has the address (RFC 8415, 18.2.8).
func (c *client6) decline(ctx context.Context, old *Lease6) error {
	nc, err := c.open(ctx)
	if err != nil {
		return fmt.Errorf("DHCPv6 decline: %w", err)
	}
	defer nc.Close()
	m, err := c.message(dhcpv6.MessageTypeDecline, old)
	if err == nil {
		_, err = nc.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
	}
	if err != nil {
		return fmt.Errorf("DHCPv6 decline: %w", err)
	}
	return nil
}

// message makes a message about a lease; only a rebind is for any server.
func (c *client6) message(kind dhcpv6.MessageType, old *Lease6) (*dhcpv6.Message, error) {
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(c.id.duid), dhcpv6.WithIAID(c.id.iaid), address(old.Address))
	if err != nil {
		return nil, err
	}
	m.MessageType = kind
	m.AddOption(dhcpv6.OptElapsedTime(0))
	m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
	if kind != dhcpv6.MessageTypeRebind {
		raw, err := hex.DecodeString(old.Server)
		if err != nil {
			return nil, err
		}
		server, err := dhcpv6.DUIDFromBytes(raw)
		if err != nil {
			return nil, err
		}
		m.AddOption(dhcpv6.OptServerID(server))
	}
	return m, nil
}

// address puts an address into the identity association of a message.
func address(a netip.Addr) dhcpv6.Modifier {
	if !a.IsValid() {
		return func(dhcpv6.DHCPv6) {}
	}
	return dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
}

// request sends m and reads the lease of the answer.
func (c *client6) request(ctx context.Context, nc *nclient6.Client, op string, m *dhcpv6.Message) (*Lease6, error) {
	start := c.now()
	reply, err := c.ask(ctx, nc, m, dhcpv6.MessageTypeReply)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 %s: %w", op, err)
	}
	lease, err := c.id.lease6(reply, start)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 %s: %w", op, err)
	}
	return lease, nil
}

// ask sends m and returns the first answer of a kind. An advertisement without an
// address is none (RFC 8415, 18.2.9); what it says is told if no better one comes.
func (c *client6) ask(ctx context.Context, nc *nclient6.Client, m *dhcpv6.Message, kind dhcpv6.MessageType) (*dhcpv6.Message, error) {
	var refusal error
	c.log.Debug("DHCPv6 sent", "type", m.MessageType, "xid", m.TransactionID)
	answer, err := nc.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, func(got *dhcpv6.Message) bool {
		c.log.Debug("DHCPv6 received", "type", got.MessageType, "xid", got.TransactionID)
		if got.MessageType != kind {
			return false
		}
		if kind == dhcpv6.MessageTypeAdvertise {
			_, refusal = c.id.lease6(got, 0)
		}
		return refusal == nil
	})
	if err != nil && refusal != nil {
		return nil, errors.Join(err, refusal)
	}
	return answer, err
}

func (c *client6) open(ctx context.Context) (*nclient6.Client, error) {
	from, err := c.from(ctx)
	if err != nil {
		return nil, err
	}
	return c.dial(c.link, from)
}

// dialDHCPv6 opens a client on a real interface. Being bound to a link-local address
// it sends to the servers of that link, and hears those alone.
func dialDHCPv6(l Link, from netip.Addr) (*nclient6.Client, error) {
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: from.AsSlice(), Port: dhcpv6.DefaultClientPort, Zone: l.Name})
	if err != nil {
		return nil, fmt.Errorf("socket on %s: %w", l.Name, err)
	}
	nc, err := nclient6.NewWithConn(conn, l.MAC, nclient6.WithTimeout(firstTimeout), nclient6.WithRetry(tries))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return nc, nil
}
