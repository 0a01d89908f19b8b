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
	"golang.org/x/sys/unix"
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
		text6, _ := os.ReadFile("/proc/net/tcp6")
		for line := range strings.Lines(string(text) + string(text6)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == established {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// takeRoot puts the user's own queueing discipline on the proxy.
func takeRoot() error {
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
	return nil
}

// tellRoot tells what the root of the proxy is.
func tellRoot(ctx context.Context) error {
	l, err := netlink.LinkByName(role)
	if err != nil {
		return err
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

// The settings that are changed: of the proxy and of its device, by every way
// that programs have.
const (
	wantMTU      = 1400     // netlink
	wantGSO      = 16000    // netlink, not announced
	wantFeature  = "rx-gro" // ioctl: off
	wantRing     = 512      // ioctl
	wantUsecs    = 50       // ioctl
	wantMessages = 0x5      // ioctl: drv, link
	wantFlows    = "64"     // sysfs
)

// wantGroup is joined by a socket of a program, wantFrames by one that receives
// frames.
var (
	wantGroup  = net.IPv4(239, 1, 2, 3) // 01:00:5e:01:02:03
	wantFrames = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}
)

func changeSettings(ctx context.Context) error {
	l, err := netlink.LinkByName(role)
	if err != nil {
		return err
	}
	if err := changeProxy(l); err != nil {
		return err
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	iface, err := activePort()
	if err != nil {
		return err
	}
	if err := changeDevice(e, iface); err != nil {
		return err
	}
	watch(ctx, func() (string, error) { return describe(e) })
	return nil
}

func changeProxy(l netlink.Link) error {
	if err := netlink.LinkSetMTU(l, wantMTU); err != nil {
		return fmt.Errorf("mtu: %w", err)
	}
	if err := netlink.SetPromiscOn(l); err != nil {
		return fmt.Errorf("promisc: %w", err)
	}
	if err := netlink.LinkSetGSOMaxSize(l, wantGSO); err != nil {
		return fmt.Errorf("gso: %w", err)
	}
	index := l.Attrs().Index
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	group := &unix.IPMreqn{Multiaddr: [4]byte(wantGroup.To4()), Ifindex: int32(index)}
	if err := unix.SetsockoptIPMreqn(udp, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, group); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	packet, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: receives nothing
	if err != nil {
		return err
	}
	frames := &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
	copy(frames.Address[:], wantFrames)
	if err := unix.SetsockoptPacketMreq(packet, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, frames); err != nil {
		return fmt.Errorf("frames: %w", err)
	}
	return nil
}

func changeDevice(e *ethtool.Ethtool, iface string) error {
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
	co, err := e.GetCoalesce(iface)
	if err != nil {
		return fmt.Errorf("coalescing: %w", err)
	}
	co.RxCoalesceUsecs = wantUsecs
	if _, err := e.SetCoalesce(iface, co); err != nil {
		return fmt.Errorf("coalescing: %w", err)
	}
	if _, _, err := e.MsglvlSet(iface, wantMessages); err != nil {
		return fmt.Errorf("messages: %w", err)
	}
	if err := os.WriteFile(flowsFile(iface), []byte(wantFlows), 0); err != nil {
		return fmt.Errorf("flows: %w", err)
	}
	if err := shape(iface); err != nil {
		return fmt.Errorf("traffic control: %w", err)
	}
	stamps := &unix.HwTstampConfig{Tx_type: unix.HWTSTAMP_TX_ON, Rx_filter: unix.HWTSTAMP_FILTER_ALL}
	return onSocket(func(fd int) error {
		if err := unix.IoctlSetHwTstamp(fd, iface, stamps); err != nil {
			return fmt.Errorf("time stamps: %w", err)
		}
		return nil
	})
}

// The queueing disciplines that the device is given, and a filter into one of them.
var (
	wantPrio = netlink.MakeHandle(1, 0)
	wantFifo = netlink.MakeHandle(0x2a, 0)
	wantBand = netlink.MakeHandle(1, 3)
)

// shape puts a prio on the device, a pfifo into one of its bands, and a filter that
// leads everything there.
func shape(iface string) error {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	attrs := func(handle, parent uint32) netlink.QdiscAttrs {
		return netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: handle, Parent: parent}
	}
	if err := netlink.QdiscReplace(netlink.NewPrio(attrs(wantPrio, netlink.HANDLE_ROOT))); err != nil {
		return err
	}
	if err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs(wantFifo, wantBand), QdiscType: "pfifo"}); err != nil {
		return err
	}
	return netlink.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: wantPrio, Priority: 7, Protocol: unix.ETH_P_ALL},
		ClassId:     wantBand,
	})
}

// shaped tells of what shape made.
func shaped(l netlink.Link) (string, error) {
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		return "", err
	}
	said := ""
	for _, q := range qdiscs {
		if a := q.Attrs(); a.Handle != 0 {
			said += fmt.Sprintf("%s %s on %s, ", q.Type(), netlink.HandleStr(a.Handle), netlink.HandleStr(a.Parent))
		}
	}
	filters, err := netlink.FilterList(l, wantPrio)
	for _, f := range filters {
		if m, ok := f.(*netlink.MatchAll); ok {
			said += fmt.Sprintf("all to %s, ", netlink.HandleStr(m.ClassId))
		}
	}
	return said, err
}

func onSocket(f func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}

func flowsFile(iface string) string {
	return filepath.Join("/sys/class/net", iface, "queues/rx-0/rps_flow_cnt")
}

// describe tells what proxy and device have now.
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
	proxy, err := netlink.LinkByName(role)
	if err != nil {
		return "", err
	}
	features, err := e.Features(iface)
	if err != nil {
		return "", err
	}
	said := fmt.Sprintf("settings of %s: mtu %d, promisc %v, gso %d, gro %v, ", driver,
		l.Attrs().MTU, l.Attrs().Promisc > 0, proxy.Attrs().GSOMaxSize, features[wantFeature])
	for _, mac := range []net.HardwareAddr{{0x01, 0x00, 0x5e, 0x01, 0x02, 0x03}, wantFrames} {
		has, err := receives(iface, mac)
		if err != nil {
			return "", err
		}
		said += fmt.Sprintf("%v %v, ", mac, has)
	}
	if r, err := e.GetRing(iface); err == nil {
		said += fmt.Sprintf("rx ring %d, ", r.RxPending)
	}
	if co, err := e.GetCoalesce(iface); err == nil {
		said += fmt.Sprintf("rx-usecs %d, ", co.RxCoalesceUsecs)
	}
	if level, err := e.MsglvlGet(iface); err == nil {
		said += fmt.Sprintf("messages %#x, ", level)
	}
	onSocket(func(fd int) error {
		cfg, err := unix.IoctlGetHwTstamp(fd, iface)
		if err == nil {
			said += fmt.Sprintf("stamps %d and %d, ", cfg.Tx_type, cfg.Rx_filter)
		}
		return err
	})
	shape, err := shaped(l)
	if err != nil {
		return "", err
	}
	said += shape
	flows, err := os.ReadFile(flowsFile(iface))
	return said + "flows " + strings.TrimSpace(string(flows)), err
}

// receives reports whether an interface's filter lets frames to a group in.
func receives(iface string, mac net.HardwareAddr) (bool, error) {
	b, err := os.ReadFile("/proc/net/dev_mcast")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[1] == iface && f[4] == strings.ReplaceAll(mac.String(), ":", "") {
			return true, nil
		}
	}
	return false, err
}
