// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// kernel is what reading and replaying need of the kernel. The fake of the
// tests is the other one.
type kernel interface {
	// link reports on the interface with the name.
	link(name string) (report, error)
	// get reports one group's settings.
	get(g group, index int) (report, error)
	// set sets settings of one group at once; cur is a report of it.
	set(g group, index int, ops []oplog.Op, cur report) error
}

// A Client reads and sets the settings of network interfaces. Its methods may
// be called concurrently.
type Client struct {
	k   kernel
	log *slog.Logger
}

// An Option changes how a Client works.
type Option func(*Client)

// WithLogger sets the logger. The default discards.
func WithLogger(l *slog.Logger) Option { return func(c *Client) { c.log = l } }

// Open returns a Client for the network namespace of the calling thread. It
// needs a kernel with ethtool netlink (Linux 5.8 for all groups).
func Open(ctx context.Context, opts ...Option) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := dial()
	if err != nil {
		return nil, err
	}
	c := &Client{k: s, log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(c)
	}
	return c, nil
}

// Close releases the sockets of the client. A Watcher has its own.
func (c *Client) Close() error {
	if s, ok := c.k.(*sockets); ok {
		return s.close()
	}
	return nil
}

// Snapshot reads all settings of an interface from the kernel and its driver.
// A group that the driver does not have, or cannot tell, is left out; the error
// is about the interface as a whole and matches ErrNoInterface where there is
// none. Do not ask a device that may be gone: some drivers read link modes from
// the hardware. What a Watcher saw last is still good then.
func (c *Client) Snapshot(ctx context.Context, ifname string) (Values, error) {
	link, err := c.link(ctx, ifname)
	if err != nil {
		return nil, err
	}
	values := link.values
	for _, g := range everyGroup {
		if g == groupLink {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := c.k.get(g, link.index)
		switch {
		case err != nil && !refused(err):
			return nil, &OpError{"get " + g.String(), ifname, err}
		case err != nil:
			c.log.Debug("settings left out", "device", ifname, "group", g.String(), "err", err)
		}
		maps.Copy(values, r.values)
	}
	return values, nil
}

// CanMTU reports whether an interface can take an MTU in bytes, and the largest
// that it can take, by the limits that its driver gave to the kernel
// (IFLA_MIN_MTU and IFLA_MAX_MTU). A driver without limits has a largest of 0
// and is believed to take any; it may still refuse.
func (c *Client) CanMTU(ctx context.Context, ifname string, mtu int) (ok bool, largest int, err error) {
	link, err := c.link(ctx, ifname)
	if err != nil {
		return false, 0, err
	}
	ok = mtu > 0 && uint64(mtu) >= uint64(link.minMTU) && (link.maxMTU == 0 || uint64(mtu) <= uint64(link.maxMTU))
	return ok, int(link.maxMTU), nil
}

func (c *Client) link(ctx context.Context, ifname string) (report, error) {
	if err := ctx.Err(); err != nil {
		return report{}, err
	}
	if ifname == "" || len(ifname) >= unix.IFNAMSIZ {
		return report{}, &OpError{"get link", ifname, unix.ENODEV}
	}
	r, err := c.k.link(ifname)
	if err != nil {
		return report{}, &OpError{"get link", ifname, err}
	}
	return r, nil
}

// refused tells what one driver thinks of one setting from errors of the
// kernel's interface as a whole. Every errno may come from a driver: ENODEV
// also for an interface whose hardware it believes to be asleep or away
// (netif_device_present), EPERM from a virtual function whose host fixed its
// address.
func refused(err error) bool { return errors.As(err, new(unix.Errno)) || errors.As(err, new(refusal)) }

// sockets is the real kernel.
type sockets struct {
	rt      *netlink.Conn
	tc      *netlink.Conn // for many messages at once: rt may be busy with notifications
	ethtool *genetlink.Conn
	ioctls  ioctls
	family  genetlink.Family
	names   names
}

func dial() (*sockets, error) {
	// Strict asks for the kernel's own words on errors, among other things.
	rt, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: true})
	if err != nil {
		return nil, &OpError{Op: "open rtnetlink", Err: err}
	}
	tc, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: true})
	if err != nil {
		return nil, errors.Join(&OpError{Op: "open rtnetlink", Err: err}, rt.Close())
	}
	ge, err := genetlink.Dial(&netlink.Config{Strict: true})
	if err != nil {
		return nil, errors.Join(&OpError{Op: "open generic netlink", Err: err}, rt.Close(), tc.Close())
	}
	io, err := openIoctls()
	if err != nil {
		return nil, errors.Join(&OpError{Op: "open socket", Err: err}, rt.Close(), tc.Close(), ge.Close())
	}
	s := &sockets{rt: rt, tc: tc, ethtool: ge, ioctls: io}
	if err := s.learn(); err != nil {
		return nil, errors.Join(&OpError{Op: "open ethtool netlink", Err: err}, s.close())
	}
	return s, nil
}

