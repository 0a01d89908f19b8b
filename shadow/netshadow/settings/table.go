// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/hex"
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

// A Source says what tells of a change.
type Source uint8

// Sources of changes.
const (
	Link    Source = iota // RTM_NEWLINK in the group RTNLGRP_LINK
	Monitor               // ethtool netlink's group "monitor"
	Call                  // no notification: Look, which the caller of an ioctl is the reason for
	Memory                // no notification: Sync, by what the kernel remembers
	Traffic               // messages of the group RTNLGRP_TC, after which all is read
)

func (s Source) String() string {
	switch s {
	case Link:
		return "link notification"
	case Monitor:
		return "ethtool monitor"
	case Call:
		return "the ioctl that sets it"
	case Memory:
		return "reading it before the device is left"
	case Traffic:
		return "traffic control notification"
	}
	return fmt.Sprintf("Source(%d)", uint8(s))
}

// group is a set of settings that the kernel reads, writes and announces with
// one message. Groups are replayed in their order: what others depend on first.
type group uint8

const (
	groupLink group = iota
	groupPrivateFlags
	groupChannels
	groupFeatures
	groupRings
	groupCoalesce
	groupPause
	groupLinkModes
	groupEEE
	groupWake
	groupMessages
	groupHash
	groupRules
	groupTimestamps
	groupQueues
	groupTraffic
	numGroups
)

var groupNames = [numGroups]string{
	"link", "private flags", "channels", "features", "rings", "coalescing", "pause", "link modes",
	"EEE", "wake-on-LAN", "message level", "receive hash", "receive rules", "time stamps", "queues",
	"traffic control",
}

// remembered are the groups that the kernel keeps itself: no driver is asked.
var remembered = []group{groupLink, groupFeatures, groupQueues}

// unannounced are the groups that change by an ioctl that nobody announces.
var unannounced = []group{groupHash, groupRules, groupTimestamps}

// everyGroup are all groups.
var everyGroup = func() []group {
	list := make([]group, numGroups)
	for g := range numGroups {
		list[g] = g
	}
	return list
}()

func (g group) String() string { return groupNames[g] }

// scope is that of the group's operations.
func (g group) scope() (s Scope) {
	for _, o := range operations {
		if o.group == g {
			s |= o.Scope
		}
	}
	return s
}

// listed reports whether a group is a list that somebody makes longer and shorter:
// what is not in it is not there. Its values say so by the families' own keys.
func (g group) listed() bool { return g == groupRules || g == groupTraffic }

// markListed notes in values that they have all members of the group's families.
func markListed(values Values, g group) {
	for _, o := range families {
		if o.group == g {
			values[o.Key] = ""
		}
	}
}

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
	keyMTU          = "net.mtu"
	keyMAC          = "net.mac"
	keyTxQueueLen   = "net.txqueuelen"
	keyGSOSize      = "net.gso.max-size"
	keyGSOSegs      = "net.gso.max-segs"
	keyGROSize      = "net.gro.max-size"
	keyPauseAuto    = "net.pause.autoneg"
	keyPauseRx      = "net.pause.rx"
	keyPauseTx      = "net.pause.tx"
	keyLinkAuto     = "net.link.autoneg"
	keyLinkSpeed    = "net.link.speed"
	keyLinkDuplex   = "net.link.duplex"
	keyLinkModes    = "net.link.advertise"
	keyEEEModes     = "net.eee.advertise"
	keyWake         = "net.wake.on"
	keyWakePassword = "net.wake.password"
	keyMessages     = "net.messages"
	keyHashTable    = "net.hash.table"
	keyHashKey      = "net.hash.key"
	keyHashFunction = "net.hash.function"
	keyStampTx      = "net.timestamp.tx"
	keyStampRx      = "net.timestamp.rx"
	keyRules        = featurePrefix + "rx-ntuple-filter"
)

// listKeys are those whose values are lists of bits.
var listKeys = []string{keyLinkModes, keyEEEModes, keyWake, keyMessages}

// Families of keys: what follows is a name.
const (
	featurePrefix     = "net.feature."
	privateFlagPrefix = "net.private-flag."
	hashFieldsPrefix  = "net.hash.fields."
	rpsCPUsPrefix     = "net.rps.cpus."
	rpsFlowsPrefix    = "net.rps.flows."
	xpsCPUsPrefix     = "net.xps.cpus."
	xpsQueuesPrefix   = "net.xps.queues."
	rulePrefix        = "net.ntuple."
	qdiscPrefix       = "net.qdisc."
	classPrefix       = "net.class."
	filterPrefix      = "net.filter."
)

const deferredSwitch = "the driver has no such switch"

// operations is the one place that lists what is recorded and replayed, in the
// order of a replay. A ring or link mode that changes on a running interface
// resets it (seconds of lost link on an e1000), hence before it is opened; what
// a driver refuses or forgets while it is down is tried again after.
var operations = slices.Concat(linkOperations, hardwareOperations, queueOperations, trafficOperations)

