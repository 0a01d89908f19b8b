// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// Detach closes the old driver, takes its interface out of the proxy, and keeps
// what it had not sent.
func (s *netShadow) Detach(ctx context.Context, old shadow.Old, rec *shadow.Recovery) error {
	if there, err := s.proxy.exists(); err != nil || !there {
		return err
	}
	mine, err := s.interfaces(old)
	if err != nil {
		return err
	}
	if len(mine) > 0 {
		s.aim(s.targetOf(ifindex(mine[0]), rec))
	}
	err = s.takeOut(ctx, old, mine)
	s.neighbours.pin()
	s.recorder.forget(ctx, mine)
	err = errors.Join(err, s.collect(ctx, rec, false))
	rec.Stamp(ctl.StampHarvested)
	return err
}

// interfaces are those that the driver of a device made, as far as they are there.
func (s *netShadow) interfaces(old shadow.Old) ([]string, error) {
	mine, err := s.class.Hardware.ClassDevices(old.Device, "net")
	if errors.Is(err, drivers.ErrNoDevice) {
		return nil, nil
	}
	return mine, err
}

// takeOut closes a device's interfaces, mine, and takes them out of the proxy.
func (s *netShadow) takeOut(ctx context.Context, old shadow.Old, mine []string) error {
	var errs []error
	if !impatient(old) {
		for _, name := range mine {
			errs = append(errs, s.proxy.close(name), s.failOver(name), s.proxy.release(name))
		}
	}
	// virtio frees what is in its rings when the device goes, not when the
	// interface is closed.
	if onVirtio(old.Device) {
		errs = append(errs, s.letGo(ctx, old))
	}
	if slices.Contains(mine, s.standby) || ifindex(s.standby) == 0 {
		s.standby = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(mine, s.iface) {
		s.iface = ""
	}
	return errors.Join(errs...)
}

// failOver makes the TAP the active port if name is.
func (s *netShadow) failOver(name string) error {
	_, active, err := s.proxy.ports()
	if err != nil || active != name {
		return err
	}
	return s.activate(s.proxy.tap)
}

// activate makes iface the active port. The kernel forgets the neighbours with
// that, and what waits for one that it is just asking for: hence they are put
// back before, lest there be one, and after.
func (s *netShadow) activate(iface string) error {
	s.neighbours.pin()
	err := s.proxy.activate(iface)
	s.neighbours.pin()
	return err
}

// collect takes what has been harvested so far and, if it is the last time,
// ends the harvest. What a driver had is older than all that is pending: it was sent
// before, or re-sent to a device that was lost in its turn.
func (s *netShadow) collect(ctx context.Context, rec *shadow.Recovery, last bool) error {
	if !s.armed {
		return nil
	}
	f, err := s.field()
	if err != nil {
		return err
	}
	finish := f.Sync
	if last {
		s.armed = false
		finish = f.Disarm
	}
	if err := finish(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("harvest: %w", err)
	}
	own, behind := f.Take()
	before := s.counters
	s.counters = f.Counters()
	bad := int(s.counters.Seen-before.Seen) - int(s.counters.Taken-before.Taken)
	got := len(own) + len(behind)
	if got > 0 {
		s.keep(slices.Concat(own, s.pending, behind))
	}
	s.account.collected(s.counters.Seen, s.armed)
	if got+bad == 0 {
		return nil
	}
	rec.Count(ctl.Frames{Harvested: got, Dropped: bad})
	s.log.Info("harvested", "frames", got, "not to be saved", bad)
	return nil
}

// keep makes frames those that are pending. A successor finds them on the shelf; one
// that was killed while it sent them has them sent again.
func (s *netShadow) keep(frames []frame.Frame) {
	s.pending = frames
	unsafe := 0
	if err := s.shelf.Put(frames); err != nil {
		s.log.Warn("frames would be lost with this agent", "frames", len(frames), "err", err)
		unsafe = len(frames)
	}
	s.account.keeps(unsafe)
}
