// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// A scalar is an attribute of ethtool netlink that is a setting by itself: a
// number, or a switch.
type scalar struct {
	key  string
	attr uint16
	max  uint16 // attribute with the largest number; 0 if there is none
	kind scalarKind
}

type scalarKind uint8

const (
	number   scalarKind = iota // u32
	onSwitch                   // u8
)

func (s scalar) check(value string) error {
	if s.kind == onSwitch {
		return checkOnOff(value)
	}
	return checkUint32(value)
}

// scalars are those of one message.
type scalars []scalar

var channelAttrs = scalars{
	{"net.channel.rx", unix.ETHTOOL_A_CHANNELS_RX_COUNT, unix.ETHTOOL_A_CHANNELS_RX_MAX, number},
	{"net.channel.tx", unix.ETHTOOL_A_CHANNELS_TX_COUNT, unix.ETHTOOL_A_CHANNELS_TX_MAX, number},
	{"net.channel.other", unix.ETHTOOL_A_CHANNELS_OTHER_COUNT, unix.ETHTOOL_A_CHANNELS_OTHER_MAX, number},
	{"net.channel.combined", unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT, unix.ETHTOOL_A_CHANNELS_COMBINED_MAX, number},
}

var ringAttrs = scalars{
	{"net.ring.rx", unix.ETHTOOL_A_RINGS_RX, unix.ETHTOOL_A_RINGS_RX_MAX, number},
	{"net.ring.rx-mini", unix.ETHTOOL_A_RINGS_RX_MINI, unix.ETHTOOL_A_RINGS_RX_MINI_MAX, number},
	{"net.ring.rx-jumbo", unix.ETHTOOL_A_RINGS_RX_JUMBO, unix.ETHTOOL_A_RINGS_RX_JUMBO_MAX, number},
	{"net.ring.tx", unix.ETHTOOL_A_RINGS_TX, unix.ETHTOOL_A_RINGS_TX_MAX, number},
}

// coalesceAttrs have ethtool's names. Times are in µs.
var coalesceAttrs = scalars{
	{"net.coalesce.adaptive-rx", unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX, 0, onSwitch},
	{"net.coalesce.adaptive-tx", unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_TX, 0, onSwitch},
	{"net.coalesce.cqe-mode-rx", unix.ETHTOOL_A_COALESCE_USE_CQE_MODE_RX, 0, onSwitch},
	{"net.coalesce.cqe-mode-tx", unix.ETHTOOL_A_COALESCE_USE_CQE_MODE_TX, 0, onSwitch},
	{"net.coalesce.rx-usecs", unix.ETHTOOL_A_COALESCE_RX_USECS, 0, number},
	{"net.coalesce.rx-frames", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES, 0, number},
	{"net.coalesce.rx-usecs-irq", unix.ETHTOOL_A_COALESCE_RX_USECS_IRQ, 0, number},
	{"net.coalesce.rx-frames-irq", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES_IRQ, 0, number},
	{"net.coalesce.tx-usecs", unix.ETHTOOL_A_COALESCE_TX_USECS, 0, number},
	{"net.coalesce.tx-frames", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES, 0, number},
	{"net.coalesce.tx-usecs-irq", unix.ETHTOOL_A_COALESCE_TX_USECS_IRQ, 0, number},
	{"net.coalesce.tx-frames-irq", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES_IRQ, 0, number},
	{"net.coalesce.stats-block-usecs", unix.ETHTOOL_A_COALESCE_STATS_BLOCK_USECS, 0, number},
	{"net.coalesce.pkt-rate-low", unix.ETHTOOL_A_COALESCE_PKT_RATE_LOW, 0, number},
	{"net.coalesce.rx-usecs-low", unix.ETHTOOL_A_COALESCE_RX_USECS_LOW, 0, number},
	{"net.coalesce.rx-frames-low", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES_LOW, 0, number},
	{"net.coalesce.tx-usecs-low", unix.ETHTOOL_A_COALESCE_TX_USECS_LOW, 0, number},
	{"net.coalesce.tx-frames-low", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES_LOW, 0, number},
	{"net.coalesce.pkt-rate-high", unix.ETHTOOL_A_COALESCE_PKT_RATE_HIGH, 0, number},
	{"net.coalesce.rx-usecs-high", unix.ETHTOOL_A_COALESCE_RX_USECS_HIGH, 0, number},
	{"net.coalesce.rx-frames-high", unix.ETHTOOL_A_COALESCE_RX_MAX_FRAMES_HIGH, 0, number},
	{"net.coalesce.tx-usecs-high", unix.ETHTOOL_A_COALESCE_TX_USECS_HIGH, 0, number},
	{"net.coalesce.tx-frames-high", unix.ETHTOOL_A_COALESCE_TX_MAX_FRAMES_HIGH, 0, number},
	{"net.coalesce.sample-interval", unix.ETHTOOL_A_COALESCE_RATE_SAMPLE_INTERVAL, 0, number},
}

