// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
)

// A proxy is the interface that applications see: an active-backup bond named
// after the role. Its ports are the device's interface, that of a standby if there
// is one, and, always, a TAP whose file the shadow holds. The TAP keeps the bond's
// carrier, and with it every socket, address and route, while there is no device. It is
// the first: a bond whose active port vanishes goes on with the first that is left, and
// from the TAP frames are sent in order, behind those that the device had.
type proxy struct {
	name string
	tap  string
	nl   *netlink.Handle // one socket: to open one for each question costs as much as the answer
}

func newProxy(role string) (proxy, error) {
	p := proxy{name: role, tap: role + "-tap"}
	// net/core/dev.c, dev_valid_name: a name has room for 15 bytes.
	if len(p.tap) >= unix.IFNAMSIZ {
		return proxy{}, fmt.Errorf("role name %q: at most %d bytes fit an interface name and its TAP's", role, unix.IFNAMSIZ-1-len("-tap"))
	}
	var err error
	if p.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
		err = p.nl.SetSocketTimeout(answerLimit)
	}
	if err != nil {
		return proxy{}, fmt.Errorf("proxy %s: open rtnetlink: %w", role, err)
	}
	return p, nil
}

// answerLimit is how long the kernel may take to take a question, or to answer it: as for
// sockets that are opened for one question (netlink/nl, SocketTimeoutTv).
const answerLimit = time.Minute

// exists reports whether the bond is there already.
func (p proxy) exists() (bool, error) {
	bond, err := p.find()
	return bond != nil, err
}

// find returns the bond, nil if it is not there yet.
func (p proxy) find() (*netlink.Bond, error) {
	bond, err := p.link()
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	return bond, err
}

func (p proxy) link() (*netlink.Bond, error) {
	l, err := p.nl.LinkByName(p.name)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", p.name, err)
	}
	b, ok := l.(*netlink.Bond)
	if !ok {
		return nil, fmt.Errorf("proxy %s: is a %s, not a bond: somebody else owns the name", p.name, l.Type())
	}
	return b, nil
}

// create makes the bond with the role's MAC and puts the TAP below it.
//
//   - all_slaves_active: replies may arrive on the new port before it is the
//     active one, and a bond drops what its inactive ports receive
//     (drivers/net/bonding/bond_main.c, bond_should_deliver_exact_match). See
//     receiveAll.
//   - primary_reselect failure: with "always" a bond goes over to its first port, the
//     TAP, whenever another joins (bond_main.c, bond_choose_primary_or_current).
//   - miimon 0: the shadow decides when to fail over, not a timer.
//   - fail_over_mac active: the bond leaves its ports' addresses alone, and each
//     port is given the role's before it joins. With "none" a port that leaves is
//     given its own back, which virtio_net asks of the device even if there is
//     none (see impatient). It has two prices: the kernel takes every failover for
//     a change of address and forgets its neighbours, see neighbours; and the
//     address that a user gives to the bond reaches it by way of the shadow, see
//     package asked.
func (p proxy) create(mac net.HardwareAddr) (*netlink.Bond, error) {
	b := netlink.NewLinkBond(netlink.LinkAttrs{Name: p.name, HardwareAddr: mac})
	b.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
	b.FailOverMac = netlink.BOND_FAIL_OVER_MAC_ACTIVE
	b.AllSlavesActive = 1
	b.PrimaryReselect = netlink.BOND_PRIMARY_RESELECT_FAILURE
	b.Miimon = 0
	if err := p.nl.LinkAdd(b); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("create bond %s: %w", p.name, err)
	}
	bond, err := p.link()
	if err != nil {
		return nil, err
	}
	tap, err := p.nl.LinkByName(p.tap)
	if err != nil {
		return nil, fmt.Errorf("port %s of %s: %w", p.tap, p.name, err)
	}
	if err := p.enslave(bond, tap, mac); err != nil {
		return nil, err
	}
	if err := p.nl.LinkSetUp(bond); err != nil {
		return nil, fmt.Errorf("set proxy %s up: %w", p.name, err)
	}
	return bond, nil
}

// enslave makes l, with the role's MAC, a port of the bond, which opens it. A port
// already there is left as it is.
func (p proxy) enslave(bond *netlink.Bond, l netlink.Link, mac net.HardwareAddr) error {
	a := l.Attrs()
	if a.MasterIndex == bond.Index {
		return nil
	}
	if a.Flags&net.FlagUp != 0 { // bond_enslave refuses that
		if err := p.nl.LinkSetDown(l); err != nil {
			return fmt.Errorf("set %s down before it joins %s: %w", a.Name, p.name, err)
		}
	}
	if err := p.wear(l, mac); err != nil {
		return err
	}
	if err := p.nl.LinkSetMaster(l, bond); err != nil {
		return fmt.Errorf("make %s a port of %s: %w", a.Name, p.name, err)
	}
	return nil
}

