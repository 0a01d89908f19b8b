// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/umbra-vm/umbra/drivers"
)

// mac returns the role's MAC: the one that somebody gave to the proxy, or the
// configured one, or that of the first device, l, while there is no bond. The TAP is
// given it too.
func (s *netShadow) mac(bond *netlink.Bond, l netlink.Link) (net.HardwareAddr, error) {
	if bond == nil {
		if s.limits.MAC != nil {
			return s.limits.MAC, nil
		}
		return l.Attrs().HardwareAddr, nil
	}
	mac := s.recorder.mac(bond.HardwareAddr)
	tap, err := s.proxy.nl.LinkByName(s.proxy.tap)
	if err != nil {
		return nil, fmt.Errorf("port %s of %s: %w", s.proxy.tap, s.proxy.name, err)
	}
	return mac, s.proxy.wear(tap, mac)
}

// asked takes note of the MAC that somebody gave to the proxy. The bond has it
// once it has a port with it as its active one: the device is opened anew.
func (s *netShadow) asked(mac net.HardwareAddr) {
	bond, err := s.proxy.link()
	if err != nil || bytes.Equal(bond.HardwareAddr, mac) {
		return
	}
	s.recorder.asked(mac)
	s.log.Info("the proxy is to have another MAC: its device is opened anew", "mac", mac)
	s.class.Reload(s.proxy.name)
}

// join makes l a port of the proxy and returns the MAC that it has there: the
// role's, or, if its driver takes no other, its own. Some never take one (ENA, gVNIC),
// and a virtual function takes only what its host allows (PF drivers' "trust"). With
// its own MAC a role works as well, but for what was built with the other: the bond
// takes it from its active port, and it is announced. The role's is deferred, and
// given to the next device.
func (s *netShadow) join(dev drivers.Device, bond *netlink.Bond, l netlink.Link, mac net.HardwareAddr) (net.HardwareAddr, error) {
	iface := l.Attrs().Name
	err := s.proxy.enslave(bond, l, mac)
	refused := new(refusedError)
	if errors.As(err, &refused) {
		s.log.Warn("the device keeps its own MAC: the proxy has that one until the next device",
			"iface", iface, "mac", refused.own, "wanted", mac, "err", refused.err)
		err = s.proxy.enslave(bond, l, refused.own)
	}
	if err != nil {
		return nil, err
	}
	l, err = s.proxy.nl.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("port %s of %s: %w", iface, s.proxy.name, err)
	}
	// It may have joined before an attempt that failed.
	if worn := l.Attrs().HardwareAddr; !bytes.Equal(worn, mac) {
		s.recorder.deferMAC(mac, fmt.Sprintf("%s keeps its own, %s", iface, worn))
		return worn, nil
	}
	if bytes.Equal(l.Attrs().PermHWAddr, mac) || !deaf(dev) {
		return mac, nil
	}
	s.log.Warn("the device receives for its own MAC only: it is promiscuous now", "iface", iface, "mac", mac)
	if err := s.proxy.nl.SetPromiscOn(l); err != nil {
		return nil, fmt.Errorf("make %s promiscuous: %w", iface, err)
	}
	return mac, nil
}
