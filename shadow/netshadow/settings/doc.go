// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package settings records the settings of network interfaces in terms that no
// driver owns, and replays them on another driver's interface.
//
// # Operations
//
// A setting becomes an operation of the log only when somebody changed it:
// what counts is the difference to the value with which the driver brought the
// interface up (its baseline, taken at probe), never the driver's own defaults.
// A NIC that comes with "tx-tcp-segmentation" off must not switch it off on
// the next one. A setting that was carried to the interface from an earlier
// one, and any later change of it, stays an operation for good, even where it
// is equal to the new driver's default: somebody asked for it. The table
// behind Operations lists what is known: how each change is seen, how it is
// read, when it is replayed, and what makes it deferred.
//
// # Scopes
//
// The interface of a device is a port of its role's proxy, a bond, and the two
// answer for different settings. MTU, MAC address and flags belong to the
// proxy, where people set them: bond_enslave gives a new port the bond's MTU
// and MAC, and an active-backup bond takes promiscuous mode, all-multicast and
// its multicast list along to the active port (drivers/net/bonding/bond_main.c,
// Linux 6.1). Setting them on the port by hand lasts until the next bond
// event, and is not an operation. So do the limits of segmentation. All that
// ethtool sets, queues and their length belong to the device. Where there is no
// proxy, one interface has both scopes. KeptByProxy lists what is the proxy's and
// needs no operation.
//
// Traps of bond_enslave, for the caller:
//   - it refuses an interface that is up, and opens it itself: BeforeOpen is
//     before enslaving, AfterOpen after it;
//   - it fails when the port cannot take the bond's MTU. Ask CanMTU first,
//     lower the bond's, and defer the operation;
//   - it switches large-receive-offload off on the port unless the bond has it
//     (dev_disable_lro), and so does every later change of that feature on the
//     bond (NETIF_F_UPPER_DISABLES, net/core/dev.c). Other features set on the
//     bond stay on the bond, which outlives the device: nothing to replay;
//   - releasing a port gives it its former MTU back, and its MAC unless the bond
//     has fail_over_mac=active;
//   - a bond with fail_over_mac=active takes a new MAC with success and keeps its
//     own: what was asked for is not seen here, see package asked.
//
// All of these look like changes on the port. Whoever makes them puts the
// Watcher on pause meanwhile, and rebases the Recorder on what Resume returns.
// When a device may be gone, Pause and then Sync give the last word on it.
//
// # Observation
//
// Watch listens to RTNLGRP_LINK and to the "monitor" group of ethtool's generic
// netlink family, which announce a change whoever makes it: netlink, the old
// ioctls, or sysfs (measured on Linux 6.1). The new values are in the
// notification, so that no driver is asked: a notification may come from a
// device that is no longer there. The one exception is a forced speed, which
// drivers tell only while there is a link; it is read when the link comes.
//
// Of traffic control (RTNLGRP_TC, package traffic) it is announced what changed, and not
// what came or went with it: all of the interface is read then.
//
// Three kinds of change are not announced. Receive hashing, rules for what is received
// ("ntuple") and time stamps have no netlink message in Linux 6.1: whoever hears of the
// ioctl (package asked) calls Look, and they are read by ioctls of our own; rules also when
// the feature is switched that they need, with which drivers forget them. What sysfs
// sets of queues, limits of segmentation, and features that are wished for without
// effect, the kernel remembers: Sync reads them, without asking a driver, when a device
// is left. A device that is torn out together with its interface takes what sysfs set
// since the last recovery with it.
//
// There is no polling. A request to the kernel is sent on the socket that
// carries the notifications, and its answer takes its place in their order;
// lost notifications (ENOBUFS) are made good by such requests.
//
// Rules, queueing disciplines, classes and filters are lists, which somebody makes
// longer and shorter: one that is no longer listed was taken away. All other settings
// have a value always, and one that is not told is not known.
//
// Not seen: filters of a block that interfaces share, and contexts of receive hashing;
// what a driver does not report as it was asked for, e.g. QEMU's e1000 tells 1000 Mb/s
// whatever speed was forced; and pause of either direction while pause is negotiated,
// since most drivers then report the result instead of the wish.
//
// The package knows netlink and the names the kernel gives to settings. It
// must never know a driver by name, nor bonds, roles or recoveries.
//
// # Tests
//
// TestIntegration* run inside a guest against real drivers. They are built
// with the tag "guest" only, and executed by the VM test suite as root with
// UMBRA_GUEST_NICS holding the names of at least two interfaces, separated by
// commas. They need the programs ip and ethtool.
package settings
