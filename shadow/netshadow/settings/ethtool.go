// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// ethtoolGroup says how one group is spoken of in ethtool netlink
// (Documentation/networking/ethtool-netlink.rst). In every group the header is
// attribute 1.
type ethtoolGroup struct {
	get, set   uint8 // requests
	reply, ntf uint8 // messages of the kernel
	parse      func(r *report, ad *netlink.AttributeDecoder, n names) error
	encode     func(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, n names) error
}

const headerAttr = 1

var ethtoolGroups = map[group]ethtoolGroup{
	groupFeatures: {
		unix.ETHTOOL_MSG_FEATURES_GET, unix.ETHTOOL_MSG_FEATURES_SET,
		unix.ETHTOOL_MSG_FEATURES_GET_REPLY, unix.ETHTOOL_MSG_FEATURES_NTF,
		parseFeatures, encodeFeatures,
	},
	groupRings: {
		unix.ETHTOOL_MSG_RINGS_GET, unix.ETHTOOL_MSG_RINGS_SET,
		unix.ETHTOOL_MSG_RINGS_GET_REPLY, unix.ETHTOOL_MSG_RINGS_NTF,
		parseRings, encodeRings,
	},
	groupPause: {
		unix.ETHTOOL_MSG_PAUSE_GET, unix.ETHTOOL_MSG_PAUSE_SET,
		unix.ETHTOOL_MSG_PAUSE_GET_REPLY, unix.ETHTOOL_MSG_PAUSE_NTF,
		parsePause, encodePause,
	},
	groupLinkModes: {
		unix.ETHTOOL_MSG_LINKMODES_GET, unix.ETHTOOL_MSG_LINKMODES_SET,
		unix.ETHTOOL_MSG_LINKMODES_GET_REPLY, unix.ETHTOOL_MSG_LINKMODES_NTF,
		parseLinkModes, encodeLinkModes,
	},
}

// parseEthtool reads a reply or notification. ok is false for messages of other
// groups.
func parseEthtool(m genetlink.Message, n names) (r report, ntf, ok bool, err error) {
	for g, e := range ethtoolGroups {
		if m.Header.Command != e.reply && m.Header.Command != e.ntf {
			continue
		}
		r = report{group: g, values: Values{}}
		ad, err := netlink.NewAttributeDecoder(m.Data)
		if err == nil {
			err = e.parse(&r, ad, n)
		}
		if err == nil {
			err = ad.Err()
		}
		if err != nil {
			return report{}, m.Header.Command == e.ntf, false, fmt.Errorf("%s message: %w", g, err)
		}
		return r, m.Header.Command == e.ntf, true, nil
	}
	return report{}, false, false, nil
}

// ethtoolRequest asks for the settings of a group.
func ethtoolRequest(g group, index int) (genetlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	encodeHeader(ae, index, unix.ETHTOOL_FLAG_COMPACT_BITSETS)
	return ethtoolMessage(ethtoolGroups[g].get, ae)
}

// ethtoolChange sets settings of a group, all at once. cur is a report of the
// group.
func ethtoolChange(g group, index int, ops []oplog.Op, cur report, n names) (genetlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	encodeHeader(ae, index, unix.ETHTOOL_FLAG_COMPACT_BITSETS|unix.ETHTOOL_FLAG_OMIT_REPLY)
	if err := ethtoolGroups[g].encode(ae, ops, cur, n); err != nil {
		return genetlink.Message{}, err
	}
	return ethtoolMessage(ethtoolGroups[g].set, ae)
}

func ethtoolMessage(cmd uint8, ae *netlink.AttributeEncoder) (genetlink.Message, error) {
	b, err := ae.Encode()
	return genetlink.Message{
		Header: genetlink.Header{Command: cmd, Version: unix.ETHTOOL_GENL_VERSION},
		Data:   b,
	}, err
}

func encodeHeader(ae *netlink.AttributeEncoder, index int, flags uint32) {
	ae.Nested(headerAttr, func(ae *netlink.AttributeEncoder) error {
		if index != 0 {
			ae.Uint32(unix.ETHTOOL_A_HEADER_DEV_INDEX, uint32(index))
		}
		ae.Uint32(unix.ETHTOOL_A_HEADER_FLAGS, flags)
		return nil
	})
}

