// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package hasten gets the peers of TCP connections to send again at once what they
// have sent in vain while this host could not be reached.
//
// Whoever gets no acknowledgement waits twice as long before each further attempt. When
// the host is back, its peers are in the middle of such a wait, for as long again as it
// was away. There is one thing that a receiver can say about it: that the host could not
// be reached when the segment came, in the words that a router in front of it would have
// used (ICMP, RFC 792; ICMPv6, RFC 4443). A sender that follows RFC 6069 takes it for what it is,
// a way that was interrupted and no congestion, takes back one doubling, and if the wait is
// over by that, sends. Linux does (net/ipv4/tcp_ipv4.c, tcp_ld_RTO_revert), if the message
// quotes the first byte that it has no acknowledgement of: the next one that the host
// expects, which an eBPF iterator over the kernel's sockets tells.
//
// A message is a hint to a sender which has waited already, and nothing to any other: to
// none is it a reason to give a connection up (RFC 1122 4.2.3.9). But a program on
// Linux that has asked for such errors on its TCP socket (IP_RECVERR, IPV6_RECVERR) gets one
// (ip(7)); so it is for users to decide whether messages are sent.
//
// The package must never know why the host could not be reached.
package hasten

// The object is committed, so that clang is needed only to change the program.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target amd64 -go-package hasten -no-global-types -cflags "-O2 -g -Wall -Werror -I/usr/include" -output-stem sockets sockets bpf/hasten.c

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
)

const (
	// MaxConnections is how many connections' peers are told at the most.
	MaxConnections = 1024
	// Rounds is how often a peer is told that has sent nothing new since: each time it
	// takes back one doubling. Eight undo a wait of 51 s if the first was one of the 200 ms
	// that Linux begins with (TCP_RTO_MIN).
	Rounds = 8
	// burst messages are sent at once, and then none for a pause; nor between two
	// rounds, in which near peers answer. So there are at most 1280 in a second.
	burst = 32
	pause = 25 * time.Millisecond
)

// A Hastener knows the connections of a network namespace.
type Hastener struct {
	objects  socketsObjects
	iterator *link.Iter
}

// New loads the program. It runs only when connections are asked for. New fails on
// a kernel without type information, or one that allows no eBPF.
func New() (*Hastener, error) {
	h := new(Hastener)
	err := loadSocketsObjects(&h.objects, nil)
	if err != nil {
		return nil, fmt.Errorf("hasten: load program: %w", err)
	}
	if h.iterator, err = link.AttachIter(link.IterOptions{Program: h.objects.Connections}); err != nil {
		return nil, errors.Join(fmt.Errorf("hasten: attach program: %w", err), h.objects.Close())
	}
	return h, nil
}

// Close unloads the program.
func (h *Hastener) Close() error { return errors.Join(h.iterator.Close(), h.objects.Close()) }

// Told is what Run has done.
type Told struct {
	Connections int // whose peers were told
	Messages    int
	Untold      int // connections beyond MaxConnections
}