// linkOperations are those that an interface has without any hardware.
var linkOperations = []Operation{
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
	{keyGSOSize, Proxy, Memory, "RTM_GETLINK IFLA_GSO_MAX_SIZE", AfterOpen,
		"over what the device segments", groupLink, checkUint32},
	{keyGSOSegs, Proxy, Memory, "RTM_GETLINK IFLA_GSO_MAX_SEGS", AfterOpen,
		"as " + keyGSOSize, groupLink, checkUint32},
	{keyGROSize, Proxy, Memory, "RTM_GETLINK IFLA_GRO_MAX_SIZE", AfterOpen,
		"", groupLink, checkUint32},
	{keyTxQueueLen, Device, Link, "RTM_GETLINK IFLA_TXQLEN", BeforeOpen,
		"", groupLink, checkUint32},
}

// hardwareOperations are those of ethtool.
var hardwareOperations = slices.Concat(
	[]Operation{
		{privateFlagPrefix + "*", Device, Monitor, "PRIVFLAGS_GET FLAGS, by name", BeforeOpen,
			"the driver has no flag of this name, or does not change it", groupPrivateFlags, checkOnOff},
	},
	channelAttrs.operations(groupChannels, "CHANNELS_GET", "more than the device has, or the guest has CPUs for"),
	ringAttrs.operations(groupRings, "RINGS_GET", "over the device's maximum; a size that the driver rounds counts as applied"),
	[]Operation{
		{featurePrefix + "*", Device, Monitor, "FEATURES_GET WANTED, of what HW has and NOCHANGE has not", BeforeOpen,
			"the kernel has no such feature, or the driver none that can be changed, or not together with the rest", groupFeatures, checkOnOff},
	},
	coalesceAttrs.operations(groupCoalesce, "COALESCE_GET", "the driver has no such parameter, or rounds it to another value"),
	[]Operation{
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
			"the device lacks one of the modes; it advertises those it has", groupLinkModes, checkList},
	},
	eeeAttrs.operations(groupEEE, "EEE_GET", deferredSwitch),
	[]Operation{
		{keyEEEModes, Device, Monitor, "EEE_GET MODES_OURS, of the modes with a speed", BeforeOpen,
			"as " + keyLinkModes, groupEEE, checkList},
		{keyWake, Device, Monitor, "WOL_GET MODES", BeforeOpen,
			"the device lacks one of the ways to wake it; it has the others", groupWake, checkList},
		{keyWakePassword, Device, Monitor, "WOL_GET SOPASS", BeforeOpen,
			"the device knows no password", groupWake, checkHex},
		{keyMessages, Device, Monitor, "DEBUG_GET MSGMASK", BeforeOpen,
			"the driver has no message level", groupMessages, checkList},
		{keyHashFunction, Device, Call, "ETHTOOL_GRSSH hfunc", BeforeOpen,
			"the device has no such function", groupHash, checkWord},
		{keyHashKey, Device, Call, "ETHTOOL_GRSSH hkey, in hexadecimal", BeforeOpen,
			"the device's key has another length", groupHash, checkHex},
		{keyHashTable, Device, Call, "ETHTOOL_GRSSH indir, as the shortest part that the table repeats", BeforeOpen,
			"the device's table cannot repeat it, or it names a queue that the device has not", groupHash, checkNumbers},
		{hashFieldsPrefix + "*", Device, Call, "ETHTOOL_GRXFH, in ethtool's letters", BeforeOpen,
			"the device does not hash these fields of the flow", groupHash, checkHashFields},
		{rulePrefix + "*", Device, Call, "ETHTOOL_GRXCLSRULE, by location", BeforeOpen,
			"the device has no such rules, queues or locations, or the rule names a context of receive hashing", groupRules, checkRule},
		{keyStampTx, Device, Call, "SIOCGHWTSTAMP tx_type", AfterOpen,
			"the device stamps no frames, or not this way", groupTimestamps, checkWord},
		{keyStampRx, Device, Call, "SIOCGHWTSTAMP rx_filter", AfterOpen,
			"as " + keyStampTx + "; a device may stamp more than it was asked for, which counts as deferred", groupTimestamps, checkWord},
	},
)

