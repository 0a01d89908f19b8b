// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
)

var (
	_ shadow.Stander = (*netShadow)(nil)
	_ shadow.Keeper  = (*netShadow)(nil)
)

// paravirtualDrivers are those of NICs that a hypervisor moves by itself, by their
// modules, and by their names for kernels that have them built in. That of xen-netfront is
// the name of its first device type (drivers/net/xen-netfront.c, netfront_ids).
var paravirtualDrivers = []string{"virtio_net", "xen_netfront", "vif"}

// paravirtual reports whether the NIC is one that a hypervisor moves by itself.
func paravirtual(dev drivers.Device) bool {
	return slices.ContainsFunc(append(slices.Clone(dev.Children), dev), func(d drivers.Device) bool {
		return slices.Contains(paravirtualDrivers, cmp.Or(d.Module, d.Driver))
	})
}

// errNoProxy says that a role has no proxy that something could stand by for.
var errNoProxy = errors.New("the role has had no device yet")

// StandBy makes dev's interface a port of the proxy, with the role's MAC.
func (s *netShadow) StandBy(ctx context.Context, dev drivers.Device) error {
	bond, err := s.proxy.find()
	if err == nil && bond == nil {
		err = errNoProxy
	}
	if err != nil {
		return err
	}
	l, err := waitLink(ctx, s.class.Hardware, dev)
	if err != nil {
		return err
	}
	mac, err := s.mac(bond, l)
	if err != nil {
		return err
	}
	if l.Attrs().Name == s.iface {
		s.closeShortcut()
	}
	s.standby = l.Attrs().Name
	s.listen()
	if err := s.recorder.aside(ctx, func() error { return s.proxy.enslave(bond, l, mac) }); err != nil {
		s.standby = ""
		s.listen()
		return err
	}
	return nil
}

// Ready reports whether the standby has a link.
func (s *netShadow) Ready(context.Context) bool {
	// An interface that is closed has no answer.
	b, err := os.ReadFile(filepath.Join("/sys/class/net", s.standby, "carrier"))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// Dismiss takes the standby's interface out of the proxy.
func (s *netShadow) Dismiss(ctx context.Context, old shadow.Old) error {
	if err := s.stuck(old); err != nil {
		return err
	}
	mine, err := s.interfaces(old)
	if err != nil {
		return err
	}
	if _, active, err := s.proxy.ports(); err == nil && slices.Contains(mine, active) {
		// It has carried until the role lost all that it had.
		s.aim(harvest.Target{Device: ifindex(active), Proxy: ifindex(s.proxy.name)})
	}
	err = s.recorder.aside(ctx, func() error { return s.takeOut(ctx, old, mine) })
	s.listen()
	return err
}

// replaces reports whether iface is to take over from the standby, over which goes what is
// sent, with nothing held.
func (s *netShadow) replaces(ctx context.Context, iface string) bool {
	if s.standby == "" || s.standby == iface {
		return false
	}
	_, active, err := s.proxy.ports()
	if err != nil || active != s.standby {
		return false
	}
	_, err = s.class.plug.Stats(ctx, ifindex(s.proxy.name))
	return errors.Is(err, hold.ErrNotPlugged)
}

// listen has the proxy receive from all its ports, as it must whenever the active one
// changes, unless a device carries with a standby beside it: both are on one
// network, and the standby receives once more what is sent to all, and what the guest
// itself has sent to all.
func (s *netShadow) listen() {
	all := true
	if s.standby != "" {
		_, active, err := s.proxy.ports()
		all = err != nil || active == s.proxy.tap || active == s.standby
	}
	s.receive(all)
}

// receive has the proxy receive from all its ports, or from the active one only.
func (s *netShadow) receive(all bool) {
	if err := s.proxy.receiveAll(all); err != nil {
		s.log.Warn("what arrives may be lost, or come twice", "err", err)
	}
}

// switchLinger is how long the proxy still receives from the standby after a device has
// taken over: what the network had on its way.
const switchLinger = 20 * time.Millisecond

// comeBack makes iface the active port in place of the standby. Both work: nothing has to be
// held. The network is shown the place of the MACs only when nothing is received from
// the standby any more; a bridge on the proxy would take what it heard there, of those
// that are behind itself, for their place.
func (s *netShadow) comeBack(ctx context.Context, iface string, index int) error {
	s.receive(true)
	if err := s.activate(iface); err != nil {
		return err
	}
	time.Sleep(switchLinger)
	s.listen()
	s.shown = index
	s.showMAC(ctx, index)
	return nil
}

// stampStandby notes that iface, if it is the standby's, carries from here on.
func (s *netShadow) stampStandby(iface string, rec *shadow.Recovery) {
	if iface == s.standby {
		rec.Stamp(ctl.StampStandby)
	}
}
