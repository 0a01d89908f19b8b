// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
)

// Bounds of the proxy's instructions over the bare NIC's.
const (
	udpTarget = 1.09 // per datagram of 64 bytes
	tcpTarget = 1.02 // per MiB
)

// The guests, by the name of their consoles.
const (
	guestProxy = "proxy"
	guestBare  = "bare-nic"
)

// steadyLimit bounds one guest; counting instructions makes it slow.
const steadyLimit = 5 * time.Minute

// steady runs the same program in two guests of the same image, one with the
// shadow and one with the bare NIC, at the same time. An instruction takes a
// nanosecond of their time, so what else this machine does makes no difference.
func (b *bench) steady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, steadyLimit, errors.New("the guest did not end in time"))
	defer cancel()
	b.progress("steady state: counting the instructions of two guests")
	var (
		wg   sync.WaitGroup
		errs [2]error
	)
	for i, g := range []struct{ name, cmdline string }{{guestProxy, ""}, {guestBare, "umbra.shadow=off"}} {
		wg.Go(func() {
			if err := b.count(ctx, g.name, g.cmdline); err != nil {
				errs[i] = fmt.Errorf("%s: %w", g.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// count runs one guest to its end.
func (b *bench) count(ctx context.Context, name, cmdline string) error {
	shift := 0
	g, err := b.start(ctx, name, rig.Options{ICount: &shift, Cmdline: cmdline + " bench.load=steady"},
		rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return err
	}
	defer g.close()
	if err := discard(g.bed); err != nil {
		return err
	}
	from := 0
	for {
		r, line, err := next(ctx, g.Host, record.UDP, from)
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
		from = line
		b.report.round(name, r)
		if r, from, err = next(ctx, g.Host, record.TCP, from); err != nil {
			return err
		}
		b.report.round(name, r)
	}
}

// discard makes the peer read and forget. It ends with the bed.
func discard(bed *testbed.Bed) error {
	addr := netip.AddrPortFrom(testbed.Subnet4.Addr(), discardPort)
	l, err := bed.Peer.Listen(addr)
	if err != nil {
		return err
	}
	pc, err := bed.Peer.ListenPacket(addr)
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
				// It ends with an error when the guest does.
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			if _, _, err := pc.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
	return nil
}