// queueOperations are the kernel's own settings of an interface's queues.
var queueOperations = []Operation{
	{"net.napi.threaded", Device, Memory, "sysfs threaded", BeforeOpen,
		"", groupQueues, checkOnOff},
	{"net.napi.gro-flush-timeout", Device, Memory, "sysfs gro_flush_timeout, in ns", BeforeOpen,
		"", groupQueues, checkUint64},
	{"net.napi.defer-hard-irqs", Device, Memory, "sysfs napi_defer_hard_irqs", BeforeOpen,
		"", groupQueues, checkUint32},
	{rpsCPUsPrefix + "*", Device, Memory, "sysfs queues/rx-*/rps_cpus", BeforeOpen,
		deferredQueue, groupQueues, checkMask},
	{rpsFlowsPrefix + "*", Device, Memory, "sysfs queues/rx-*/rps_flow_cnt", BeforeOpen,
		deferredQueue, groupQueues, checkUint32},
	{xpsCPUsPrefix + "*", Device, Memory, "sysfs queues/tx-*/xps_cpus", BeforeOpen,
		deferredQueue, groupQueues, checkMask},
	{xpsQueuesPrefix + "*", Device, Memory, "sysfs queues/tx-*/xps_rxqs", BeforeOpen,
		deferredQueue, groupQueues, checkMask},
}

const deferredQueue = "the device has no such queue"

// trafficOperations are what decides about frames above and below the driver.
var trafficOperations = []Operation{
	{qdiscPrefix + "*", Device, Traffic, "RTM_GETQDISC, by parent, what has a handle", AfterOpen,
		"the device cannot offload it, or has too few queues; the kernel tells too little of it (red, gred, choke)", groupTraffic, checkObject},
	{classPrefix + "*", Device, Traffic, "RTM_GETTCLASS, by id, of htb, hfsc, drr and qfq", AfterOpen,
		"its queueing discipline is deferred", groupTraffic, checkObject},
	{filterPrefix + "*", Device, Traffic, "RTM_GETTFILTER, by parent, chain, priority, protocol and handle", AfterOpen,
		"as " + qdiscPrefix + "*; a program of bpf, which has no name", groupTraffic, checkObject},
}

var byKey = func() map[string]*Operation {
	m := make(map[string]*Operation, len(operations))
	for i := range operations {
		m[operations[i].Key] = &operations[i]
	}
	return m
}()

// families are the operations of whose keys the end is a name.
var families = func() []*Operation {
	var list []*Operation
	for i := range operations {
		if strings.HasSuffix(operations[i].Key, "*") {
			list = append(list, &operations[i])
		}
	}
	return list
}()

// A Kept setting is one that needs no operation: it belongs to the proxy, which
// outlives its devices and gives them what they have to know of it.
type Kept struct {
	What string
	How  string // the kernel's function that gives it to a new device, Linux 6.1
}

var kept = []Kept{
	{"multicast groups of the kernel, of sockets (IP_ADD_MEMBERSHIP), of packet sockets (PACKET_MR_MULTICAST) and by SIOCADDMULTI", "bond_hw_addr_swap, dev_mc_sync"},
	{"further unicast addresses, as of a macvlan", "bond_hw_addr_swap, dev_uc_sync"},
	{"promiscuous and all-multicast mode that packet sockets and stacked interfaces hold", "bond_hw_addr_swap, dev_set_promiscuity, dev_set_allmulti"},
	{"VLAN filters", "bond_enslave, vlan_vids_add_by_dev"},
	{"queueing disciplines and filters on the proxy; the shadow's plug takes the root only if it is free", "none needed"},
	{"addresses, routes, rules, neighbours, sysctl values of the proxy", "none needed; see package netshadow for neighbours"},
}

// KeptByProxy returns the table of what is kept.
func KeptByProxy() []Kept { return slices.Clone(kept) }

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

func checkUint64(value string) error {
	if _, err := strconv.ParseUint(value, 10, 64); err != nil {
		return fmt.Errorf("%q is not a number of 64 bits", value)
	}
	return nil
}

func checkList(value string) error {
	if slices.Contains(strings.Split(value, ","), "") {
		return fmt.Errorf("%q is no list of names", value)
	}
	return nil
}

func checkWord(value string) error {
	if value == "" || strings.ContainsAny(value, " ,") {
		return fmt.Errorf("%q is no name", value)
	}
	return nil
}

func checkHex(value string) error {
	if b, err := hex.DecodeString(value); err != nil || len(b) == 0 {
		return fmt.Errorf("%q are no bytes in hexadecimal", value)
	}
	return nil
}

func checkNumbers(value string) error {
	for _, n := range strings.Split(value, ",") {
		if err := checkUint32(n); err != nil {
			return err
		}
	}
	return nil
}

// checkObject takes what traffic.Parse looks at more closely, together with the key.
func checkObject(value string) error {
	if value == "" || strings.Contains(value, " ") {
		return fmt.Errorf("%q is nothing of traffic control", value)
	}
	return nil
}

// checkMask takes the kernel's form of a set of CPUs or queues, groups of up to
// 8 hexadecimal digits (lib/bitmap.c).
func checkMask(value string) error {
	for _, word := range strings.Split(value, ",") {
		if _, err := strconv.ParseUint(word, 16, 32); err != nil {
			return fmt.Errorf("%q is no mask in hexadecimal", value)
		}
	}
	return nil
}
