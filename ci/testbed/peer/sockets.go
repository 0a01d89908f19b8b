// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Listen accepts TCP connections to addr. An unspecified address means every
// address of that family.
func (h *Host) Listen(addr netip.AddrPort) (net.Listener, error) {
	full, proto := fullAddress(addr)
	l, err := gonet.ListenTCP(h.stack, full, proto)
	if err != nil {
		return nil, fmt.Errorf("peer: listen on tcp %s: %w", addr, err)
	}
	return &listener{TCPListener: l}, nil
}

// Dial opens a TCP connection.
func (h *Host) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	full, proto := fullAddress(addr)
	c, err := gonet.DialContextTCP(ctx, h.stack, full, proto)
	if err != nil {
		return nil, fmt.Errorf("peer: dial tcp %s: %w", addr, err)
	}
	return c, nil
}

// ListenPacket opens a UDP socket bound to addr. It may send to and receive
// from the broadcast address.
func (h *Host) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	full, proto := fullAddress(addr)
	wq := new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(udp.ProtocolNumber, proto, wq)
	if terr != nil {
		return nil, fmt.Errorf("peer: listen on udp %s: %s", addr, terr)
	}
	ep.SocketOptions().SetBroadcast(true)
	// Bound to the interface: 255.255.255.255 has no route of its own.
	full.NIC = nicID
	if terr := ep.Bind(full); terr != nil {
		ep.Close()
		return nil, fmt.Errorf("peer: listen on udp %s: %s", addr, terr)
	}
	return &packetConn{UDPConn: gonet.NewUDPConn(wq, ep), ep: ep, wq: wq, done: make(chan struct{})}, nil
}

// Join makes the host listen to an IPv6 group.
func (h *Host) Join(group netip.Addr) error {
	if err := h.stack.JoinGroup(ipv6.ProtocolNumber, nicID, tcpip.AddrFromSlice(group.AsSlice())); err != nil {
		return fmt.Errorf("peer: join %s: %s", group, err)
	}
	return nil
}

func fullAddress(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	full := tcpip.FullAddress{Port: a.Port()}
	if !a.Addr().IsUnspecified() {
		full.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	if a.Addr().Is4() {
		return full, ipv4.ProtocolNumber
	}
	return full, ipv6.ProtocolNumber
}

// listener gives gonet's listener the manners of package net: Close wakes a
// waiting Accept, which returns net.ErrClosed.
type listener struct {
	*gonet.TCPListener
	closed atomic.Bool
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil && l.closed.Load() {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	return c, err
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.closed.Store(true)
		l.Shutdown()
		l.TCPListener.Close()
	})
	return nil
}

// packetConn gives gonet's UDP socket the manners of package net: Close wakes
// a waiting ReadFrom, and an IPv4 address may come in its 16 byte form. It has
// a WriteTo of its own, because gonet's waits for room in the send buffer
// without looking again after it asked to be told, and can wait for ever.
type packetConn struct {
	*gonet.UDPConn
	ep   tcpip.Endpoint
	wq   *waiter.Queue
	once sync.Once
	done chan struct{}
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.UDPConn.ReadFrom(b)
	if err != nil && c.closed() {
		return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}
	}
	return n, addr, err
}

// WriteTo sends a datagram and waits while the send buffer is full. It does
// not regard a write deadline.
func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	ua, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: errors.New("not a UDP address")}
	}
	ip := ua.IP.To4()
	if ip == nil {
		ip = ua.IP
	}
	to := tcpip.FullAddress{Addr: tcpip.AddrFromSlice(ip), Port: uint16(ua.Port)}
	var writable <-chan struct{}
	for {
		n, err := c.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{To: &to})
		switch err.(type) {
		case nil:
			return int(n), nil
		case *tcpip.ErrWouldBlock:
		default:
			return int(n), &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: errors.New(err.String())}
		}
		if writable == nil {
			var entry waiter.Entry
			entry, writable = waiter.NewChannelEntry(waiter.WritableEvents)
			c.wq.EventRegister(&entry)
			defer c.wq.EventUnregister(&entry)
			continue
		}
		select {
		case <-writable:
		case <-c.done:
			return 0, &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: net.ErrClosed}
		}
	}
}

func (c *packetConn) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *packetConn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.SetDeadline(time.Unix(1, 0))
		c.UDPConn.Close()
	})
	return nil
}
