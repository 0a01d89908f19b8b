// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package shortcut routes what is sent by IPv4 around a proxy, so that it costs what it costs
// on the bare NIC.
//
// A proxy that is stacked on the device takes each packet through the kernel's transmit path
// twice. But which interface a packet leaves by, the routing table says. A [Shortcut] adds,
// for each gateway and neighbour that the proxy has resolved, a route by the proxy's port
// itself that comes first, and gives the port the hardware address that the proxy knows.
// Addresses, all other routes, and all that is received stay with the proxy. So whatever
// does not ask the routing table, or finds nothing of ours in it, takes the proxy: sockets
// that are bound to it, packet sockets, groups, IPv6, neighbours that are not known yet.
// When the routes go, the next packet of each socket finds those of the proxy; if the port
// is closed or disappears, the kernel takes them away by itself.
//
// A port resolves nobody: answers come in on the proxy. So the kernel is told to keep asking
// for the proxy's neighbours that have a route (NTF_EXT_MANAGED), and the port's entries
// follow.
//
// # Where there is none
//
// What is received comes by the proxy, whereas routes say that its sender is behind the port.
// The strict test for a packet's source would drop all of it, and a filter of ARP would answer
// nobody. What is forwarded would leave by the port too: rules of netfilter that name the
// proxy, a masquerade among them, would not see it, and connections that are masqueraded are
// forgotten when the port is closed. With any of these there are no routes, and [Shortcut.State]
// says why.
//
// The package must never know what a driver or a recovery is; it is told which port to
// route by, and when to stop.
package shortcut

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
)

// protocol is who made a route (linux/rtnetlink.h, rtm_protocol): by it a successor knows
// ours. Numbers from 5 on are the user's, and no program is known to use 'u'.
const protocol = 'u'

// grace is how long a neighbour that the kernel has lost keeps its routes: longer than it
// takes to notice that not the neighbour is dead, but the port's device. What that was given
// until then can be harvested; what waits for a neighbour to be found is lost. Above all it
// is what the kernel has found out by our asking it to ask.
const grace = 10 * time.Second

// pause is the least time between two looks at what there is: news come in crowds.
const pause = 50 * time.Millisecond

// Shortcut is that of one proxy. What it needs to know is in the kernel: a successor of a
// process that was killed goes on with what it finds. Its methods may be used from several
// goroutines.
type Shortcut struct {
	log   *slog.Logger
	proxy string // name of the interface

	mu     sync.Mutex
	cancel context.CancelFunc       // ends the following of news; nil while there is none
	had    map[netip.Addr]host      // neighbours that had a route last
	lost   map[netip.Addr]time.Time // since when the kernel has no address of these
	state  State
}

// State is what there is of a shortcut.
type State struct {
	Routes   int    // by the port
	Obstacle string // why there are none; "" if there may be some, or it is closed
}

// New returns the shortcut around a proxy, which need not exist.
func New(log *slog.Logger, proxy string) *Shortcut {
	return &Shortcut{
		log: log.With("proxy", proxy), proxy: proxy,
		had: make(map[netip.Addr]host), lost: make(map[netip.Addr]time.Time),
	}
}

// State returns what there is now.
func (s *Shortcut) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Open routes by the interface with the ifindex port, and follows what becomes of the
// proxy's routes and neighbours, until ctx ends or Close is called. What cannot be routed
// so takes the proxy, and why is logged.
func (s *Shortcut) Open(ctx context.Context, port int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	ctx, s.cancel = context.WithCancel(ctx)
	news, err := follow(ctx)
	if err != nil {
		s.giveUp(err)
		return
	}
	s.adjust(ctx, port)
	go s.heed(ctx, port, news)
}

// heed adjusts what there is with each piece of news.
func (s *Shortcut) heed(ctx context.Context, port int, news <-chan error) {
	for {
		var over <-chan time.Time
		if s.waits() {
			over = time.After(grace)
		}
		var err error
		select {
		case <-ctx.Done():
			return
		case err = <-news:
		case <-over:
		}
		s.mu.Lock()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.giveUp(err)
		default:
			s.adjust(ctx, port)
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(pause)
	}
}

// waits reports whether a neighbour will lose its routes without further news.
func (s *Shortcut) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lost) > 0
}

