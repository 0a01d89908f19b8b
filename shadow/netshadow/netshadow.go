// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package netshadow is the shadow of the network class.
//
// The proxy of a role is an active-backup bond named after it, with the
// device's interface, that of a standby and, always, a TAP as its ports. In passive mode the
// device's interface is the active port and the shadow only listens to what
// the kernel says about settings. In active mode the TAP is the active port,
// a plug queueing discipline on the proxy holds what applications send, and
// the frames which the dead driver still had are harvested when it closes.
// Then the next device's interface takes the place of the old one: settings
// replayed, harvested frames re-sent first, held frames released in order,
// the proxy's addresses announced.
//
// A standby is a paravirtual NIC, which the hypervisor moves by itself. While there is
// no device its interface is the active port, in passive mode.
//
// The package knows interfaces, frames and settings. It must never know a
// driver by name but for those of paravirtual NICs, how a device was found, or which
// signal came first; it knows nothing of other classes.
package netshadow

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
	"github.com/umbra-vm/umbra/shadow/netshadow/asked"
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
	"github.com/umbra-vm/umbra/shadow/netshadow/hasten"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
	"github.com/umbra-vm/umbra/shadow/netshadow/settings"
)

const className = "net"

// Modules returns what the class's proxies are made of, for the Manager to
// load before all else. bonding would make an interface of its own.
func Modules() []string { return []string{"bonding max_bonds=0", "tun", "sch_plug"} }

// Hardware is what the class asks of the hardware side.
type Hardware interface {
	// ClassDevices names the class devices that belong to dev.
	ClassDevices(dev drivers.Device, class string) ([]string, error)
}

// A Store keeps open files beyond the life of this process.
type Store interface {
	// Put leaves a duplicate of f under name.
	Put(ctx context.Context, name string, f *os.File) error
	// Inherited returns the file that a predecessor left under name.
	Inherited(name string) (*os.File, bool)
}

// Limits of one role.
type Limits struct {
	MAC  net.HardwareAddr // the proxy's MAC; nil: the first device's
	Hold hold.Limits      // what is held in active mode at the most
	// Hasten has peers told after a recovery: see package hasten.
	Hasten bool
	// Shortcut has what is sent routed around the proxy in passive mode: see package shortcut.
	Shortcut bool
}

// Options configure the class.
type Options struct {
	Hardware Hardware
	Store    Store
	Roles    map[string]Limits // by role name
	// PinDir is a directory on a bpf file system in which the harvest is kept when
	// this process dies; "" keeps none.
	PinDir string
	// FrameDir is a directory in which the frames that a role has harvested, and
	// not yet re-sent, outlive this process.
	FrameDir string
	// Reload asks for a recovery of the role although its device is alive. It
	// must not wait for it.
	Reload func(role string)
	// Recording is told that what is changed of the role from here on is recorded,
	// once or more often. It must not wait.
	Recording func(role string)
	Logger    *slog.Logger
}

// Class makes network shadows.
type Class struct {
	Options
	plug     *hold.Plug
	settings *settings.Client
	ctx      context.Context // of the agent: what outlives a recovery ends with it
	watching sync.Once
	// These load once, at the first call.
	harvester func() (*harvest.Harvester, error)
	hastener  func() (*hasten.Hastener, error)

	mu      sync.Mutex
	shadows []*netShadow
}

var (
	_ shadow.Preparer = (*Class)(nil)
	_ shadow.Alerter  = (*Class)(nil)
)

// New opens the sockets that all shadows of the class share.
func New(ctx context.Context, opt Options) (*Class, error) {
	plug, err := hold.NewPlug(opt.Logger)
	if err != nil {
		return nil, err
	}
	set, err := settings.Open(ctx, settings.WithLogger(opt.Logger))
	if err != nil {
		return nil, err
	}
	c := &Class{Options: opt, plug: plug, settings: set, ctx: ctx}
	c.harvester = sync.OnceValues(func() (*harvest.Harvester, error) {
		var opts []harvest.Option
		if opt.PinDir != "" {
			opts = append(opts, harvest.WithPins(opt.PinDir))
		}
		return harvest.New(opt.Logger, opts...)
	})
	c.hastener = sync.OnceValues(hasten.New)
	go c.watchRequests() // takes a while, and is needed once there is a proxy
	return c, nil
}

// Name returns "net".
func (c *Class) Name() string { return className }

// Owns reports whether dev is a network controller.
func (c *Class) Owns(dev drivers.Device) bool { return owns(dev) }

// Identify tells a device by its address, its ids and its interface's
// permanent MAC.
func (c *Class) Identify(dev drivers.Device) shadow.Identity { return identify(c.Hardware, dev) }

