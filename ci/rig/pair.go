// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/ci/streams"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
)

// peerMAC is the address of the peer's NIC, and peerAddr6 what its kernel makes of that
// and of what the testbed's router advertises.
const peerMAC = "52:54:00:75:70:00"

var peerAddr6 = netip.MustParseAddr("fd99::5054:ff:fe75:7000")

// A Pair is a guest that moves, and another one of the same image, which does not, has
// no shadow and is its peer: between their kernels are the connections of package
// streams. The image is one of GuestOptions.Streams. What is sent to the guest while it
// is away is lost, as it is on a cable.
type Pair struct {
	*Rig
	Peer *Rig
}

// pairPatience is how long two guests may take to boot and to connect.
const pairPatience = 2 * time.Minute

var errPair = errors.New("guest and peer did not connect in time")

// StartPair boots the two, and returns when they are connected, by IPv6 if ipv6 is set
// and by IPv4 else.
func StartPair(ctx context.Context, opts Options, nic NIC, ipv6 bool) (*Pair, error) {
	plain := opts
	plain.Name, plain.Cmdline, plain.Dump = "peer", "umbra.shadow=off streams=listen", ""
	peer, err := Start(ctx, plain, NIC{Model: "virtio-net-pci", Slot: plain.SlotsIn()[0], MAC: peerMAC})
	if err != nil {
		return nil, err
	}
	opts.Linkless = true
	p := &Pair{Peer: peer}
	// The hosts live as long as ctx, the waiting does not.
	bound, cancel := context.WithTimeoutCause(ctx, pairPatience, errPair)
	defer cancel()
	addr, err := p.address(bound, ipv6)
	if err == nil {
		opts.Cmdline += " streams=dial@" + addr.String()
		p.Rig, err = Start(ctx, opts, nic)
	}
	if err == nil {
		_, err = p.Host.WaitConsole(bound, streams.Ready)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// address waits until the peer has an address, and returns it.
func (p *Pair) address(ctx context.Context, ipv6 bool) (netip.Addr, error) {
	if _, err := p.Peer.Host.WaitConsole(ctx, streams.Waiting); err != nil {
		return netip.Addr{}, err
	}
	if ipv6 {
		return peerAddr6, nil
	}
	addr, ok := p.Peer.Bed.DHCP.Leases()[peerMAC]
	if !ok {
		return netip.Addr{}, fmt.Errorf("the peer's program runs, and %s has no lease", peerMAC)
	}
	return addr, nil
}

// Failed returns what the program of either guest has said on its present host of a
// connection that failed, "" as long as all live.
func (p *Pair) Failed() string {
	for _, host := range []*vm.VM{p.Host, p.Peer.Host} {
		for _, line := range host.Console.Tail(host.Console.Next()) {
			if strings.Contains(line.Text, streams.Failed) {
				return line.Text
			}
		}
	}
	return ""
}

// Close ends both guests.
func (p *Pair) Close() error {
	var errs []error
	if p.Rig != nil {
		errs = append(errs, p.Rig.Close())
	}
	return errors.Join(append(errs, p.Peer.Close())...)
}