// giveUp has everything go through the proxy: who hears no news must not route, as the
// neighbour that frames are sent to may have another address by now.
func (s *Shortcut) giveUp(err error) {
	s.log.Error("all that is sent goes through the proxy: nothing is heard of routes and neighbours", "err", errors.Join(err, s.close()))
	s.state.Obstacle = "nothing is heard of routes and neighbours"
}

// Close has everything go through the proxy when it returns, also what a predecessor had
// going around it. The proxy has the addresses of all neighbours then that had routes.
func (s *Shortcut) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

func (s *Shortcut) close() error {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
	s.state = State{}
	proxy, err := netlink.LinkByName(s.proxy)
	if err != nil {
		return fmt.Errorf("shortcut around %s: %w", s.proxy, err)
	}
	index := proxy.Attrs().Index
	err = dump.Settled(func() error {
		_, ours, err := table(index)
		return errors.Join(remind(s.had, ours, index), remove(ours), err)
	})
	clear(s.lost)
	if err != nil {
		return fmt.Errorf("shortcut around %s: %w", s.proxy, err)
	}
	return nil
}

// adjust makes routes and neighbours what they should be. What fails because the port is
// just changing is no error: there will be news.
func (s *Shortcut) adjust(ctx context.Context, port int) {
	before := s.state
	err := dump.Settled(func() error { return s.change(port) })
	if err != nil && ctx.Err() == nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
		s.log.Warn("not everything is routed around the proxy", "err", err)
	}
	switch now := s.state; {
	case now.Obstacle != before.Obstacle && now.Obstacle != "":
		s.log.Warn("nothing is routed around the proxy", "why", now.Obstacle)
	case now.Routes > 0 && before.Routes == 0:
		s.log.Debug("what is sent is routed around the proxy", "routes", now.Routes)
	}
}

// change brings the kernel to what [view.plan] says: who can be sent to first, then where;
// and the other way round for what is to go.
func (s *Shortcut) change(port int) error {
	proxy, err := netlink.LinkByName(s.proxy)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	index := proxy.Attrs().Index
	v, ours, err := s.view(proxy, port)
	if err != nil {
		return err
	}
	var want plan
	s.state = State{Obstacle: obstacle(os.DirFS("/proc/sys/net/ipv4"), s.proxy)}
	if s.state.Obstacle == "" {
		want = v.plan()
	}
	stale, missing := compare(ours, want.routes, index, port)
	err = errors.Join(remove(stale), introduce(want.hosts, v, port), add(missing, index, port), forget(want.hosts, v, port))
	s.remember(want.hosts)
	for _, r := range want.routes {
		if !r.proxy {
			s.state.Routes++
		}
	}
	return err
}

// remember notes who has routes, and who of these the kernel has lost.
func (s *Shortcut) remember(hosts []host) {
	clear(s.had)
	before := maps.Clone(s.lost)
	clear(s.lost)
	for _, h := range hosts {
		s.had[h.ip] = h
		if !h.lost {
			continue
		}
		s.lost[h.ip] = time.Now()
		if since, ok := before[h.ip]; ok {
			s.lost[h.ip] = since
		}
	}
}

// view reads what the kernel has, and the routes that are ours.
func (s *Shortcut) view(proxy netlink.Link, port int) (v view, ours []netlink.Route, err error) {
	v.proxy, v.had, v.over = proxy.Attrs().Index, maps.Clone(s.had), make(map[netip.Addr]bool)
	if v.neighbours, err = netlink.NeighList(v.proxy, unix.AF_INET); err != nil {
		return v, nil, fmt.Errorf("neighbours: %w", err)
	}
	if v.addresses, err = netlink.AddrList(proxy, unix.AF_INET); err != nil {
		return v, nil, fmt.Errorf("addresses: %w", err)
	}
	// A predecessor's, too.
	entries, err := entriesOf(port)
	if err != nil {
		return v, nil, err
	}
	for ip, mac := range entries {
		v.had[ip] = host{ip: ip, mac: mac}
	}
	for ip, since := range s.lost {
		v.over[ip] = time.Since(since) > grace
	}
	v.routes, ours, err = table(v.proxy)
	return v, ours, err
}