// learn asks for what the kernel numbers as it likes.
func (s *sockets) learn() (err error) {
	if s.family, err = s.ethtool.GetFamily(unix.ETHTOOL_GENL_NAME); err != nil {
		return err
	}
	req, err := stringsRequest()
	if err != nil {
		return err
	}
	msgs, err := s.ethtool.Execute(req, s.family.ID, netlink.Request)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if s.names, err = parseStrings(m); err != nil {
			return err
		}
	}
	return nil
}

func (s *sockets) close() error {
	return errors.Join(s.rt.Close(), s.tc.Close(), s.ethtool.Close(), s.ioctls.close())
}

func (s *sockets) monitor() (id uint32, err error) {
	for _, g := range s.family.Groups {
		if g.Name == unix.ETHTOOL_MCGRP_MONITOR_NAME {
			return g.ID, nil
		}
	}
	return 0, fmt.Errorf("no multicast group %q", unix.ETHTOOL_MCGRP_MONITOR_NAME)
}

func (s *sockets) link(name string) (report, error) { return s.getLink(0, name) }

func (s *sockets) getLink(index int, name string) (report, error) {
	req, err := linkRequest(index, name)
	if err != nil {
		return report{}, err
	}
	msgs, err := s.rt.Execute(req)
	if err != nil {
		return report{}, err
	}
	for _, m := range msgs {
		if r, ok, err := parseLink(m); ok || err != nil {
			return r, err
		}
	}
	return report{}, errors.New("empty answer")
}

func (s *sockets) get(g group, index int) (report, error) {
	switch socketOf(g) {
	case socketLink:
		return s.getLink(index, "")
	case socketCalls:
		return s.call(g, index)
	}
	req, err := ethtoolRequest(g, index)
	if err != nil {
		return report{}, err
	}
	msgs, err := s.ethtool.Execute(req, s.family.ID, netlink.Request)
	if err != nil {
		return report{}, err
	}
	for _, m := range msgs {
		if r, _, ok, err := parseEthtool(m, s.names); ok || err != nil {
			return r, err
		}
	}
	return report{}, errors.New("empty answer")
}

func (s *sockets) set(g group, index int, ops []oplog.Op, cur report) error {
	if g == groupLink {
		for _, op := range ops {
			req, err := linkChange(index, op)
			if err != nil {
				return refusal{err}
			}
			if _, err := s.rt.Execute(req); err != nil {
				return err
			}
		}
		return nil
	}
	if socketOf(g) == socketCalls {
		return s.callChange(g, index, ops, cur)
	}
	req, err := ethtoolChange(g, index, ops, cur, s.names)
	if err != nil {
		return refusal{err}
	}
	_, err = s.ethtool.Execute(req, s.family.ID, netlink.Request|netlink.Acknowledge)
	return err
}

// call reports the settings of a group that no message has.
func (s *sockets) call(g group, index int) (report, error) {
	name, err := s.ioctls.name(index)
	if err != nil {
		return report{}, err
	}
	r := report{index: index, group: g}
	switch g {
	case groupHash:
		r.values, err = s.ioctls.getHash(name, s.names)
	case groupTimestamps:
		r.values, err = s.ioctls.getTimestamps(name, s.names)
	case groupRules:
		r.values, err = s.ioctls.getRules(name)
	case groupQueues:
		r.values, err = getQueues(filepath.Join(sysClassNet, name))
	case groupTraffic:
		r.values, err = s.getTraffic(index)
	}
	return r, err
}

func (s *sockets) callChange(g group, index int, ops []oplog.Op, cur report) error {
	name, err := s.ioctls.name(index)
	if err != nil {
		return err
	}
	switch g {
	case groupHash:
		return s.ioctls.setHash(name, ops, s.names)
	case groupTimestamps:
		return s.ioctls.setTimestamps(name, ops, cur, s.names)
	case groupRules:
		return s.ioctls.setRules(name, ops)
	case groupTraffic:
		return s.setTraffic(index, ops)
	}
	return setQueues(filepath.Join(sysClassNet, name), ops)
}

const sysClassNet = "/sys/class/net"
