// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

// Plain is the network class with the shadow left out: the device's own
// interface carries the role's name, and a replacement is a driver reload and
// nothing more. It is the control that umbra is compared with: everything that
// the real class saves is lost here.
type Plain struct {
	hw  Hardware
	log *slog.Logger
}

var _ shadow.Class = (*Plain)(nil)

// NewPlain returns the class without shadows.
func NewPlain(hw Hardware, log *slog.Logger) *Plain { return &Plain{hw, log} }

// Name returns "net": a config does not change when the shadow is turned off.
func (c *Plain) Name() string { return className }

// Owns reports whether dev is a network controller.
func (c *Plain) Owns(dev drivers.Device) bool { return owns(dev) }

// Identify tells a device by its address, its ids and its interface's MAC.
func (c *Plain) Identify(dev drivers.Device) shadow.Identity { return identify(c.hw, dev) }

// New returns the stand-in for a shadow of the role.
func (c *Plain) New(role shadow.Role, _ *journal.Journal) (shadow.Shadow, error) {
	if _, err := newProxy(role.Name); err != nil {
		return nil, err
	}
	return &plain{name: role.Name, hw: c.hw, log: c.log}, nil
}

type plain struct {
	name string
	hw   Hardware
	log  *slog.Logger
}

// Activate frees the name for the next device: the interface of the dead one
// may live until its driver is unloaded. Only what would hang the guest for
// good is avoided here too, see impatient.
func (p *plain) Activate(ctx context.Context, old shadow.Old, _ *shadow.Recovery) error {
	if impatient(old) {
		return old.Remove(ctx)
	}
	l, err := netlink.LinkByName(p.name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.name, err)
	}
	if err := netlink.LinkSetDown(l); err != nil {
		return fmt.Errorf("set %s down: %w", p.name, err)
	}
	if err := netlink.LinkSetName(l, fmt.Sprintf("old%d", l.Attrs().Index)); err != nil {
		return fmt.Errorf("rename the dead %s: %w", p.name, err)
	}
	return nil
}

func (p *plain) Detach(context.Context, shadow.Old, *shadow.Recovery) error { return nil }

func (p *plain) Open(ctx context.Context, dev drivers.Device, _ *shadow.Recovery) error {
	l, err := waitLink(ctx, p.hw, dev)
	if err != nil {
		return err
	}
	if iface := l.Attrs().Name; iface != p.name {
		if err := netlink.LinkSetName(l, p.name); err != nil {
			return fmt.Errorf("rename %s to %s: %w", iface, p.name, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", p.name, err)
	}
	return nil
}

func (p *plain) Complete(ctx context.Context, _ drivers.Device, rec *shadow.Recovery) error {
	if err := waitCarrier(ctx, p.name); err != nil {
		return err
	}
	rec.Stamp(ctl.StampLink)
	return nil
}

func (p *plain) Intact(_ context.Context, dev drivers.Device) (bool, error) {
	names, err := p.hw.ClassDevices(dev, "net")
	return err == nil && len(names) == 1 && names[0] == p.name, err
}

func (p *plain) Status(st *ctl.RoleStatus) {
	st.Proxy, st.Iface = p.name, p.name
	fillLink(st, p.name)
}

func (p *plain) Log() []ctl.LogEntry { return nil }