// Prepare waits until what each role's port loses is kept (see [netShadow.watch]): the
// programs for that take seconds to load in a guest without KVM.
func (c *Class) Prepare(ctx context.Context) {
	c.mu.Lock()
	shadows := slices.Clone(c.shadows)
	c.mu.Unlock()
	for _, s := range shadows {
		s.mu.Lock()
		watching := s.watching
		s.mu.Unlock()
		if watching == nil {
			continue
		}
		select {
		case <-watching:
		case <-ctx.Done():
			return
		}
	}
}

// Alert has what drivers give up kept from now on, and what waits for a neighbour that does
// not answer: a driver may reset its device, and the kernel give a neighbour up, before the
// device is known to be gone, or its role is in active mode.
func (c *Class) Alert() {
	c.mu.Lock()
	shadows := slices.Clone(c.shadows)
	c.mu.Unlock()
	go func() {
		for _, s := range shadows {
			s.neighbours.expect()
		}
		h, err := c.harvester()
		if err == nil {
			err = h.Alert(time.Duration(shadow.Now()))
		}
		if err != nil {
			c.Logger.Debug("what a device loses before it is found to be gone is lost", "err", err)
		}
	}()
}

// New returns the shadow of a role.
func (c *Class) New(role shadow.Role, j *journal.Journal) (shadow.Shadow, error) {
	p, err := newProxy(role.Name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := newShadow(c, p, c.Roles[role.Name], j)
	if err != nil {
		return nil, err
	}
	c.shadows = append(c.shadows, s)
	return s, nil
}

// watchRequests returns when the class sees what is asked of its interfaces.
func (c *Class) watchRequests() {
	c.watching.Do(func() {
		w, err := asked.New()
		if err != nil {
			c.Logger.Warn("a MAC given to a proxy has no effect, set it in the role's configuration; what is set by ioctl is seen late", "err", err)
			return
		}
		go func() {
			defer w.Close()
			if err := w.Run(c.ctx, c.asked); err != nil {
				c.Logger.Error("a MAC given to a proxy has no effect any more, and what is set by ioctl is seen late", "err", err)
			}
		}()
	})
}

func (c *Class) asked(r asked.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.shadows {
		switch r.Index {
		case 0:
			s.recorder.look(c.ctx)
		case ifindex(s.proxy.name):
			s.asked(r.MAC)
		}
	}
}

// owns follows the PCI class code: 02xxxx is a network controller, and a
// virtio function says what it is by its class code too.
func owns(dev drivers.Device) bool { return dev.Class>>16 == 0x02 }

func identify(hw Hardware, dev drivers.Device) shadow.Identity {
	id := shadow.Identity{Address: dev.Address, IDs: ids(dev), Paravirtual: paravirtual(dev)}
	names, err := hw.ClassDevices(dev, "net")
	if err != nil || len(names) == 0 {
		return id
	}
	l, err := netlink.LinkByName(names[0])
	if err != nil {
		return id
	}
	// The address that the bond gave to its port is the role's, not the
	// device's.
	id.MAC = l.Attrs().PermHWAddr.String()
	if id.MAC == "" {
		id.MAC = l.Attrs().HardwareAddr.String()
	}
	return id
}

func ids(dev drivers.Device) string {
	return fmt.Sprintf("%04x:%04x", dev.IDs.Vendor, dev.IDs.Device)
}

// waitInterface returns the name of the interface that dev's driver made. A
// driver registers it before its probe returns, but a bus below a bus (virtio)
// is probed on its own.
func waitInterface(ctx context.Context, hw Hardware, dev drivers.Device) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, interfaceWait)
	defer cancel()
	for {
		names, err := hw.ClassDevices(dev, "net")
		if err != nil {
			return "", err
		}
		if len(names) > 0 {
			return names[0], nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s made no network interface: %w", dev.Driver, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// waitLink is waitInterface, and returns what the kernel says of the interface.
func waitLink(ctx context.Context, hw Hardware, dev drivers.Device) (netlink.Link, error) {
	iface, err := waitInterface(ctx, hw, dev)
	if err != nil {
		return nil, err
	}
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	return l, nil
}

// interfaceWait is how long a bound driver may take to make its interface.
const interfaceWait = 10 * time.Second

// fillLink puts what the kernel says of an interface into st.
func fillLink(st *ctl.RoleStatus, proxy string) {
	l, err := netlink.LinkByName(proxy)
	if err != nil {
		return
	}
	st.MAC = l.Attrs().HardwareAddr.String()
	st.Carrier = l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// ifindex returns an interface's index without a netlink round trip; 0 if there is no
// such interface.
func ifindex(name string) int {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0
	}
	return int(ifr.Uint32())
}