var pauseAttrs = scalars{
	{keyPauseAuto, unix.ETHTOOL_A_PAUSE_AUTONEG, 0, onSwitch},
	{keyPauseRx, unix.ETHTOOL_A_PAUSE_RX, 0, onSwitch},
	{keyPauseTx, unix.ETHTOOL_A_PAUSE_TX, 0, onSwitch},
}

// linkModeAttrs are set like others. Read they are with the rest of their message:
// speed is a setting only while nothing is negotiated.
var linkModeAttrs = scalars{
	{keyLinkAuto, unix.ETHTOOL_A_LINKMODES_AUTONEG, 0, onSwitch},
	{keyLinkSpeed, unix.ETHTOOL_A_LINKMODES_SPEED, 0, number},
}

var eeeAttrs = scalars{
	{"net.eee.enabled", unix.ETHTOOL_A_EEE_ENABLED, 0, onSwitch},
	{"net.eee.tx-lpi", unix.ETHTOOL_A_EEE_TX_LPI_ENABLED, 0, onSwitch},
	{"net.eee.tx-timer", unix.ETHTOOL_A_EEE_TX_LPI_TIMER, 0, number},
}

// operations returns the rows of the table. Scalars are announced by the
// monitor, and set before an interface is opened.
func (s scalars) operations(g group, message, deferred string) []Operation {
	rows := make([]Operation, 0, len(s))
	for i, sc := range s {
		if i > 0 {
			deferred = "as " + s[0].key
		}
		rows = append(rows, Operation{sc.key, Device, Monitor, message, BeforeOpen, deferred, g, sc.check})
	}
	return rows
}

func (s scalars) parse(r *report, ad *netlink.AttributeDecoder, _ names) error {
	for ad.Next() {
		s.take(r, ad)
	}
	return nil
}

// take reads one attribute, which may be the header.
func (s scalars) take(r *report, ad *netlink.AttributeDecoder) {
	if ad.Type() == headerAttr {
		ad.Nested(parseHeader(r))
		return
	}
	for _, sc := range s {
		switch {
		case ad.Type() == sc.attr && sc.kind == onSwitch:
			r.values[sc.key] = onOff(ad.Uint8() != 0)
		case ad.Type() == sc.attr:
			r.values[sc.key] = formatUint32(ad.Uint32())
		case sc.max != 0 && ad.Type() == sc.max:
			if r.limits == nil {
				r.limits = make(map[string]uint32)
			}
			r.limits[sc.key] = ad.Uint32()
		}
	}
}

func (s scalars) encode(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, _ names) error {
	for _, op := range ops {
		if err := s.put(ae, op, cur); err != nil {
			return err
		}
	}
	return nil
}

func (s scalars) put(ae *netlink.AttributeEncoder, op oplog.Op, cur report) error {
	i := slices.IndexFunc(s, func(sc scalar) bool { return sc.key == op.Key })
	if i < 0 {
		return fmt.Errorf("%s is not a setting of this message", op.Key)
	}
	sc := s[i]
	if sc.kind == onSwitch {
		on, err := parseOnOff(op.Value)
		if err != nil {
			return err
		}
		v := uint8(0)
		if on {
			v = 1
		}
		ae.Uint8(sc.attr, v)
		return nil
	}
	n, err := parseUint32(op.Value)
	if err != nil {
		return err
	}
	if sc.max != 0 {
		if limit := cur.limits[op.Key]; n > limit {
			return fmt.Errorf("the device's maximum is %d", limit)
		}
	}
	ae.Uint32(sc.attr, n)
	return nil
}
