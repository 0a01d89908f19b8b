// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// ErrNak says that the server has taken the address back.
var ErrNak = errors.New("the DHCP server refuses the address")

// ErrLease says that an answer is no lease that could be used.
var ErrLease = errors.New("unusable DHCP lease")

// firstTimeout is the wait for the first answer; it doubles with each of
// tries. RFC 2131, 4.1 proposes 4 s for the networks of 1997.
const (
	firstTimeout = time.Second
	tries        = 4
)

// wanted are the options asked for.
var wanted = dhcpv4.WithRequestedOptions(
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionDomainName, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionNTPServers,
)

// A dialFunc opens a client that sends from a leased address, or from none if
// that is invalid.
type dialFunc func(log *slog.Logger, l Link, from netip.Addr) (*nclient4.Client, error)

// A client asks DHCP servers on behalf of one interface. The sockets are open
// during an exchange only: a packet socket costs every frame that arrives.
type client struct {
	link     Link
	id       []byte // option 61
	hostname string
	now      func() time.Duration // CLOCK_BOOTTIME
	dial     dialFunc
	log      *slog.Logger
}

func (c *client) identity() []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{wanted, dhcpv4.WithOption(dhcpv4.OptClientIdentifier(c.id))}
	if c.hostname != "" {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(c.hostname)))
	}
	return m
}

// acquire gets a new lease.
func (c *client) acquire(ctx context.Context) (*Lease, error) {
	nc, err := c.dial(c.log, c.link, netip.Addr{})
	if err != nil {
		return nil, fmt.Errorf("DHCP: %w", err)
	}
	defer nc.Close()
	start := c.now()
	got, err := nc.Request(ctx, c.identity()...)
	if err != nil {
		return nil, fmt.Errorf("DHCP: %w", nak(err))
	}
	return lease(got.ACK, start)
}

// reclaim asks whether a remembered lease still holds, on a link that has just
// come back (RFC 2131, 3.2: INIT-REBOOT).
func (c *client) reclaim(ctx context.Context, old *Lease) (*Lease, error) {
	return c.confirm(ctx, "reclaim", netip.Addr{}, nclient4.DefaultServers,
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(old.Address.Addr().AsSlice())))
}

// renew asks the server that granted the lease to extend it.
func (c *client) renew(ctx context.Context, old *Lease) (*Lease, error) {
	server := &net.UDPAddr{IP: old.Server.AsSlice(), Port: nclient4.ServerPort}
	return c.confirm(ctx, "renew", old.Address.Addr(), server,
		dhcpv4.WithClientIP(old.Address.Addr().AsSlice()))
}

// rebind asks any server to extend the lease.
func (c *client) rebind(ctx context.Context, old *Lease) (*Lease, error) {
	return c.confirm(ctx, "rebind", netip.Addr{}, nclient4.DefaultServers,
		dhcpv4.WithClientIP(old.Address.Addr().AsSlice()))
}

// confirm sends one DHCPREQUEST for an address that was leased before.
func (c *client) confirm(ctx context.Context, op string, from netip.Addr, to *net.UDPAddr, how dhcpv4.Modifier) (*Lease, error) {
	nc, err := c.dial(c.log, c.link, from)
	if err != nil {
		return nil, fmt.Errorf("DHCP %s: %w", op, err)
	}
	defer nc.Close()
	mods := append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(c.link.MAC),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)),
		how,
	}, c.identity()...)
	req, err := dhcpv4.New(mods...)
	if err != nil {
		return nil, fmt.Errorf("DHCP %s: %w", op, err)
	}
	start := c.now()
	ack, err := nc.SendAndRead(ctx, to, req, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return nil, fmt.Errorf("DHCP %s: %w", op, err)
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return nil, fmt.Errorf("DHCP %s: %w", op, ErrNak)
	}
	return lease(ack, start)
}

// nak makes nclient4's way of telling a refusal ours.
func nak(err error) error {
	var n *nclient4.ErrNak
	if errors.As(err, &n) {
		return fmt.Errorf("%w: %w", ErrNak, err)
	}
	return err
}

