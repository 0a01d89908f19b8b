// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// wayPause is how long is counted before it is told what was.
	wayPause = 500 * time.Millisecond
	// wayPort is that of the datagrams which are bound to the proxy.
	wayPort = 9
	// shortcutRoutes is the protocol of routes around proxies.
	shortcutRoutes = 'u'
)

// sightings count what a packet socket on the proxy sees going out to the peer.
type sightings struct{ all, bound atomic.Int64 }

// tellWay tells which way goes what is sent to a peer by others, and by a socket that is
// bound to the proxy; place is ADDRESS or ADDRESS@PROXY. The proxy's own counter, which has
// what its ports sent, tells that something was sent; a packet socket, whether that went
// through the proxy.
func tellWay(ctx context.Context, place string) error {
	address, name, _ := strings.Cut(place, "@")
	name = cmp.Or(name, role)
	peer, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	proxy, err := netlink.LinkByName(name)
	for err != nil { // the role comes up after the one that services wait for
		time.Sleep(wayPause)
		proxy, err = netlink.LinkByName(name)
	}
	seen := new(sightings)
	if err := seen.follow(proxy.Attrs().Index, peer); err != nil {
		return err
	}
	bound, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptString(bound, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name)
	}
	if err != nil {
		return fmt.Errorf("bind to %s: %w", name, err)
	}
	before := proxy.Attrs().Statistics.TxPackets
	watch(ctx, func() (string, error) {
		if err := unix.Sendto(bound, nil, 0, &unix.SockaddrInet4{Port: wayPort, Addr: peer.As4()}); err != nil {
			return "", err
		}
		time.Sleep(wayPause)
		proxy, err := netlink.LinkByName(name)
		if err != nil {
			return "", err
		}
		ports, astray, err := routesOf(proxy)
		if err != nil {
			return "", err
		}
		sent := proxy.Attrs().Statistics.TxPackets - before
		before += sent
		through, bound := seen.all.Swap(0), seen.bound.Swap(0)
		way := "nowhere"
		switch {
		case through > 0:
			way = "through " + name
		case sent > 2: // beside what is bound, and a question for a neighbour
			way = "around " + name
		}
		return fmt.Sprintf("way to %s: %s, bound through %s: %t, routes left: %t, astray: %d", peer, way, name, bound > 0, ports > 0, astray), nil
	})
	return nil
}

// routesOf counts the routes around a proxy by ports of its, and those of the guest that are
// by an interface which is neither the active port of a proxy nor a proxy.
func routesOf(proxy netlink.Link) (ports, astray int, err error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: shortcutRoutes}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return 0, 0, err
	}
	for _, r := range routes {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			astray++
			continue
		}
		if _, is := l.(*netlink.Bond); is {
			continue
		}
		master, err := netlink.LinkByIndex(l.Attrs().MasterIndex)
		if bond, is := master.(*netlink.Bond); err != nil || !is || bond.ActiveSlave != l.Attrs().Index {
			astray++
		}
		if l.Attrs().MasterIndex == proxy.Attrs().Index {
			ports++
		}
	}
	return ports, astray, nil
}

// follow counts, in the background.
func (s *sightings) follow(ifindex int, peer netip.Addr) error {
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all))
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex})
	}
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	go func() {
		buf := make([]byte, 128)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				say("packet socket: %v", err)
				return
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype != unix.PACKET_OUTGOING || n < 28 || buf[0]>>4 != 4 || netip.AddrFrom4([4]byte(buf[16:20])) != peer {
				continue
			}
			if buf[9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(buf[22:]) == wayPort {
				s.bound.Add(1)
			} else {
				s.all.Add(1)
			}
		}
	}()
	return nil
}
