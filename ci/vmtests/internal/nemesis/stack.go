// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	vlanID = 42
	bridge = "br0"
	// inside is the name that an interface has in a namespace of its own.
	inside = "eth0"
)

// quiet are the MACs of those that have an interface and never say anything.
var (
	quietMacvlan   = net.HardwareAddr{0x52, 0x54, 0x00, 0x75, 0x6d, 0xb1}
	quietContainer = net.HardwareAddr{0x52, 0x54, 0x00, 0x75, 0x6d, 0xb2}
)

// A life is what goes on in a place once everything is stacked.
type life func(ctx context.Context) error

// stackers make interfaces, and return the life on them.
var stackers = map[string]func(at string) (life, error){
	"vlan":      onVLAN,
	"macvlan":   func(at string) (life, error) { return onMacvlan(at, netlink.MACVLAN_MODE_PRIVATE) },
	"macbridge": func(at string) (life, error) { return onMacvlan(at, netlink.MACVLAN_MODE_BRIDGE) },
	"macidle":   idleMacvlan,
	"routed":    behindRouter,
	"bridge":    asBridge,
	"container": inContainer,
	"idle":      idleContainer,
}

// stackUp does those of the deeds that stack interfaces, and returns the others. Each
// may make the device change its filters, which costs frames: nobody lives on any of
// them before all are there.
func stackUp(ctx context.Context, deeds []string) (others []string) {
	var lives []func()
	for _, deed := range deeds {
		verb, at, _ := strings.Cut(deed, "@")
		stack, ok := stackers[verb]
		if !ok {
			others = append(others, deed)
			continue
		}
		live, err := stack(at)
		if err != nil {
			say("%s: %v", deed, err)
			continue
		}
		lives = append(lives, func() {
			if err := live(ctx); err != nil {
				say("%s: %v", deed, err)
			}
		})
	}
	for _, live := range lives {
		go live()
	}
	return others
}

// A place is where a witness of a stacked interface lives: its address there, and
// whom it talks to.
type place struct {
	addr *netlink.Addr
	peer string
}

func parsePlace(s string) (place, error) {
	addr, peer, ok := strings.Cut(s, ",")
	if !ok {
		return place{}, fmt.Errorf("place %q: want ADDRESS/BITS,PEER:PORT", s)
	}
	a, err := netlink.ParseAddr(addr)
	return place{a, peer}, err
}

// witness is the life of the tests' appliance.
func (p place) witness(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/bin/witness", "-peer", p.peer, "-udp-interval", "20ms", "-tcp-interval", "20ms")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}

func onVLAN(at string) (life, error) {
	p, err := parsePlace(at)
	if err != nil {
		return nil, err
	}
	proxy, err := netlink.LinkByName(role)
	if err != nil {
		return nil, err
	}
	vlan := &netlink.Vlan{LinkAttrs: attrs(fmt.Sprintf("%s.%d", role, vlanID)), VlanId: vlanID}
	vlan.ParentIndex = proxy.Attrs().Index
	if err := add(vlan); err != nil {
		return nil, err
	}
	return p.witness, netlink.AddrAdd(vlan, p.addr)
}

func onMacvlan(at string, mode netlink.MacvlanMode) (life, error) {
	p, err := parsePlace(at)
	if err != nil {
		return nil, err
	}
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	return ns.life(p.witness), ns.do(func() error {
		eth0, err := ns.macvlan(mode, nil)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(eth0, p.addr)
	})
}

func idleMacvlan(string) (life, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	idle := func(ctx context.Context) error {
		say("quiet on a macvlan")
		<-ctx.Done()
		return nil
	}
	return idle, ns.do(func() error {
		_, err := ns.macvlan(netlink.MACVLAN_MODE_PRIVATE, quietMacvlan)
		return err
	})
}

func behindRouter(at string) (life, error) {
	p, err := parsePlace(at)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return nil, err
	}
	router := *p.addr.IPNet // the first address of the subnet
	router.IP = p.addr.IP.Mask(p.addr.Mask)
	router.IP[len(router.IP)-1]++
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	return ns.life(p.witness), ns.do(func() error {
		eth0, err := ns.veth(nil, func(outer netlink.Link) error {
			return netlink.AddrAdd(outer, &netlink.Addr{IPNet: &router})
		})
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth0, p.addr); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: router.IP})
	})
}

func asBridge(at string) (life, error) {
	addr, err := netlink.ParseAddr(at)
	if err != nil {
		return nil, err
	}
	proxy, err := netlink.LinkByName(role)
	if err != nil {
		return nil, err
	}
	br := &netlink.Bridge{LinkAttrs: attrs(bridge)}
	br.HardwareAddr = proxy.Attrs().HardwareAddr
	if err := add(br); err != nil {
		return nil, err
	}
	reachable := func(context.Context) error { return netlink.AddrAdd(br, addr) }
	return reachable, netlink.LinkSetMaster(proxy, br)
}

