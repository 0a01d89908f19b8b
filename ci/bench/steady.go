// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/answer"
	"github.com/umbra-vm/umbra/ci/bench/internal/line"
	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/peer"
)

// Bounds of the proxy's instructions over the bare NIC's.
const (
	udpTarget = 1.05 // per datagram of 64 bytes
	tcpTarget = 1.01 // per MiB
)

// The guests, by what they send with.
const (
	guestProxy    = "proxy"
	guestShortcut = "shortcut" // around the proxy
	guestBare     = "bare-nic"
)

// discardAddr is the host and the port that swallow what the guest sends, sourceAddr
// those that send what it asks for, sinkAddr those that say when they have what it sent.
var (
	discardAddr = netip.MustParseAddrPort("10.99.0.2:9")
	sourceAddr  = netip.AddrPortFrom(discardAddr.Addr(), 19)
	sinkAddr    = netip.AddrPortFrom(discardAddr.Addr(), 7)
	discardMAC  = net.HardwareAddr{0x02, 0x75, 0x6d, 0x62, 0x72, 0x62}
)

// steadyLimit bounds one guest; counting instructions makes it slow.
const steadyLimit = 10 * time.Minute

// A variant is a guest that is compared with others, by the words that its kernel's command
// line has more than theirs.
type variant struct{ name, cmdline string }

// variants are all of them.
var variants = []variant{
	{guestProxy, ""},
	{guestShortcut, "umbra.config=" + base64.StdEncoding.EncodeToString([]byte("[[role]]\nname = \""+rig.Role+"\"\nshortcut = \"on\"\n"))},
	{guestBare, "umbra.shadow=off"},
}

// steady counts what sending and receiving costs.
func (b *bench) steady(ctx context.Context) error {
	b.progress("steady state: counting the instructions of %d guests", len(variants))
	return b.sideBySide(ctx, GuestClock, "steady", variants, record.UDP, record.UDPCall, record.TCP, record.UDPReceive, record.TCPReceive)
}

// sideBySide runs the same program in guests of the same image that differ in the proxy,
// at the same time. By the guest's clock an instruction takes a nanosecond, and what else
// this machine does makes no difference.
func (b *bench) sideBySide(ctx context.Context, clock Clock, load string, guests []variant, kinds ...record.Kind) error {
	ctx, cancel := context.WithTimeoutCause(ctx, steadyLimit, errors.New("the guest did not end in time"))
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(guests))
	for i, g := range guests {
		wg.Go(func() {
			opts := clock.options(rig.Options{Cmdline: "bench.load=" + load + " " + g.cmdline})
			err := b.collect(ctx, load+"-"+g.name, opts, kinds, func(r record.Record) { b.report.round(clock, g.name, r) })
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", g.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// collect runs one guest to the end of its program, and passes on its records of the kinds.
func (b *bench) collect(ctx context.Context, name string, opts rig.Options, kinds []record.Kind, take func(record.Record)) error {
	g, err := b.startHeard(ctx, name, opts, rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return err
	}
	defer g.close()
	return g.records(ctx, kinds, take)
}

// records reads a guest's records to the end of its program, and passes on those of the kinds.
func (g *guest) records(ctx context.Context, kinds []record.Kind, take func(record.Record)) error {
	for from := 0; ; {
		r, behind, err := next(ctx, g.Host, from, kinds...)
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
		take(r)
		from = behind
	}
}

// startHeard starts a guest on a network with a host that it can send to.
func (b *bench) startHeard(ctx context.Context, name string, opts rig.Options, nic rig.NIC) (*guest, error) {
	g, _, err := b.startLined(ctx, name, opts, nic, func(bool) error { return nil })
	return g, err
}

// startLined is startHeard with the host's link, and with a function that is asked for turns.
func (b *bench) startLined(ctx context.Context, name string, opts rig.Options, nic rig.NIC, next turn) (*guest, *line.Link, error) {
	g, err := b.start(ctx, name, opts, nic)
	if err != nil {
		return nil, nil, err
	}
	port, err := g.bed.Switch.Attach("discard", true)
	if err != nil {
		g.close()
		return nil, nil, err
	}
	l := line.New(port)
	if g.listener, err = discard(l, next); err != nil {
		g.close()
		return nil, nil, err
	}
	return g, l, nil
}

// discard is a host that reads and forgets, and sends when asked.
func discard(link peer.Link, next turn) (*peer.Host, error) {
	h, err := peer.New(answer.New(link), peer.Config{
		MAC: discardMAC, Addresses: []netip.Prefix{netip.PrefixFrom(discardAddr.Addr(), testbed.Subnet4.Bits())},
	})
	if err != nil {
		return nil, err
	}
	err = errors.Join(serve(h, discardAddr, swallowStream, swallowDatagrams), serve(h, sourceAddr, supplyStream, supplyDatagrams),
		serve(h, sinkAddr, func(c net.Conn) { confirmStream(c, next) }, swallowDatagrams))
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// serve lets a host answer at an address until it is closed, with a function for each
// stream and one for all datagrams.
func serve(h *peer.Host, addr netip.AddrPort, stream func(net.Conn), datagrams func(net.PacketConn)) error {
	l, err := h.Listen(addr)
	if err != nil {
		return err
	}
	pc, err := h.ListenPacket(addr)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				stream(c)
			}()
		}
	}()
	go datagrams(pc)
	return nil
}

// swallowStream ends with the stream, which ends with an error when the guest does.
func swallowStream(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func swallowDatagrams(pc net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		if _, _, err := pc.ReadFrom(buf); err != nil {
			return
		}
	}
}