// lease reads a DHCPACK to a request sent at the time start. Options that are
// missing or make no sense are left out, but an address there must be.
func lease(ack *dhcpv4.DHCPv4, start time.Duration) (*Lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return nil, fmt.Errorf("%w: address %s", ErrLease, ack.YourIPAddr)
	}
	bits := classBits(addr)
	if mask := ack.SubnetMask(); mask != nil {
		if ones, size := mask.Size(); size == 32 && ones > 0 {
			bits = ones
		}
	}
	l := &Lease{Address: netip.PrefixFrom(addr, bits), DNS: addrs(ack.DNS()), Domain: domain(ack.DomainName())}
	if server, ok := netip.AddrFromSlice(ack.ServerIdentifier().To4()); ok {
		l.Server = server
	}
	l.Routes, l.NTP = routes(ack), addrs(ack.NTPServers())
	time := ack.IPAddressLeaseTime(0)
	if time <= 0 {
		return nil, fmt.Errorf("%w: no lease time", ErrLease)
	}
	l.setTimes(start, time, ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0))
	return l, nil
}

// classBits returns the length of the network prefix by the address classes of
// RFC 791, for servers that send no mask.
func classBits(a netip.Addr) int {
	switch first := a.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	}
	return 24
}

// routes returns the routes of an answer. Where there are classless routes
// (option 121) the router option must be ignored (RFC 3442).
func routes(ack *dhcpv4.DHCPv4) []Route {
	var rs []Route
	for _, r := range ack.ClasslessStaticRoute() {
		if r == nil || r.Dest == nil {
			continue
		}
		to, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		gw, ok2 := netip.AddrFromSlice(r.Router.To4())
		ones, size := r.Dest.Mask.Size()
		if ok && ok2 && size == 32 {
			rs = append(rs, Route{To: netip.PrefixFrom(to, ones).Masked(), Gateway: gw})
		}
	}
	if len(rs) > 0 {
		return rs
	}
	for _, gw := range addrs(ack.Router()) {
		return []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: gw}}
	}
	return nil
}

// addrs returns the IPv4 addresses of ips that can be a host's.
func addrs(ips []net.IP) []netip.Addr {
	var as []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && !a.IsUnspecified() && !a.IsMulticast() {
			as = append(as, a)
		}
	}
	return as
}

// domain returns a domain name from the network if it can be written to
// resolv.conf, where a newline would start another line.
func domain(s string) string {
	ok := func(r rune) bool {
		return r == '.' || r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	s = strings.TrimRight(s, "\x00")
	if strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) >= 0 || len(s) > 253 {
		return ""
	}
	return s
}

// messageLog tells the log about messages, for who debugs.
type messageLog struct{ log *slog.Logger }

func (m messageLog) PrintMessage(prefix string, msg *dhcpv4.DHCPv4) {
	m.log.Debug("DHCP "+prefix, "type", msg.MessageType(), "xid", msg.TransactionID, "your_ip", msg.YourIPAddr)
}

func (m messageLog) Printf(format string, v ...any) { m.log.Debug("DHCP " + fmt.Sprintf(format, v...)) }

// dialDHCP opens a client on a real interface. It hears every answer that
// reaches the interface, whatever address it was sent to: servers differ in
// whether they broadcast. Without a leased address it broadcasts; with one it
// sends through the kernel, to the server alone.
func dialDHCP(log *slog.Logger, l Link, from netip.Addr) (*nclient4.Client, error) {
	raw, err := packet.Listen(&net.Interface{Index: l.Index, Name: l.Name, MTU: l.MTU, HardwareAddr: l.MAC},
		packet.Datagram, unix.ETH_P_IP, nil)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", l.Name, err)
	}
	conn := nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: nclient4.ClientPort})
	if from.IsValid() {
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: from.AsSlice(), Port: nclient4.ClientPort})
		if err != nil {
			raw.Close()
			return nil, fmt.Errorf("socket on %s: %w", from, err)
		}
		conn = &unicastConn{PacketConn: conn, udp: udp}
	}
	nc, err := nclient4.NewWithConn(conn, l.MAC, nclient4.WithTimeout(firstTimeout), nclient4.WithRetry(tries), nclient4.WithLogger(messageLog{log}))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return nc, nil
}

// unicastConn sends through the kernel and receives from the link.
type unicastConn struct {
	net.PacketConn
	udp *net.UDPConn
}

func (c *unicastConn) WriteTo(b []byte, to net.Addr) (int, error) { return c.udp.WriteTo(b, to) }

func (c *unicastConn) Close() error {
	return errors.Join(c.udp.Close(), c.PacketConn.Close())
}
