// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Rounds and Pause are how often and how far apart an announcement should be
// repeated, for nobody acknowledges one: RFC 5227 1.1 ANNOUNCE_NUM and
// ANNOUNCE_INTERVAL, in seconds.
const (
	Rounds = 2
	Pause  = 2
)

// Interface is one whose addresses are announced.
type Interface struct {
	Index     int
	Name      string
	MAC       net.HardwareAddr
	Addresses []netip.Addr
	Router    bool // it forwards IPv6
}

// frames builds what the interface has to say.
func (i Interface) frames() ([][]byte, error) {
	if len(i.Addresses) == 0 {
		b, err := RARP(i.MAC)
		return [][]byte{b}, err
	}
	var frames [][]byte
	for _, a := range i.Addresses {
		var b []byte
		var err error
		if a.Is4() {
			b, err = ARP(i.MAC, a)
		} else {
			b, err = Advertisement(i.MAC, a, i.Router)
		}
		if err != nil {
			return nil, err
		}
		frames = append(frames, b)
	}
	return frames, nil
}

// Send announces every address of the interface and of what is stacked on it,
// once, and returns how many frames were sent. Each frame goes out through the
// interface that has the address, so VLAN tags and bridges are the kernel's affair.
// An interface that fails does not keep the others from being announced; the error
// joins all failures. A nil logger discards. It needs CAP_NET_RAW.
func Send(ctx context.Context, logger *slog.Logger, ifindex int) (int, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	stack, err := Stack(ifindex)
	if err != nil {
		return 0, err
	}
	sent := 0
	var errs []error
	for _, i := range stack {
		if err := ctx.Err(); err != nil {
			return sent, errors.Join(append(errs, fmt.Errorf("announce: %w", err))...)
		}
		n, err := send(i)
		sent += n
		if err != nil {
			errs = append(errs, fmt.Errorf("announce: %s: %w", i.Name, err))
		}
		logger.Debug("announce", "iface", i.Name, "mac", i.MAC, "addresses", i.Addresses, "sent", n)
	}
	return sent, errors.Join(errs...)
}

func send(i Interface) (int, error) {
	frames, err := i.frames()
	if err != nil {
		return 0, err
	}
	// Protocol 0: the socket receives nothing.
	c, err := packet.Listen(&net.Interface{Index: i.Index, Name: i.Name}, packet.Raw, 0, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for n, b := range frames {
		if _, err := c.WriteTo(b, &packet.Addr{HardwareAddr: net.HardwareAddr(b[:6])}); err != nil {
			return n, err
		}
	}
	return len(frames), nil
}

// Stack returns the interface and those that send through it, as far as they are up:
// VLANs, macvlans, ipvlans, the bridge it is a port of, and what is stacked on these
// in turn.
func Stack(ifindex int) ([]Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("announce: list interfaces: %w", err)
	}
	addrs, err := addresses()
	if err != nil {
		return nil, err
	}
	var stack []Interface
	for _, l := range above(links, ifindex) {
		a := l.Attrs()
		if a.Flags&net.FlagUp == 0 || len(a.HardwareAddr) != 6 {
			continue
		}
		stack = append(stack, Interface{
			Index:     a.Index,
			Name:      a.Name,
			MAC:       a.HardwareAddr,
			Addresses: addrs[a.Index],
			Router:    forwards(a.Name),
		})
	}
	return stack, nil
}

// above returns the link of that index and, behind it, all links stacked on it.
func above(links []netlink.Link, ifindex int) []netlink.Link {
	var stack []netlink.Link
	seen := map[int]bool{ifindex: true}
	for next := []int{ifindex}; len(next) > 0; next = next[1:] {
		at := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == next[0] })
		if at < 0 {
			continue
		}
		below := links[at]
		stack = append(stack, below)
		for _, l := range links {
			if i := l.Attrs().Index; !seen[i] && on(l, below) {
				seen[i] = true
				next = append(next, i)
			}
		}
	}
	return stack
}

// on reports whether what l sends may leave through below. In other kinds the
// parent is something else: a veth's peer, a tunnel's underlay.
func on(l, below netlink.Link) bool {
	switch l.Type() {
	case "vlan", "macvlan", "macvtap", "ipvlan":
		return l.Attrs().ParentIndex == below.Attrs().Index
	case "bridge":
		return l.Attrs().Index == below.Attrs().MasterIndex
	}
	return false
}

// addresses returns the announceable addresses by interface. Those being checked
// for duplicates, or found to be one, are not.
func addresses() (map[int][]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("announce: list addresses: %w", err)
	}
	addrs := make(map[int][]netip.Addr)
	for _, a := range list {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		addrs[a.LinkIndex] = append(addrs[a.LinkIndex], ip.Unmap())
	}
	return addrs, nil
}

func forwards(iface string) bool {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", iface, "forwarding"))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}
