// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/netshadow/announce"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
	"github.com/umbra-vm/umbra/shadow/netshadow/stack"
)

// Complete waits for the link and lets go of what is held: first the harvested
// frames, then those from behind the TAP, then those in the plug, which is the
// order in which they were sent.
func (s *netShadow) Complete(ctx context.Context, dev drivers.Device, rec *shadow.Recovery) error {
	if err := s.usable(ctx, rec); err != nil {
		return err
	}
	s.mu.Lock()
	iface, index := s.iface, s.index
	s.mu.Unlock()
	// What has not moved when ctx ends stays where it is.
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	if s.replaces(ctx, iface) {
		if err := s.comeBack(ctx, iface, index); err != nil {
			return err
		}
	}
	// What the port's queue refuses, and the kernel while the plug is taken away.
	s.aim(harvest.Target{Proxy: ifindex(s.proxy.name), Port: index})
	if err := s.resend(ctx, index, rec); err != nil {
		return err
	}
	if err := s.handOver(ctx, iface, index, rec); err != nil {
		return err
	}
	s.stampStandby(iface, rec)
	if err := s.releasePlug(ctx, index, rec); err != nil {
		return err
	}
	if err := s.closeReader(ctx, index, rec); err != nil {
		return err
	}
	if err := s.class.plug.Settle(ctx, index); err != nil {
		return err
	}
	// What was sent while the plug was taken away was refused by the kernel, and what
	// waited long in the port's queue was dropped by that; both were harvested.
	if err := s.collect(ctx, rec, true); err != nil {
		return err
	}
	if err := s.resend(ctx, index, rec); err != nil {
		return err
	}
	rec.Stamp(ctl.StampReleased)
	s.neighbours.unpin()
	s.neighbours.watch(ctx)
	s.listen()
	s.announce(ctx)
	if s.limits.Hasten {
		go s.hasten(s.class.ctx)
	}
	// A round that gives a standby a few seconds is no reason to record nothing from here on.
	s.record(context.WithoutCancel(ctx), iface)
	// A virtio device that has gone meanwhile must not be asked for anything.
	if !onVirtio(dev) {
		go s.reach(s.class.ctx, iface)
	}
	s.keepLosses(index)
	s.openShortcut(iface, index)
	return nil
}

// openShortcut has what is sent go around the proxy, if the role is to have that, but not to
// a standby: from that to a device there is a change of ports without active mode.
func (s *netShadow) openShortcut(iface string, index int) {
	if s.shortcut != nil && iface != s.standby {
		s.shortcut.Open(s.class.ctx, index)
	}
}

// closeShortcut has all that is sent go through the proxy. If that fails, what goes to the
// port still is harvested when the port is closed, as what went there before.
func (s *netShadow) closeShortcut() {
	if s.shortcut == nil {
		return
	}
	if err := s.shortcut.Close(); err != nil {
		s.log.Error("what is sent may still go around the proxy", "err", err)
	}
}

// keepLosses begins to watch the port; [Class.Prepare] waits for that.
func (s *netShadow) keepLosses(index int) {
	done := make(chan struct{})
	s.mu.Lock()
	s.watching = done
	s.mu.Unlock()
	go func() {
		defer close(done)
		s.watch(index)
	}()
}

// watch has those frames kept that the port loses before anybody knows that its device
// is gone. It loads the harvest programs, so that no recovery has to.
func (s *netShadow) watch(index int) {
	f, err := s.field()
	if err != nil {
		s.log.Error("no harvest: a recovery would lose the frames in the old driver's ring", "err", err)
		return
	}
	if err := f.Watch(index); err != nil {
		s.log.Warn("what a dead device refuses before it is found to be dead is lost", "err", err)
	}
}

// moveLimit is how long the new device may take to send what was held. What it
// has not taken then waits for the next attempt, or the next device.
const moveLimit = 30 * time.Second

// resend sends what was harvested, then what was collected behind the TAP.
func (s *netShadow) resend(ctx context.Context, index int, rec *shadow.Recovery) error {
	frames := s.pending
	n, err := s.send(ctx, index, &frames, rec)
	if n > 0 || err == nil {
		s.keep(frames)
	}
	if err != nil {
		return fmt.Errorf("re-send %d harvested frames, %d sent: %w", len(s.pending)+n, n, err)
	}
	return s.drainReader(ctx, index, rec)
}

// handOver makes iface the proxy's active port. What is sent to the TAP after the last
// look, and before the kernel has changed ports, is overtaken by what follows it.
func (s *netShadow) handOver(ctx context.Context, iface string, index int, rec *shadow.Recovery) error {
	s.neighbours.pin()
	defer s.neighbours.pin()
	if err := s.drainReader(ctx, index, rec); err != nil {
		return err
	}
	if err := s.proxy.activate(iface); err != nil {
		return err
	}
	return s.drainReader(ctx, index, rec)
}

