// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// A Scope says which of a role's two interfaces a setting belongs to.
type Scope uint8

// Scopes; they can be combined.
const (
	Proxy  Scope = 1 << iota // the interface that applications see
	Device                   // the interface of the hardware
	Both   = Proxy | Device
)

func (s Scope) String() string {
	switch s {
	case Proxy:
		return "proxy"
	case Device:
		return "device"
	case Both:
		return "proxy, device"
	}
	return fmt.Sprintf("Scope(%d)", uint8(s))
}

// A Phase is a stage in the life of a new interface.
type Phase uint8

// Phases of a replay, in their order.
const (
	BeforeOpen Phase = iota // the interface is down
	AfterOpen               // the interface is up; it need not have a link
)

func (p Phase) String() string {
	switch p {
	case BeforeOpen:
		return "before open"
	case AfterOpen:
		return "after open"
	}
	return fmt.Sprintf("Phase(%d)", uint8(p))
}

// A Source says which notification tells of a change.
type Source uint8

// Sources of changes.
const (
	Link    Source = iota // RTM_NEWLINK in the group RTNLGRP_LINK
	Monitor               // ethtool netlink's group "monitor"
)

func (s Source) String() string {
	switch s {
	case Link:
		return "link notification"
	case Monitor:
		return "ethtool monitor"
	}
	return fmt.Sprintf("Source(%d)", uint8(s))
}

// group is a set of settings that the kernel reads, writes and announces with
// one message.
type group uint8

const (
	groupLink group = iota
	groupFeatures
	groupRings
	groupPause
	groupLinkModes
	numGroups
)

var groupNames = [numGroups]string{"link", "features", "rings", "pause", "link modes"}

func (g group) String() string { return groupNames[g] }

// An Operation describes one kind of operation.
type Operation struct {
	Key   string // "*" at the end stands for a name that the kernel defines
	Scope Scope
	Seen  Source // what tells of a change
	Read  string // netlink message and attribute with the value
	Phase Phase  // the first phase of a replay in which it is tried
	// Deferred says what an interface does that leaves the operation
	// deferred. Every operation is deferred when the kernel refuses it.
	Deferred string

	group group
	check func(value string) error
}

// Keys that code refers to.
const (
	keyMTU         = "net.mtu"
	keyMAC         = "net.mac"
	keyTxQueueLen  = "net.txqueuelen"
	featurePrefix  = "net.feature."
	keyPauseAuto   = "net.pause.autoneg"
	keyPauseRx     = "net.pause.rx"
	keyPauseTx     = "net.pause.tx"
	keyLinkAuto    = "net.link.autoneg"
	keyLinkSpeed   = "net.link.speed"
	keyLinkDuplex  = "net.link.duplex"
	keyLinkModes   = "net.link.advertise"
	deferredSwitch = "the driver has no such switch"
)