func parseHeader(r *report) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() == unix.ETHTOOL_A_HEADER_DEV_INDEX {
				r.index = int(int32(ad.Uint32()))
			}
		}
		return nil
	}
}

func parseFeatures(r *report, ad *netlink.AttributeDecoder, n names) error {
	var hw, wanted, nochange bitset
	for ad.Next() {
		switch ad.Type() {
		case headerAttr:
			ad.Nested(parseHeader(r))
		case unix.ETHTOOL_A_FEATURES_HW:
			ad.Nested(hw.parse)
		case unix.ETHTOOL_A_FEATURES_WANTED:
			ad.Nested(wanted.parse)
		case unix.ETHTOOL_A_FEATURES_NOCHANGE:
			ad.Nested(nochange.parse)
		}
	}
	for i, name := range n.features {
		if name != "" && hw.has(i) && !nochange.has(i) {
			r.values[featurePrefix+name] = onOff(wanted.has(i))
		}
	}
	return nil
}

func encodeFeatures(ae *netlink.AttributeEncoder, ops []oplog.Op, _ report, n names) error {
	set := newBitset(len(n.features))
	for _, op := range ops {
		i := slices.Index(n.features, strings.TrimPrefix(op.Key, featurePrefix))
		if i < 0 {
			return fmt.Errorf("the kernel has no feature of this name")
		}
		on, err := parseOnOff(op.Value)
		if err != nil {
			return err
		}
		set.put(i, on)
	}
	ae.Nested(unix.ETHTOOL_A_FEATURES_WANTED, set.encode)
	return nil
}

var ringAttrs = []struct {
	key        string
	value, max uint16
}{
	{"net.ring.rx", unix.ETHTOOL_A_RINGS_RX, unix.ETHTOOL_A_RINGS_RX_MAX},
	{"net.ring.rx-mini", unix.ETHTOOL_A_RINGS_RX_MINI, unix.ETHTOOL_A_RINGS_RX_MINI_MAX},
	{"net.ring.rx-jumbo", unix.ETHTOOL_A_RINGS_RX_JUMBO, unix.ETHTOOL_A_RINGS_RX_JUMBO_MAX},
	{"net.ring.tx", unix.ETHTOOL_A_RINGS_TX, unix.ETHTOOL_A_RINGS_TX_MAX},
}

func parseRings(r *report, ad *netlink.AttributeDecoder, _ names) error {
	r.limits = map[string]uint32{}
	for ad.Next() {
		if ad.Type() == headerAttr {
			ad.Nested(parseHeader(r))
			continue
		}
		for _, ring := range ringAttrs {
			switch ad.Type() {
			case ring.value:
				r.values[ring.key] = formatUint32(ad.Uint32())
			case ring.max:
				r.limits[ring.key] = ad.Uint32()
			}
		}
	}
	return nil
}

func encodeRings(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, _ names) error {
	for _, op := range ops {
		size, err := parseUint32(op.Value)
		if err != nil {
			return err
		}
		limit, ok := cur.limits[op.Key]
		if !ok || size > limit {
			return fmt.Errorf("the device's maximum is %d", limit)
		}
		for _, ring := range ringAttrs {
			if ring.key == op.Key {
				ae.Uint32(ring.value, size)
			}
		}
	}
	return nil
}

var pauseAttrs = map[string]uint16{
	keyPauseAuto: unix.ETHTOOL_A_PAUSE_AUTONEG,
	keyPauseRx:   unix.ETHTOOL_A_PAUSE_RX,
	keyPauseTx:   unix.ETHTOOL_A_PAUSE_TX,
}

func parsePause(r *report, ad *netlink.AttributeDecoder, _ names) error {
	for ad.Next() {
		if ad.Type() == headerAttr {
			ad.Nested(parseHeader(r))
			continue
		}
		for key, attr := range pauseAttrs {
			if ad.Type() == attr {
				r.values[key] = onOff(ad.Uint8() != 0)
			}
		}
	}
	// Most drivers report what the link partners agreed on.
	if r.values[keyPauseAuto] == "on" {
		delete(r.values, keyPauseRx)
		delete(r.values, keyPauseTx)
	}
	return nil
}