// drainPasses is how often the reader is asked at the most for what came while it was
// drained. Each pass takes less time than the one before, unless programs send faster than
// the new device.
const drainPasses = 8

// drainReader sends what has been read from the TAP, until there is nothing to read.
func (s *netShadow) drainReader(ctx context.Context, index int, rec *shadow.Recovery) error {
	if s.reader == nil {
		return nil
	}
	for range drainPasses {
		frames := s.reader.Take()
		if len(frames) == 0 {
			return nil
		}
		rec.Count(ctl.Frames{Held: len(frames)})
		_, err := s.send(ctx, index, &frames, rec)
		if err != nil { // what was not tried waits for the next device
			s.keep(append(s.pending, frames...))
		}
		s.account.reads(true)
		if err != nil {
			return fmt.Errorf("send held frames: %w", err)
		}
	}
	return nil
}

// closeReader sends the last frames from behind the TAP, which is no longer
// the active port, and stops reading.
func (s *netShadow) closeReader(ctx context.Context, index int, rec *shadow.Recovery) error {
	if s.reader == nil {
		return nil
	}
	if err := s.drainReader(ctx, index, rec); err != nil {
		return err
	}
	rec.Count(ctl.Frames{Dropped: s.reader.Collected().Drops})
	err := s.reader.Close()
	s.reader = nil
	s.account.reads(false)
	return err
}

// send puts frames on the interface, leaves what was not tried in *frames and
// counts the rest: no frame disappears without a number.
func (s *netShadow) send(ctx context.Context, index int, frames *[]frame.Frame, rec *shadow.Recovery) (int, error) {
	if len(*frames) == 0 {
		return 0, nil
	}
	sender, err := hold.NewSender(index)
	if err != nil {
		return 0, err
	}
	defer sender.Close()
	sent, err := sender.Send(ctx, *frames)
	*frames = sent.Rest
	rec.Count(ctl.Frames{Resent: sent.Frames, Dropped: sent.Failed})
	for why, n := range sent.Reasons {
		s.log.Warn("frames refused by the new device", "frames", n, "reason", why)
	}
	return sent.Frames, err
}

func (s *netShadow) releasePlug(ctx context.Context, index int, rec *shadow.Recovery) error {
	res, err := s.class.plug.Release(ctx, ifindex(s.proxy.name), index)
	if errors.Is(err, hold.ErrNotPlugged) {
		return nil
	}
	if err != nil {
		return err
	}
	// What the port's queue refused (res.PortDrops) has been harvested.
	rec.Count(ctl.Frames{Held: res.Held, Dropped: res.Drops})
	return nil
}

// showMAC tells the switches on the way, through the new device alone, where
// the role's MAC is now, and those of what is stacked on the proxy. These are the
// first frames that leave the new device: answers to what is released afterwards find
// their way at once.
func (s *netShadow) showMAC(ctx context.Context, index int) {
	stacked, err := stack.On(ifindex(s.proxy.name))
	var raw [][]byte
	if err == nil {
		raw, err = announce.Shown(s.log, stacked.Places())
	}
	if err == nil {
		frames := make([]frame.Frame, len(raw))
		for i, b := range raw {
			frames[i].Data = b
		}
		var sender *hold.Sender
		if sender, err = hold.NewSender(index); err == nil {
			_, err = sender.Send(ctx, frames)
			sender.Close()
		}
	}
	if err != nil {
		s.log.Warn("the new place of the MAC was not shown", "err", err)
	}
}

// announce tells neighbours where the addresses of the proxy, and of what is
// stacked on it, are now, and switches where the MACs are that are behind. Nobody
// acknowledges an announcement, so it is repeated (RFC 5227 1.1), which nobody waits
// for.
func (s *netShadow) announce(ctx context.Context) {
	once := func(ctx context.Context) {
		if n, err := announce.Send(ctx, s.log, ifindex(s.proxy.name)); err != nil && ctx.Err() == nil {
			s.log.Warn("not everything announced", "sent", n, "err", err)
		}
	}
	once(ctx)
	go func() {
		ctx := context.WithoutCancel(ctx)
		for range announce.Rounds - 1 {
			time.Sleep(announce.Pause * time.Second)
			once(ctx)
		}
	}()
}

// hasten tells the peers of TCP connections to send again. Nobody waits for it. As it is
// called for a role's first device too, which has no connections, the program is loaded
// by the time that a recovery needs it.
func (s *netShadow) hasten(ctx context.Context) {
	h, err := s.class.hastener()
	if err != nil {
		s.log.Warn("peers are not told to send again", "err", err)
		return
	}
	told, err := h.Run(ctx, ifindex(s.proxy.name))
	if err != nil {
		s.log.Warn("not all peers were told to send again", "err", err)
	}
	if told.Connections > 0 {
		s.log.Info("peers were told to send again", "connections", told.Connections, "messages", told.Messages, "untold", told.Untold)
	}
}