// operations is the one place that lists what is recorded and replayed, in the
// order of a replay. A ring or link mode that changes on a running interface
// resets it (seconds of lost link on an e1000), hence before it is opened; what
// a driver refuses or forgets while it is down is tried again after.
var operations = []Operation{
	{keyMAC, Proxy, Link, "RTM_GETLINK IFLA_ADDRESS", BeforeOpen,
		"the driver cannot change its address", groupLink, checkMAC},
	{keyMTU, Proxy, Link, "RTM_GETLINK IFLA_MTU", BeforeOpen,
		"outside IFLA_MIN_MTU and IFLA_MAX_MTU", groupLink, checkUint32},
	{"net.flag.promisc", Proxy, Link, "RTM_GETLINK ifi_flags IFF_PROMISC", BeforeOpen,
		"", groupLink, checkOnOff},
	{"net.flag.allmulti", Proxy, Link, "RTM_GETLINK ifi_flags IFF_ALLMULTI", BeforeOpen,
		"", groupLink, checkOnOff},
	{"net.flag.multicast", Proxy, Link, "RTM_GETLINK ifi_flags IFF_MULTICAST", BeforeOpen,
		"", groupLink, checkOnOff},
	{"net.flag.arp", Proxy, Link, "RTM_GETLINK ifi_flags IFF_NOARP, inverted", BeforeOpen,
		"", groupLink, checkOnOff},
	{keyTxQueueLen, Device, Link, "RTM_GETLINK IFLA_TXQLEN", BeforeOpen,
		"", groupLink, checkUint32},
	{"net.ring.rx", Device, Monitor, "RINGS_GET RX", BeforeOpen,
		"over the device's maximum; a size that the driver rounds counts as applied", groupRings, checkUint32},
	{"net.ring.rx-mini", Device, Monitor, "RINGS_GET RX_MINI", BeforeOpen,
		"as net.ring.rx", groupRings, checkUint32},
	{"net.ring.rx-jumbo", Device, Monitor, "RINGS_GET RX_JUMBO", BeforeOpen,
		"as net.ring.rx", groupRings, checkUint32},
	{"net.ring.tx", Device, Monitor, "RINGS_GET TX", BeforeOpen,
		"as net.ring.rx", groupRings, checkUint32},
	{featurePrefix + "*", Device, Monitor, "FEATURES_GET WANTED, of what HW has and NOCHANGE has not", BeforeOpen,
		"the kernel has no such feature, or the driver none that can be changed, or not together with the rest", groupFeatures, checkOnOff},
	{keyPauseAuto, Device, Monitor, "PAUSE_GET AUTONEG", BeforeOpen,
		deferredSwitch, groupPause, checkOnOff},
	{keyPauseRx, Device, Monitor, "PAUSE_GET RX; a result, not a setting, while AUTONEG is on", BeforeOpen,
		deferredSwitch, groupPause, checkOnOff},
	{keyPauseTx, Device, Monitor, "PAUSE_GET TX; a result, not a setting, while AUTONEG is on", BeforeOpen,
		deferredSwitch, groupPause, checkOnOff},
	{keyLinkAuto, Device, Monitor, "LINKMODES_GET AUTONEG", BeforeOpen,
		"the driver cannot set link modes", groupLinkModes, checkOnOff},
	{keyLinkSpeed, Device, Monitor, "LINKMODES_GET SPEED in Mb/s; a result, not a setting, while AUTONEG is on", BeforeOpen,
		"the device has no such speed", groupLinkModes, checkUint32},
	{keyLinkDuplex, Device, Monitor, "LINKMODES_GET DUPLEX; a result, not a setting, while AUTONEG is on", BeforeOpen,
		"the device has no such duplex", groupLinkModes, checkDuplex},
	{keyLinkModes, Device, Monitor, "LINKMODES_GET OURS, of the modes with a speed, while AUTONEG is on", BeforeOpen,
		"the device lacks one of the modes; it advertises those it has", groupLinkModes, checkLinkModes},
}

var byKey = func() map[string]*Operation {
	m := make(map[string]*Operation, len(operations))
	for i := range operations {
		m[operations[i].Key] = &operations[i]
	}
	return m
}()

// Operations returns the table of all operations, in the order of a replay.
func Operations() []Operation { return slices.Clone(operations) }

// rank is the position of a key in a replay.
func rank(key string) int {
	o, ok := lookup(key)
	if !ok {
		return len(operations)
	}
	return slices.IndexFunc(operations, func(p Operation) bool { return p.Key == o.Key })
}

// sortOps orders operations for a replay.
func sortOps(ops []oplog.Op) {
	slices.SortStableFunc(ops, func(a, b oplog.Op) int {
		if c := rank(a.Key) - rank(b.Key); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
}

func checkOnOff(value string) error {
	_, err := parseOnOff(value)
	return err
}

func checkUint32(value string) error {
	_, err := parseUint32(value)
	return err
}

func parseUint32(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of 32 bits", value)
	}
	return uint32(n), nil
}

func checkMAC(value string) error {
	if mac, err := net.ParseMAC(value); err != nil || len(mac) != 6 {
		return fmt.Errorf("%q is not an Ethernet address", value)
	}
	return nil
}

func checkDuplex(value string) error {
	if value != "half" && value != "full" {
		return fmt.Errorf("%q is neither half nor full", value)
	}
	return nil
}

func checkLinkModes(value string) error {
	if value == "" {
		return fmt.Errorf("no link mode")
	}
	return nil
}