// Run tells the peers of all connections whose local address is on the interface, or
// on one that is stacked on it. It returns after the last round, or when ctx ends, which
// is no error. A peer that cannot be told is left alone and does not keep the others from
// being told; the error is that of the first. It needs CAP_NET_RAW.
func (h *Hastener) Run(ctx context.Context, ifindex int) (told Told, err error) {
	local, err := addresses(ifindex)
	if err != nil {
		return told, err
	}
	s := make(senders)
	defer func() { err = errors.Join(err, s.close()) }()
	var failed error
	var still map[Connection]bool // those that stand where they stood
	for round := range Rounds {
		now, err := h.connections()
		if err != nil {
			return told, err
		}
		scope(now, local)
		if round == 0 {
			still, told.Untold = choose(now, local)
			told.Connections = len(still)
		} else {
			still = unchanged(now, still)
		}
		n, err := s.send(ctx, still)
		told.Messages += n
		if failed == nil {
			failed = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return told, failed
}

// scope notes the interface of connections from link-local addresses that are bound to
// none: without it the kernel does not know the address as its own (EINVAL of bind(2)).
func scope(now []Connection, local map[netip.Addr]int) {
	for i, c := range now {
		if c.Interface == 0 && c.Local.Addr().IsLinkLocalUnicast() {
			now[i].Interface = local[c.Local.Addr()]
		}
	}
}

// choose returns the connections from local addresses to others, as many as may be told,
// and how many more there are.
func choose(now []Connection, local map[netip.Addr]int) (chosen map[Connection]bool, beyond int) {
	chosen = make(map[Connection]bool)
	for _, c := range now {
		switch {
		case local[c.Local.Addr()] == 0 || local[c.Peer.Addr()] != 0:
		case len(chosen) < MaxConnections:
			chosen[c] = true
		default:
			beyond++
		}
	}
	return chosen, beyond
}

// unchanged returns those of the connections that stand where they stood.
func unchanged(now []Connection, before map[Connection]bool) map[Connection]bool {
	still := make(map[Connection]bool)
	for _, c := range now {
		if before[c] {
			still[c] = true
		}
	}
	return still
}

// addresses are those of an interface and of what is stacked on it, each with the index
// of the one that it is on.
func addresses(ifindex int) (map[netip.Addr]int, error) {
	stacked, err := stack.On(ifindex)
	if err != nil {
		return nil, fmt.Errorf("hasten: %w", err)
	}
	on := make(map[int]bool)
	for _, i := range stacked.Interfaces {
		on[i.Index] = true
	}
	list, err := dump.Addresses(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("hasten: list addresses: %w", err)
	}
	out := make(map[netip.Addr]int)
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && on[a.LinkIndex] {
			out[ip.Unmap()] = a.LinkIndex
		}
	}
	return out, nil
}

// senders are raw sockets by the local address and the interface that each is bound to,
// for the kernel to route what they send as it does the connection.
type senders map[end]int

type end struct {
	addr  netip.Addr
	iface int // 0 for any
}

// send tells the peers of the connections, once, and pauses. It takes out those that
// cannot be told.
func (s senders) send(ctx context.Context, connections map[Connection]bool) (sent int, first error) {
	tried := 0
	for c := range connections {
		err := s.tell(c)
		switch {
		case err == nil:
			sent++
		case first == nil:
			first = fmt.Errorf("hasten: tell %s: %w", c.Peer, err)
			fallthrough
		default:
			delete(connections, c)
		}
		if tried++; tried%burst == 0 && !rest(ctx) {
			break
		}
	}
	rest(ctx)
	return sent, first
}

func rest(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

func (s senders) tell(c Connection) error {
	local := end{c.Local.Addr(), c.Interface}
	fd, ok := s[local]
	if !ok {
		var err error
		if fd, err = open(local); err != nil {
			return err
		}
		s[local] = fd
	}
	return unix.Sendto(fd, Message(c), unix.MSG_DONTWAIT, end{c.Peer.Addr(), c.Interface}.sockaddr())
}

// open makes a socket that sends whole IP packets, and receives nothing (raw(7),
// IPPROTO_RAW).
func open(local end) (int, error) {
	family := unix.AF_INET
	if local.addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if local.iface != 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, local.iface)
	}
	if err == nil {
		err = unix.Bind(fd, local.sockaddr())
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("bind to %s: %w", local.addr, err), unix.Close(fd))
	}
	return fd, nil
}

func (e end) sockaddr() unix.Sockaddr {
	if e.addr.Is4() {
		return &unix.SockaddrInet4{Addr: e.addr.As4()}
	}
	sa := &unix.SockaddrInet6{Addr: e.addr.As16()}
	if e.addr.IsLinkLocalUnicast() {
		sa.ZoneId = uint32(e.iface)
	}
	return sa
}

func (s senders) close() error {
	var errs []error
	for _, fd := range s {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}
