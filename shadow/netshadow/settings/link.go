// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/binary"
	"fmt"
	"net"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// report is what one message of the kernel says about an interface: an answer,
// or a notification.
type report struct {
	index  int
	group  group
	values Values

	// Of groupLink only.
	name           string
	gone           bool
	carrier        bool
	minMTU, maxMTU uint32

	limits    map[string]uint32 // the largest numbers, by key
	supported []string          // what can be in the group's list
	unnamed   bool              // the values must be asked for: these have no names
}

const sizeofIfInfomsg = unix.SizeofIfInfomsg

// flagKeys are the settings among the flags of an interface. The kernel reports
// IFF_PROMISC and IFF_ALLMULTI as somebody set them on the interface itself
// (dev_get_flags), without what packet sockets and stacked devices hold.
var flagKeys = []struct {
	key      string
	flag     uint32
	inverted bool
}{
	{"net.flag.promisc", unix.IFF_PROMISC, false},
	{"net.flag.allmulti", unix.IFF_ALLMULTI, false},
	{"net.flag.multicast", unix.IFF_MULTICAST, false},
	{"net.flag.arp", unix.IFF_NOARP, true},
}

// linkAttrs are the settings that are a number of 32 bits.
var linkAttrs = map[string]uint16{
	keyMTU:        unix.IFLA_MTU,
	keyTxQueueLen: unix.IFLA_TXQLEN,
	keyGSOSize:    unix.IFLA_GSO_MAX_SIZE,
	keyGSOSegs:    unix.IFLA_GSO_MAX_SEGS,
	keyGROSize:    unix.IFLA_GRO_MAX_SIZE,
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK. ok is false for messages that
// speak of an interface in another role, such as that of a bridge's port.
func parseLink(m netlink.Message) (r report, ok bool, err error) {
	if len(m.Data) < sizeofIfInfomsg {
		return report{}, false, fmt.Errorf("link message of %d bytes", len(m.Data))
	}
	if m.Data[0] != unix.AF_UNSPEC {
		return report{}, false, nil
	}
	flags := binary.NativeEndian.Uint32(m.Data[8:])
	r = report{
		index:   int(int32(binary.NativeEndian.Uint32(m.Data[4:]))),
		group:   groupLink,
		values:  Values{},
		gone:    m.Header.Type == unix.RTM_DELLINK,
		carrier: flags&unix.IFF_LOWER_UP != 0,
	}
	for _, f := range flagKeys {
		r.values[f.key] = onOff((flags&f.flag != 0) != f.inverted)
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[sizeofIfInfomsg:])
	if err != nil {
		return report{}, false, fmt.Errorf("link message: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			r.name = ad.String()
		case unix.IFLA_ADDRESS:
			if mac := ad.Bytes(); len(mac) == 6 {
				r.values[keyMAC] = net.HardwareAddr(mac).String()
			}
		case unix.IFLA_MIN_MTU:
			r.minMTU = ad.Uint32()
		case unix.IFLA_MAX_MTU:
			r.maxMTU = ad.Uint32()
		default:
			for key, attr := range linkAttrs {
				if ad.Type() == attr {
					r.values[key] = formatUint32(ad.Uint32())
				}
			}
		}
	}
	if err := ad.Err(); err != nil {
		return report{}, false, fmt.Errorf("link message: %w", err)
	}
	return r, true, nil
}

func formatUint32(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// linkRequest asks for one interface by index or, if that is 0, by name.
func linkRequest(index int, name string) (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	if index == 0 {
		ae.String(unix.IFLA_IFNAME, name)
	}
	return linkMessage(unix.RTM_GETLINK, netlink.Request, index, 0, 0, ae)
}

// linkChange sets one setting of the group.
func linkChange(index int, op oplog.Op) (netlink.Message, error) {
	var flags, change uint32
	ae := netlink.NewAttributeEncoder()
	attr, isNumber := linkAttrs[op.Key]
	switch {
	case op.Key == keyMAC:
		mac, err := net.ParseMAC(op.Value)
		if err != nil {
			return netlink.Message{}, err
		}
		ae.Bytes(unix.IFLA_ADDRESS, mac)
	case isNumber:
		n, err := parseUint32(op.Value)
		if err != nil {
			return netlink.Message{}, err
		}
		ae.Uint32(attr, n)
	default:
		on, err := parseOnOff(op.Value)
		if err != nil {
			return netlink.Message{}, err
		}
		for _, f := range flagKeys {
			if f.key != op.Key {
				continue
			}
			change = f.flag
			if on != f.inverted {
				flags = f.flag
			}
		}
		if change == 0 {
			return netlink.Message{}, fmt.Errorf("%s is no setting of a link", op.Key)
		}
	}
	return linkMessage(unix.RTM_NEWLINK, netlink.Request|netlink.Acknowledge, index, flags, change, ae)
}

func linkMessage(typ netlink.HeaderType, hf netlink.HeaderFlags, index int, flags, change uint32, ae *netlink.AttributeEncoder) (netlink.Message, error) {
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	data := make([]byte, sizeofIfInfomsg, sizeofIfInfomsg+len(attrs))
	binary.NativeEndian.PutUint32(data[4:], uint32(index))
	binary.NativeEndian.PutUint32(data[8:], flags)
	binary.NativeEndian.PutUint32(data[12:], change)
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: hf},
		Data:   append(data, attrs...),
	}, nil
}