func inContainer(at string) (life, error) {
	p, err := parsePlace(at)
	if err != nil {
		return nil, err
	}
	ns, err := container(p, nil)
	if err != nil {
		return nil, err
	}
	return ns.life(p.witness), nil
}

func idleContainer(at string) (life, error) {
	p, err := parsePlace(at)
	if err != nil {
		return nil, err
	}
	ns, err := container(p, quietContainer)
	if err != nil {
		return nil, err
	}
	return ns.life(func(ctx context.Context) error {
		c, err := net.Dial("udp4", p.peer)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		say("quiet behind the bridge")
		<-ctx.Done()
		return nil
	}), nil
}

// container makes a namespace behind the bridge.
func container(p place, mac net.HardwareAddr) (*namespace, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	return ns, ns.do(func() error {
		eth0, err := ns.veth(mac, func(outer netlink.Link) error {
			br, err := netlink.LinkByName(bridge)
			if err != nil {
				return err
			}
			return netlink.LinkSetMaster(outer, br)
		})
		if err != nil {
			return err
		}
		return netlink.AddrAdd(eth0, p.addr)
	})
}

// attrs are those of a new interface.
func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// add makes an interface and sets it up.
func add(l netlink.Link) error {
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("add %s: %w", l.Attrs().Name, err)
	}
	return netlink.LinkSetUp(l)
}

// namespace is a network namespace that an OS thread is kept in.
type namespace struct {
	home, file *os.File // the guest's, and its own
	work       chan func()
}

func newNamespace() (*namespace, error) {
	home, err := os.Open("/proc/1/ns/net")
	if err != nil {
		return nil, err
	}
	ns := &namespace{home: home, work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: nobody else may use the thread
		for f := range ns.work {
			f()
		}
	}()
	return ns, ns.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())); err != nil {
			return err
		}
		// Not a word that nobody asked for.
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	})
}

// do calls f in the namespace.
func (ns *namespace) do(f func() error) error {
	done := make(chan error)
	ns.work <- func() { done <- f() }
	return <-done
}

// life is l in the namespace, which is of no other use then.
func (ns *namespace) life(l life) life {
	return func(ctx context.Context) error { return ns.do(func() error { return l(ctx) }) }
}

// atHome calls f, which is called from the namespace, in the guest's.
func (ns *namespace) atHome(f func() error) error {
	if err := unix.Setns(int(ns.home.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	return errors.Join(f(), unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET))
}

// macvlan gives the namespace a macvlan of the proxy.
func (ns *namespace) macvlan(mode netlink.MacvlanMode, mac net.HardwareAddr) (netlink.Link, error) {
	name := fmt.Sprintf("mac%d", unix.Gettid())
	err := ns.atHome(func() error {
		proxy, err := netlink.LinkByName(role)
		if err != nil {
			return err
		}
		l := &netlink.Macvlan{LinkAttrs: attrs(name), Mode: mode}
		l.ParentIndex, l.HardwareAddr = proxy.Attrs().Index, mac
		l.Namespace = netlink.NsFd(ns.file.Fd())
		return netlink.LinkAdd(l)
	})
	if err != nil {
		return nil, fmt.Errorf("macvlan: %w", err)
	}
	return ns.moveIn(name)
}

// veth gives the namespace one end of a pair. outside is told the other, in the
// guest's namespace, once it is up.
func (ns *namespace) veth(mac net.HardwareAddr, outside func(netlink.Link) error) (netlink.Link, error) {
	name := fmt.Sprintf("veth%d", unix.Gettid())
	err := ns.atHome(func() error {
		l := &netlink.Veth{LinkAttrs: attrs("o" + name), PeerName: name, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns.file.Fd())}
		if err := add(l); err != nil {
			return err
		}
		return outside(l)
	})
	if err != nil {
		return nil, fmt.Errorf("veth: %w", err)
	}
	return ns.moveIn(name)
}

// moveIn makes an interface that has come to the namespace its eth0.
func (ns *namespace) moveIn(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetName(l, inside); err != nil {
		return nil, err
	}
	// A neighbour that does not answer is given up after some seconds, and a recovery
	// without KVM can take longer.
	patience := filepath.Join("/proc/sys/net/ipv4/neigh", inside, "base_reachable_time_ms")
	if err := os.WriteFile(patience, []byte("600000"), 0); err != nil {
		return nil, err
	}
	return l, netlink.LinkSetUp(l)
}