func encodePause(ae *netlink.AttributeEncoder, ops []oplog.Op, _ report, _ names) error {
	for _, op := range ops {
		on, err := parseOnOff(op.Value)
		if err != nil {
			return err
		}
		v := uint8(0)
		if on {
			v = 1
		}
		ae.Uint8(pauseAttrs[op.Key], v)
	}
	return nil
}

// Values of ETHTOOL_A_LINKMODES_SPEED and _DUPLEX, include/uapi/linux/ethtool.h.
const (
	speedUnknown = 0xffffffff
	duplexHalf   = 0
	duplexFull   = 1
)

func parseLinkModes(r *report, ad *netlink.AttributeDecoder, n names) error {
	speed, duplex := uint32(speedUnknown), uint8(0xff)
	var ours bitset
	for ad.Next() {
		switch ad.Type() {
		case headerAttr:
			ad.Nested(parseHeader(r))
		case unix.ETHTOOL_A_LINKMODES_AUTONEG:
			r.values[keyLinkAuto] = onOff(ad.Uint8() != 0)
		case unix.ETHTOOL_A_LINKMODES_SPEED:
			speed = ad.Uint32()
		case unix.ETHTOOL_A_LINKMODES_DUPLEX:
			duplex = ad.Uint8()
		case unix.ETHTOOL_A_LINKMODES_OURS:
			// Value and mask are what the device advertises and what
			// it supports.
			ad.Nested(ours.parse)
		}
	}
	var advertised []string
	for i, name := range n.linkModes {
		if !isSpeed(name) {
			continue
		}
		if ours.inMask(i) {
			r.supported = append(r.supported, name)
		}
		if ours.has(i) {
			advertised = append(advertised, name)
		}
	}
	if r.values[keyLinkAuto] == "on" {
		if len(advertised) > 0 {
			r.values[keyLinkModes] = strings.Join(advertised, ",")
		}
		return nil
	}
	if speed != speedUnknown && speed != 0 {
		r.values[keyLinkSpeed] = formatUint32(speed)
	}
	switch duplex {
	case duplexHalf:
		r.values[keyLinkDuplex] = "half"
	case duplexFull:
		r.values[keyLinkDuplex] = "full"
	}
	return nil
}

// isSpeed tells the link modes that are a speed, such as "100baseT/Full", from
// ports ("TP"), pause and error correction, which share the set.
func isSpeed(mode string) bool {
	return strings.HasSuffix(mode, "/Full") || strings.HasSuffix(mode, "/Half")
}

func encodeLinkModes(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, n names) error {
	for _, op := range ops {
		switch op.Key {
		case keyLinkAuto:
			on, err := parseOnOff(op.Value)
			if err != nil {
				return err
			}
			v := uint8(0)
			if on {
				v = 1
			}
			ae.Uint8(unix.ETHTOOL_A_LINKMODES_AUTONEG, v)
		case keyLinkSpeed:
			speed, err := parseUint32(op.Value)
			if err != nil {
				return err
			}
			ae.Uint32(unix.ETHTOOL_A_LINKMODES_SPEED, speed)
		case keyLinkDuplex:
			v := uint8(duplexHalf)
			if op.Value == "full" {
				v = duplexFull
			}
			ae.Uint8(unix.ETHTOOL_A_LINKMODES_DUPLEX, v)
		case keyLinkModes:
			set := newBitset(len(n.linkModes))
			want := strings.Split(op.Value, ",")
			any := false
			for _, mode := range cur.supported {
				on := slices.Contains(want, mode)
				set.put(slices.Index(n.linkModes, mode), on)
				any = any || on
			}
			if !any {
				return fmt.Errorf("the device has none of these link modes")
			}
			ae.Nested(unix.ETHTOOL_A_LINKMODES_OURS, set.encode)
		}
	}
	return nil
}
