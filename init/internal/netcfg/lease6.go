// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// ErrNoBinding says that the server does not know a lease: it may grant the same
// address again.
var ErrNoBinding = errors.New("the DHCPv6 server does not know the lease")

// ErrStatus says that a DHCPv6 server has refused what it was asked for.
var ErrStatus = errors.New("the DHCPv6 server refuses")

// Lease6 is an address that a DHCPv6 server has granted.
type Lease6 struct {
	Address   netip.Addr    `json:"address"`
	Server    string        `json:"server"`       // its DUID, hexadecimal
	Preferred time.Duration `json:"preferred_ns"` // until when new connections use it
	DNS       []netip.Addr  `json:"dns,omitempty"`
	Domains   []string      `json:"domains,omitempty"`
	Term
}

// identity6 is what servers know a role by (RFC 8415, 11 and 12): it follows from
// the MAC that the role had when it was first seen, and stays when that changes.
type identity6 struct {
	duid dhcpv6.DUID
	iaid [4]byte
}

// newIdentity6 makes the identity of a role with a MAC.
func newIdentity6(mac net.HardwareAddr) identity6 {
	return identity6{&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}, iaidOf(mac)}
}

// identity6From reads what a State keeps.
func identity6From(duid []byte) (identity6, error) {
	d, err := dhcpv6.DUIDFromBytes(duid)
	if err != nil {
		return identity6{}, err
	}
	return identity6{d, iaidOf(duid)}, nil
}

// iaidOf returns the last 4 bytes: they differ between the roles of one guest.
func iaidOf(b []byte) (iaid [4]byte) {
	copy(iaid[:], b[max(0, len(b)-len(iaid)):])
	return iaid
}

// lease6 reads an answer to a message sent at the time start. It is an error that
// matches ErrNoBinding, ErrNak, ErrStatus or ErrLease if there is no address to use.
func (id identity6) lease6(m *dhcpv6.Message, start time.Duration) (*Lease6, error) {
	if err := status(m.Options.Status()); err != nil {
		return nil, err
	}
	if c := m.Options.ClientID(); c == nil || !bytes.Equal(c.ToBytes(), id.duid.ToBytes()) {
		return nil, fmt.Errorf("%w: it is for another client", ErrLease)
	}
	server := m.Options.ServerID()
	if server == nil {
		return nil, fmt.Errorf("%w: its server does not say who it is", ErrLease)
	}
	for _, ia := range m.Options.IANA() {
		if ia.IaId != id.iaid {
			continue
		}
		if err := status(ia.Options.Status()); err != nil {
			return nil, err
		}
		// RFC 8415, 21.4: such an option must be discarded.
		if ia.T1 > ia.T2 && ia.T2 > 0 {
			return nil, fmt.Errorf("%w: T1 %v is after T2 %v", ErrLease, ia.T1, ia.T2)
		}
		l := &Lease6{
			Server: fmt.Sprintf("%x", server.ToBytes()), DNS: addrs6(m.Options.DNS()), Domains: domains(m),
		}
		return l, l.take(ia, start)
	}
	return nil, fmt.Errorf("%w: no address", ErrLease)
}

// take takes over the first address of ia that can be used.
func (l *Lease6) take(ia *dhcpv6.OptIANA, start time.Duration) error {
	err := fmt.Errorf("%w: no address", ErrLease)
	for _, a := range ia.Options.Addresses() {
		addr, ok := netip.AddrFromSlice(a.IPv6Addr)
		switch {
		case !ok || !addr.Is6() || addr.Is4In6() || !addr.IsGlobalUnicast():
			err = fmt.Errorf("%w: address %s", ErrLease, a.IPv6Addr)
		case a.PreferredLifetime > a.ValidLifetime: // RFC 8415, 21.6: discarded
			err = fmt.Errorf("%w: %s is preferred for %v, but valid for %v", ErrLease, addr, a.PreferredLifetime, a.ValidLifetime)
		case a.ValidLifetime <= 0:
			err = fmt.Errorf("%s is withdrawn: %w", addr, ErrNak)
		default:
			l.Address = addr
			l.setTimes6(start, a.PreferredLifetime, a.ValidLifetime, ia.T1, ia.T2)
			return nil
		}
	}
	return err
}

// setTimes6 sets the times of a lease that was asked for at the time granted. Where
// the server leaves T1 and T2 to the client (0) they are at 0.5 and 0.8 of the
// preferred lifetime (RFC 8415, 21.4), or of the valid one if none is preferred.
func (l *Lease6) setTimes6(granted, preferred, valid, t1, t2 time.Duration) {
	after := func(d time.Duration) time.Duration {
		if d >= infinite {
			return Forever
		}
		return granted + d
	}
	base := preferred
	if base <= 0 {
		base = valid
	}
	if t1 <= 0 {
		t1 = scale(base, 5)
	}
	if t2 <= 0 {
		t2 = max(t1, scale(base, 8))
	}
	t2 = min(t2, valid)
	t1 = min(t1, t2)
	l.Granted, l.Preferred = granted, after(preferred)
	l.Renew, l.Rebind, l.Expires = after(t1), after(t2), after(valid)
}

// scale returns tenths of d; those of for ever are for ever.
func scale(d time.Duration, tenths int64) time.Duration {
	if d >= infinite {
		return d
	}
	return d / 10 * time.Duration(tenths)
}

// status makes an error of a status code; none is success (RFC 8415, 21.13).
func status(s *dhcpv6.OptStatusCode) error {
	switch {
	case s == nil || s.StatusCode == iana.StatusSuccess:
		return nil
	case s.StatusCode == iana.StatusNoBinding:
		return fmt.Errorf("%w: %s", ErrNoBinding, printable(s.StatusMessage))
	case s.StatusCode == iana.StatusNotOnLink:
		return fmt.Errorf("%w: %s: %s", ErrNak, s.StatusCode, printable(s.StatusMessage))
	}
	return fmt.Errorf("%w: %s: %s", ErrStatus, s.StatusCode, printable(s.StatusMessage))
}

// printable keeps a stranger's words to one line of the log.
func printable(s string) string {
	const longest = 80
	return fmt.Sprintf("%.*q", longest, s)
}

// addrs6 returns the addresses of ips that can be a host's.
func addrs6(ips []net.IP) []netip.Addr {
	var as []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip); ok && a.Is6() && usableServer(a) {
			as = append(as, a)
		}
	}
	return as
}

func usableServer(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback()
}

// domains returns the domains to search that can be written to resolv.conf.
func domains(m *dhcpv6.Message) []string {
	var ds []string
	if list := m.Options.DomainSearchList(); list != nil {
		for _, d := range list.Labels {
			if d = domain(d); d != "" {
				ds = append(ds, d)
			}
		}
	}
	return ds
}

// lifetimes returns how long a lease's address is preferred and valid from now on.
func (l *Lease6) lifetimes(now time.Duration) (preferred, valid time.Duration) {
	left := func(end time.Duration) time.Duration {
		if end == Forever {
			return Forever
		}
		return max(0, end-now)
	}
	return left(l.Preferred), left(l.Expires)
}

// seconds returns a lifetime as the kernel counts it: rounded up, so that an address
// outlives its lease rather than the other way round, and all bits set for ever
// (linux/if_addr.h, INFINITY_LIFE_TIME).
func seconds(d time.Duration) int {
	if d == Forever {
		return math.MaxUint32
	}
	return int(min((d+time.Second-1)/time.Second, math.MaxUint32-1))
}
