// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/hex"
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
	groupPrivateFlags: {
		unix.ETHTOOL_MSG_PRIVFLAGS_GET, unix.ETHTOOL_MSG_PRIVFLAGS_SET,
		unix.ETHTOOL_MSG_PRIVFLAGS_GET_REPLY, unix.ETHTOOL_MSG_PRIVFLAGS_NTF,
		parsePrivateFlags, encodePrivateFlags,
	},
	groupChannels: {
		unix.ETHTOOL_MSG_CHANNELS_GET, unix.ETHTOOL_MSG_CHANNELS_SET,
		unix.ETHTOOL_MSG_CHANNELS_GET_REPLY, unix.ETHTOOL_MSG_CHANNELS_NTF,
		channelAttrs.parse, channelAttrs.encode,
	},
	groupRings: {
		unix.ETHTOOL_MSG_RINGS_GET, unix.ETHTOOL_MSG_RINGS_SET,
		unix.ETHTOOL_MSG_RINGS_GET_REPLY, unix.ETHTOOL_MSG_RINGS_NTF,
		ringAttrs.parse, ringAttrs.encode,
	},
	groupCoalesce: {
		unix.ETHTOOL_MSG_COALESCE_GET, unix.ETHTOOL_MSG_COALESCE_SET,
		unix.ETHTOOL_MSG_COALESCE_GET_REPLY, unix.ETHTOOL_MSG_COALESCE_NTF,
		coalesceAttrs.parse, coalesceAttrs.encode,
	},
	groupPause: {
		unix.ETHTOOL_MSG_PAUSE_GET, unix.ETHTOOL_MSG_PAUSE_SET,
		unix.ETHTOOL_MSG_PAUSE_GET_REPLY, unix.ETHTOOL_MSG_PAUSE_NTF,
		parsePause, pauseAttrs.encode,
	},
	groupLinkModes: {
		unix.ETHTOOL_MSG_LINKMODES_GET, unix.ETHTOOL_MSG_LINKMODES_SET,
		unix.ETHTOOL_MSG_LINKMODES_GET_REPLY, unix.ETHTOOL_MSG_LINKMODES_NTF,
		parseLinkModes, encodeLinkModes,
	},
	groupEEE: {
		unix.ETHTOOL_MSG_EEE_GET, unix.ETHTOOL_MSG_EEE_SET,
		unix.ETHTOOL_MSG_EEE_GET_REPLY, unix.ETHTOOL_MSG_EEE_NTF,
		parseEEE, encodeEEE,
	},
	groupWake: {
		unix.ETHTOOL_MSG_WOL_GET, unix.ETHTOOL_MSG_WOL_SET,
		unix.ETHTOOL_MSG_WOL_GET_REPLY, unix.ETHTOOL_MSG_WOL_NTF,
		parseWake, encodeWake,
	},
	groupMessages: {
		unix.ETHTOOL_MSG_DEBUG_GET, unix.ETHTOOL_MSG_DEBUG_SET,
		unix.ETHTOOL_MSG_DEBUG_GET_REPLY, unix.ETHTOOL_MSG_DEBUG_NTF,
		parseMessages, encodeMessages,
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
	flags := uint32(unix.ETHTOOL_FLAG_COMPACT_BITSETS)
	if g == groupPrivateFlags {
		flags = 0 // each driver has names of its own
	}
	ae := netlink.NewAttributeEncoder()
	encodeHeader(ae, index, flags)
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
	for i, name := range n[stringsFeatures] {
		if name != "" && hw.has(i) && !nochange.has(i) {
			r.values[featurePrefix+name] = onOff(wanted.has(i))
		}
	}
	return nil
}

func encodeFeatures(ae *netlink.AttributeEncoder, ops []oplog.Op, _ report, n names) error {
	set := newBitset(len(n[stringsFeatures]))
	for _, op := range ops {
		i := slices.Index(n[stringsFeatures], strings.TrimPrefix(op.Key, featurePrefix))
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

// parsePrivateFlags reads flags with their names. A notification has none, and
// says only that there is something to be read.
func parsePrivateFlags(r *report, ad *netlink.AttributeDecoder, _ names) error {
	for ad.Next() {
		switch ad.Type() {
		case headerAttr:
			ad.Nested(parseHeader(r))
		case unix.ETHTOOL_A_PRIVFLAGS_FLAGS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					switch ad.Type() {
					case unix.ETHTOOL_A_BITSET_VALUE:
						r.unnamed = true
					case unix.ETHTOOL_A_BITSET_BITS:
						ad.Nested(func(ad *netlink.AttributeDecoder) error {
							for ad.Next() {
								ad.Nested(func(ad *netlink.AttributeDecoder) error { return parsePrivateFlag(r, ad) })
							}
							return nil
						})
					}
				}
				return nil
			})
		}
	}
	return nil
}

func parsePrivateFlag(r *report, ad *netlink.AttributeDecoder) error {
	var name string
	on := false
	for ad.Next() {
		switch ad.Type() {
		case unix.ETHTOOL_A_BITSET_BIT_NAME:
			name = ad.String()
		case unix.ETHTOOL_A_BITSET_BIT_VALUE:
			on = true
		}
	}
	if name != "" {
		r.values[privateFlagPrefix+name] = onOff(on)
	}
	return nil
}

