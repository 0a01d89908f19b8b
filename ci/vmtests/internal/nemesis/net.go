// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

// watch calls state again and again and says what it returns when that
// changes. An error counts as no answer: there may be no device.
func watch(ctx context.Context, state func() (string, error)) {
	last := ""
	for ctx.Err() == nil {
		if now, err := state(); err == nil && now != last {
			say("%s", now)
			last = now
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// connected waits until a program of the guest has a connection: a deed that resets
// the device shall not meet it while it is being opened, and then be blamed for a
// second one.
func connected() {
	const established = "01" // net/tcp_states.h, as /proc/net/tcp tells it
	for {
		text, _ := os.ReadFile("/proc/net/tcp")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == established {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// takeRoot puts the user's own queueing discipline on the proxy.
func takeRoot(ctx context.Context) error {
	l, err := netlink.LinkByName(role)
	if err != nil {
		return err
	}
	err = netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0),
		},
		QdiscType: "pfifo",
	})
	if err != nil {
		return fmt.Errorf("add pfifo: %w", err)
	}
	watch(ctx, func() (string, error) {
		list, err := netlink.QdiscList(l)
		if err != nil {
			return "", err
		}
		for _, q := range list {
			if q.Attrs().Parent == netlink.HANDLE_ROOT {
				return "root of " + role + " is " + q.Type(), nil
			}
		}
		return "root of " + role + " is nothing", nil
	})
	return nil
}

// wantMAC is the address that the proxy is given.
var wantMAC = net.HardwareAddr{0x52, 0x54, 0x00, 0x75, 0x6d, 0xaa}

// changeMAC gives the proxy another address, and tells what it and its device
// have.
func changeMAC(ctx context.Context) error {
	l, err := netlink.LinkByName(role)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(l, wantMAC); err != nil {
		return fmt.Errorf("mac: %w", err)
	}
	watch(ctx, func() (string, error) {
		iface, err := activePort()
		if err != nil {
			return "", err
		}
		proxy, err := netlink.LinkByName(role)
		if err != nil {
			return "", err
		}
		port, err := netlink.LinkByName(iface)
		if err != nil {
			return "", err
		}
		driver, err := filepath.EvalSymlinks(filepath.Join("/sys/class/net", iface, "device/driver"))
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("addresses: %s %s, %s %s", role, proxy.Attrs().HardwareAddr, filepath.Base(driver), port.Attrs().HardwareAddr), nil
	})
	return nil
}

// activePort returns the interface of the device that serves the proxy.
func activePort() (string, error) {
	b, err := os.ReadFile(filepath.Join("/sys/class/net", role, "bonding/active_slave"))
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(b))
	if _, err := os.Stat(filepath.Join("/sys/class/net", name, "device")); name == "" || err != nil {
		return "", fmt.Errorf("no device serves %s", role)
	}
	return name, nil
}

// The settings that are changed: two of the proxy, by netlink, and two of its
// device, by the ioctls that programs have used for decades.
const (
	wantMTU     = 1400
	wantRing    = 512
	wantFeature = "rx-gro" // off
)

func changeSettings(ctx context.Context) error {
	l, err := netlink.LinkByName(role)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(l, wantMTU); err != nil {
		return fmt.Errorf("mtu: %w", err)
	}
	if err := netlink.SetPromiscOn(l); err != nil {
		return fmt.Errorf("promisc: %w", err)
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	iface, err := activePort()
	if err != nil {
		return err
	}
	if err := e.Change(iface, map[string]bool{wantFeature: false}); err != nil {
		return fmt.Errorf("feature: %w", err)
	}
	r, err := e.GetRing(iface)
	if err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	r.RxPending = wantRing
	if _, err := e.SetRing(iface, r); err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	watch(ctx, func() (string, error) { return describe(e) })
	return nil
}

// describe tells what the device has now.
func describe(e *ethtool.Ethtool) (string, error) {
	iface, err := activePort()
	if err != nil {
		return "", err
	}
	driver, err := e.DriverName(iface)
	if err != nil {
		return "", err
	}
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return "", err
	}
	features, err := e.Features(iface)
	if err != nil {
		return "", err
	}
	ring := "none"
	if r, err := e.GetRing(iface); err == nil {
		ring = fmt.Sprint(r.RxPending)
	}
	return fmt.Sprintf("settings of %s: mtu %d, promisc %v, gro %v, rx ring %s",
		driver, l.Attrs().MTU, l.Attrs().Promisc > 0, features[wantFeature], ring), nil
}
