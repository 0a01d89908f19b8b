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
	"strings"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
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

// maxShown bounds how many MACs are shown at once: a bridge may know very many.
const maxShown = 1024

// Send announces every address of the interface and of what is stacked on it, and
// shows the MACs that are behind these, once, and returns how many frames were sent.
// Each frame goes out through the interface that has the address, so VLAN tags and
// bridges are the kernel's affair; those for MACs behind go out through the interface
// itself. An interface that fails does not keep the others from being announced; the
// error joins all failures. A nil logger discards. It needs CAP_NET_RAW.
func Send(ctx context.Context, logger *slog.Logger, ifindex int) (int, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	stacked, err := stack.On(ifindex)
	if err != nil {
		return 0, fmt.Errorf("announce: %w", err)
	}
	addrs, err := addresses()
	if err != nil {
		return 0, err
	}
	sent := 0
	var errs []error
	for _, below := range stacked.Interfaces {
		i := Interface{
			Index: below.Index, Name: below.Name, MAC: below.MAC,
			Addresses: addrs[below.Index], Router: forwards(below.Name),
		}
		if err := ctx.Err(); err != nil {
			return sent, errors.Join(append(errs, fmt.Errorf("announce: %w", err))...)
		}
		frames, err := i.frames()
		n := 0
		if err == nil {
			n, err = send(i.Index, frames)
		}
		sent += n
		if err != nil {
			errs = append(errs, fmt.Errorf("announce: %s: %w", i.Name, err))
		}
		logger.Debug("announce", "iface", i.Name, "mac", i.MAC, "addresses", i.Addresses, "sent", n)
	}
	frames, err := Shown(logger, stacked.Behind)
	if err == nil && len(frames) > 0 {
		n := 0
		n, err = send(ifindex, frames)
		sent += n
		logger.Debug("announce", "behind", len(stacked.Behind), "sent", n)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("announce: %w", err))
	}
	return sent, errors.Join(errs...)
}

// Shown returns the frames that show places, to be sent below all that is stacked.
func Shown(logger *slog.Logger, places []stack.Place) (frames [][]byte, err error) {
	if len(places) > maxShown {
		logger.Warn("not all MACs are shown", "there are", len(places), "shown", maxShown)
		places = places[:maxShown]
	}
	for _, p := range places {
		b, err := Show(p)
		if err != nil {
			return nil, err
		}
		frames = append(frames, b)
	}
	return frames, nil
}

func send(ifindex int, frames [][]byte) (int, error) {
	// Protocol 0: the socket receives nothing.
	c, err := packet.Listen(&net.Interface{Index: ifindex}, packet.Raw, 0, nil)
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

// addresses returns the announceable addresses by interface. Those being checked
// for duplicates, or found to be one, are not.
func addresses() (map[int][]netip.Addr, error) {
	list, err := dump.Addresses(nil, netlink.FAMILY_ALL)
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