func encodePrivateFlags(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, _ names) error {
	for _, op := range ops {
		if _, ok := cur.values[op.Key]; !ok {
			return fmt.Errorf("the driver has no flag of this name")
		}
	}
	ae.Nested(unix.ETHTOOL_A_PRIVFLAGS_FLAGS, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(unix.ETHTOOL_A_BITSET_BITS, func(ae *netlink.AttributeEncoder) error {
			for _, op := range ops {
				ae.Nested(unix.ETHTOOL_A_BITSET_BITS_BIT, func(ae *netlink.AttributeEncoder) error {
					ae.String(unix.ETHTOOL_A_BITSET_BIT_NAME, strings.TrimPrefix(op.Key, privateFlagPrefix))
					ae.Flag(unix.ETHTOOL_A_BITSET_BIT_VALUE, op.Value == "on")
					return nil
				})
			}
			return nil
		})
		return nil
	})
	return nil
}

// parsePause leaves out what is negotiated: most drivers report what the link
// partners agreed on.
func parsePause(r *report, ad *netlink.AttributeDecoder, n names) error {
	if err := pauseAttrs.parse(r, ad, n); err != nil {
		return err
	}
	if r.values[keyPauseAuto] == "on" {
		delete(r.values, keyPauseRx)
		delete(r.values, keyPauseTx)
	}
	return nil
}

func parseEEE(r *report, ad *netlink.AttributeDecoder, n names) error {
	for ad.Next() {
		if ad.Type() != unix.ETHTOOL_A_EEE_MODES_OURS {
			eeeAttrs.take(r, ad)
			continue
		}
		// Value and mask are what the device advertises and what it supports.
		var ours bitset
		ad.Nested(ours.parse)
		r.values[keyEEEModes], r.supported = ours.list(n[stringsLinkModes], isSpeed)
	}
	return nil
}

func encodeEEE(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, n names) error {
	for _, op := range ops {
		var err error
		if op.Key == keyEEEModes {
			err = encodeList(ae, unix.ETHTOOL_A_EEE_MODES_OURS, op.Value, cur.supported, n[stringsLinkModes])
		} else {
			err = eeeAttrs.put(ae, op, cur)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseWake(r *report, ad *netlink.AttributeDecoder, n names) error {
	for ad.Next() {
		switch ad.Type() {
		case headerAttr:
			ad.Nested(parseHeader(r))
		case unix.ETHTOOL_A_WOL_MODES:
			// Value and mask are what is on and what the device supports.
			var modes bitset
			ad.Nested(modes.parse)
			r.values[keyWake], r.supported = modes.list(n[stringsWake], everyName)
		case unix.ETHTOOL_A_WOL_SOPASS:
			if b := ad.Bytes(); len(b) > 0 {
				r.values[keyWakePassword] = hex.EncodeToString(b)
			}
		}
	}
	return nil
}

func encodeWake(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, n names) error {
	for _, op := range ops {
		switch op.Key {
		case keyWake:
			if err := encodeList(ae, unix.ETHTOOL_A_WOL_MODES, op.Value, cur.supported, n[stringsWake]); err != nil {
				return err
			}
		case keyWakePassword:
			b, err := hex.DecodeString(op.Value)
			if err != nil {
				return err
			}
			if _, ok := cur.values[keyWakePassword]; !ok {
				return fmt.Errorf("the device knows no password")
			}
			ae.Bytes(unix.ETHTOOL_A_WOL_SOPASS, b)
		}
	}
	return nil
}

func parseMessages(r *report, ad *netlink.AttributeDecoder, n names) error {
	for ad.Next() {
		switch ad.Type() {
		case headerAttr:
			ad.Nested(parseHeader(r))
		case unix.ETHTOOL_A_DEBUG_MSGMASK:
			var mask bitset
			ad.Nested(mask.parse)
			r.values[keyMessages], r.supported = mask.list(n[stringsMessages], everyName)
		}
	}
	return nil
}

func encodeMessages(ae *netlink.AttributeEncoder, ops []oplog.Op, cur report, n names) error {
	for _, op := range ops {
		if err := encodeList(ae, unix.ETHTOOL_A_DEBUG_MSGMASK, op.Value, cur.supported, n[stringsMessages]); err != nil {
			return err
		}
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
	advertised, supported := ours.list(n[stringsLinkModes], isSpeed)
	if len(ours.mask) > 0 {
		r.supported = supported
	}
	if r.values[keyLinkAuto] == "on" {
		if advertised != noBits {
			r.values[keyLinkModes] = advertised
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
		case keyLinkAuto, keyLinkSpeed:
			if err := linkModeAttrs.put(ae, op, cur); err != nil {
				return err
			}
		case keyLinkDuplex:
			v := uint8(duplexHalf)
			if op.Value == "full" {
				v = duplexFull
			}
			ae.Uint8(unix.ETHTOOL_A_LINKMODES_DUPLEX, v)
		case keyLinkModes:
			if err := encodeList(ae, unix.ETHTOOL_A_LINKMODES_OURS, op.Value, cur.supported, n[stringsLinkModes]); err != nil {
				return err
			}
		}
	}
	return nil
}