// wear gives l the role's MAC, which the bond has too once l is the active port. If
// its driver does not take it, the error is a refusedError.
func (p proxy) wear(l netlink.Link, mac net.HardwareAddr) error {
	own := l.Attrs().HardwareAddr
	if bytes.Equal(own, mac) {
		return nil
	}
	err := p.nl.LinkSetHardwareAddr(l, mac)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("give %s the MAC %s of %s: %w", l.Attrs().Name, mac, p.name, err)
	if errors.Is(err, unix.ENODEV) { // the device has gone
		return err
	}
	return &refusedError{own, err}
}

// A refusedError says that a driver does not take a MAC. Each says so in its own way:
// EPERM, EADDRNOTAVAIL, EOPNOTSUPP and others.
type refusedError struct {
	own net.HardwareAddr // that the interface has
	err error
}

func (e *refusedError) Error() string { return e.err.Error() }

func (e *refusedError) Unwrap() error { return e.err }

// insist gives a port that is open the role's MAC once more: a device may take its
// own back when it is opened, as QEMU's vmxnet3 does (hw/net/vmxnet3.c,
// vmxnet3_activate_device). A driver that sets an address on closed interfaces only
// says so, and has it already.
func (p proxy) insist(l netlink.Link, mac net.HardwareAddr) error {
	if bytes.Equal(l.Attrs().PermHWAddr, mac) {
		return nil
	}
	err := p.nl.LinkSetHardwareAddr(l, mac)
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("give %s the MAC %s of %s once more: %w", l.Attrs().Name, mac, p.name, err)
	}
	return nil
}

// receiveAll says whether the bond takes what ports receive that are not the active one.
func (p proxy) receiveAll(on bool) error {
	v := []byte("0")
	if on {
		v = []byte("1")
	}
	file := filepath.Join("/sys/class/net", p.name, "bonding/all_slaves_active")
	if err := os.WriteFile(file, v, 0); err != nil {
		return fmt.Errorf("ports that %s receives from: %w", p.name, err)
	}
	return nil
}

// close sets a port down, which makes its driver give up what it has. An
// interface that is gone, or "", is no error.
func (p proxy) close(iface string) error {
	if iface == "" {
		return nil
	}
	l, err := p.nl.LinkByName(iface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = p.nl.LinkSetDown(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("close port %s of %s: %w", iface, p.name, err)
	}
	return nil
}

// release takes iface out of the bond, which closes it. An interface that is
// gone, or no port of this bond, is no error.
func (p proxy) release(iface string) error {
	l, err := p.nl.LinkByName(iface)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("port %s of %s: %w", iface, p.name, err)
	}
	bond, err := p.link()
	if err != nil {
		return err
	}
	if l.Attrs().MasterIndex != bond.Index {
		return nil
	}
	if err := p.nl.LinkSetNoMaster(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take %s out of %s: %w", iface, p.name, err)
	}
	return nil
}

// activate makes iface the port that the bond sends on.
func (p proxy) activate(iface string) error {
	bond, err := p.link()
	if err != nil {
		return err
	}
	l, err := p.nl.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("port %s of %s: %w", iface, p.name, err)
	}
	if bond.ActiveSlave == l.Attrs().Index {
		return nil
	}
	if err := netlink.LinkSetBondSlaveActive(l, bond); err != nil {
		return fmt.Errorf("make %s the active port of %s: %w", iface, p.name, err)
	}
	return nil
}

// ports returns the names of the bond's ports but the TAP, and the active one
// of all, "" if there is none.
func (p proxy) ports() (names []string, active string, err error) {
	bond, err := p.link()
	if err != nil {
		return nil, "", err
	}
	links, err := dump.Whole(p.nl.LinkList)
	if err != nil {
		return nil, "", fmt.Errorf("ports of %s: %w", p.name, err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex != bond.Index {
			continue
		}
		if a.Name != p.tap {
			names = append(names, a.Name)
		}
		if a.Index == bond.ActiveSlave {
			active = a.Name
		}
	}
	return names, active, nil
}

// waitCarrier returns when iface can carry data: IFF_LOWER_UP, which the
// kernel announces. An interface that disappears ends the wait with an error.
func waitCarrier(ctx context.Context, iface string) error {
	if l, err := netlink.LinkByName(iface); err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{}); err != nil {
		return fmt.Errorf("watch the carrier of %s: %w", iface, err)
	}
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("carrier of %s: %w", iface, err)
	}
	index := l.Attrs().Index
	for a := l.Attrs(); a.RawFlags&unix.IFF_LOWER_UP == 0; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("carrier of %s: %w", iface, ctx.Err())
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("carrier of %s: notifications ended", iface)
			}
			if int(u.Index) != index {
				continue
			}
			if u.Header.Type == unix.RTM_DELLINK {
				return fmt.Errorf("carrier of %s: %w", iface, unix.ENODEV)
			}
			a = u.Link.Attrs()
		}
	}
	return nil
}
