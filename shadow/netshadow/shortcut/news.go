// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shortcut

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// groups are those that the kernel tells of what a shortcut depends on: whether the port is
// up, neighbours, addresses, routes, and of the obstacles all but arp_filter.
var groups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF,
}

// follow returns a channel that has something whenever there may be news, and an error if
// there will be none. It is closed then, and when ctx ends.
func follow(ctx context.Context) (<-chan error, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	for _, g := range groups {
		if err := conn.JoinGroup(g); err != nil {
			conn.Close()
			return nil, fmt.Errorf("join rtnetlink group %d: %w", g, err)
		}
	}
	news := make(chan error, 1)
	context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		defer close(news)
		for {
			msgs, err := conn.Receive()
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, unix.ENOBUFS): // some were lost
			case err != nil:
				select {
				case news <- fmt.Errorf("receive from rtnetlink: %w", err):
				case <-ctx.Done():
				}
				return
			case !relevant(msgs):
				continue
			}
			select {
			case news <- nil:
			default:
			}
		}
	}()
	return news, nil
}

// relevant reports whether one of the messages is of something else than our own routes.
func relevant(msgs []netlink.Message) bool {
	for _, m := range msgs {
		route := m.Header.Type == unix.RTM_NEWROUTE || m.Header.Type == unix.RTM_DELROUTE
		// struct rtmsg: family, lengths of both prefixes, TOS, table, protocol.
		if !route || len(m.Data) < unix.SizeofRtMsg || m.Data[5] != protocol {
			return true
		}
	}
	return false
}
