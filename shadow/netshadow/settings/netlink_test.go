// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// someNames stand for the kernel's. Bit 1 of the features has no name.
var someNames = names{
	stringsFeatures:      {"tx-scatter-gather", "", "tx-tcp-segmentation", "rx-all", "loopback"},
	stringsLinkModes:     {"10baseT/Half", "10baseT/Full", "100baseT/Half", "100baseT/Full", "1000baseT/Half", "1000baseT/Full", "Autoneg", "TP"},
	stringsMessages:      {"drv", "probe", "link", "timer"},
	stringsWake:          {"phy", "ucast", "mcast", "bcast", "arp", "magic", "magicsecure", "filter"},
	stringsHashFunctions: {"toeplitz", "xor", "crc32"},
	stringsStampTx:       {"off", "on", "onestep-sync"},
	stringsStampRx:       {"none", "all", "some"},
}

type attrs = netlink.AttributeEncoder

func encode(t testing.TB, f func(*attrs)) []byte {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	f(ae)
	b, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bits encodes a set of bits as the kernel does in its compact form; mask is 0
// for a set without one.
func bits(typ uint16, value, mask uint32) func(*attrs) {
	return func(ae *attrs) {
		ae.Nested(typ, func(ae *attrs) error {
			if mask == 0 {
				ae.Flag(unix.ETHTOOL_A_BITSET_NOMASK, true)
			}
			ae.Uint32(unix.ETHTOOL_A_BITSET_SIZE, 8)
			ae.Uint32(unix.ETHTOOL_A_BITSET_VALUE, value)
			if mask != 0 {
				ae.Uint32(unix.ETHTOOL_A_BITSET_MASK, mask)
			}
			return nil
		})
	}
}

func ethtoolData(t testing.TB, fields ...func(*attrs)) []byte {
	return encode(t, func(ae *attrs) {
		ae.Nested(headerAttr, func(ae *attrs) error {
			ae.Uint32(unix.ETHTOOL_A_HEADER_DEV_INDEX, 7)
			ae.String(unix.ETHTOOL_A_HEADER_DEV_NAME, "nic0")
			return nil
		})
		for _, f := range fields {
			f(ae)
		}
	})
}

func u32(typ uint16, v uint32) func(*attrs) { return func(ae *attrs) { ae.Uint32(typ, v) } }
func u8(typ uint16, v uint8) func(*attrs)   { return func(ae *attrs) { ae.Uint8(typ, v) } }

func TestParseEthtool(t *testing.T) {
	const fullDuplex, unknown = 1, 0xff
	for name, tt := range map[string]struct {
		cmd       uint8
		data      []byte
		ntf       bool
		group     group
		values    Values
		limits    map[string]uint32
		supported []string
	}{
		"features: wanted, of those that can be changed": {
			unix.ETHTOOL_MSG_FEATURES_NTF,
			ethtoolData(t,
				bits(unix.ETHTOOL_A_FEATURES_HW, 0b11111, 0),
				bits(unix.ETHTOOL_A_FEATURES_WANTED, 0b00001, 0),
				bits(unix.ETHTOOL_A_FEATURES_ACTIVE, 0b01000, 0),
				bits(unix.ETHTOOL_A_FEATURES_NOCHANGE, 0b10000, 0)),
			true, groupFeatures,
			Values{"net.feature.tx-scatter-gather": "on", "net.feature.tx-tcp-segmentation": "off", "net.feature.rx-all": "off"},
			nil, nil,
		},
		"rings": {
			unix.ETHTOOL_MSG_RINGS_GET_REPLY,
			ethtoolData(t, u32(unix.ETHTOOL_A_RINGS_RX_MAX, 4096), u32(unix.ETHTOOL_A_RINGS_RX, 256), u32(unix.ETHTOOL_A_RINGS_TX_MAX, 1024), u32(unix.ETHTOOL_A_RINGS_TX, 128)),
			false, groupRings,
			Values{"net.ring.rx": "256", "net.ring.tx": "128"},
			map[string]uint32{"net.ring.rx": 4096, "net.ring.tx": 1024}, nil,
		},
		"pause that is negotiated is no setting": {
			unix.ETHTOOL_MSG_PAUSE_NTF,
			ethtoolData(t, u8(unix.ETHTOOL_A_PAUSE_AUTONEG, 1), u8(unix.ETHTOOL_A_PAUSE_RX, 1), u8(unix.ETHTOOL_A_PAUSE_TX, 0)),
			true, groupPause, Values{"net.pause.autoneg": "on"}, nil, nil,
		},
		"pause that is forced": {
			unix.ETHTOOL_MSG_PAUSE_NTF,
			ethtoolData(t, u8(unix.ETHTOOL_A_PAUSE_AUTONEG, 0), u8(unix.ETHTOOL_A_PAUSE_RX, 1), u8(unix.ETHTOOL_A_PAUSE_TX, 0)),
			true, groupPause, Values{"net.pause.autoneg": "off", "net.pause.rx": "on", "net.pause.tx": "off"}, nil, nil,
		},
		"a negotiated speed is no setting, the modes to offer are": {
			unix.ETHTOOL_MSG_LINKMODES_NTF,
			ethtoolData(t, u8(unix.ETHTOOL_A_LINKMODES_AUTONEG, 1), bits(unix.ETHTOOL_A_LINKMODES_OURS, 0b11001000, 0b11001111),
				u32(unix.ETHTOOL_A_LINKMODES_SPEED, 100), u8(unix.ETHTOOL_A_LINKMODES_DUPLEX, fullDuplex)),
			true, groupLinkModes,
			Values{"net.link.autoneg": "on", "net.link.advertise": "100baseT/Full"}, nil,
			[]string{"10baseT/Half", "10baseT/Full", "100baseT/Half", "100baseT/Full"},
		},
		"a forced speed": {
			unix.ETHTOOL_MSG_LINKMODES_GET_REPLY,
			ethtoolData(t, u8(unix.ETHTOOL_A_LINKMODES_AUTONEG, 0), bits(unix.ETHTOOL_A_LINKMODES_OURS, 0b1000, 0b1000),
				u32(unix.ETHTOOL_A_LINKMODES_SPEED, 100), u8(unix.ETHTOOL_A_LINKMODES_DUPLEX, fullDuplex)),
			false, groupLinkModes,
			Values{"net.link.autoneg": "off", "net.link.speed": "100", "net.link.duplex": "full"}, nil,
			[]string{"100baseT/Full"},
		},
		"a forced speed that the driver does not know now": {
			unix.ETHTOOL_MSG_LINKMODES_NTF,
			ethtoolData(t, u8(unix.ETHTOOL_A_LINKMODES_AUTONEG, 0), u32(unix.ETHTOOL_A_LINKMODES_SPEED, speedUnknown), u8(unix.ETHTOOL_A_LINKMODES_DUPLEX, unknown)),
			true, groupLinkModes, Values{"net.link.autoneg": "off"}, nil, nil,
		},
		"channels": {
			unix.ETHTOOL_MSG_CHANNELS_NTF,
			ethtoolData(t, u32(unix.ETHTOOL_A_CHANNELS_COMBINED_MAX, 8), u32(unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT, 4)),
			true, groupChannels, Values{"net.channel.combined": "4"}, map[string]uint32{"net.channel.combined": 8}, nil,
		},
		"coalescing: numbers and switches": {
			unix.ETHTOOL_MSG_COALESCE_NTF,
			ethtoolData(t, u32(unix.ETHTOOL_A_COALESCE_RX_USECS, 3), u8(unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX, 1)),
			true, groupCoalesce, Values{"net.coalesce.rx-usecs": "3", "net.coalesce.adaptive-rx": "on"}, nil, nil,
		},
		"EEE: what is negotiated is left out": {
			unix.ETHTOOL_MSG_EEE_NTF,
			ethtoolData(t, bits(unix.ETHTOOL_A_EEE_MODES_OURS, 0b100000, 0b101000), bits(unix.ETHTOOL_A_EEE_MODES_PEER, 0b1000, 0), u8(unix.ETHTOOL_A_EEE_ACTIVE, 1),
				u8(unix.ETHTOOL_A_EEE_ENABLED, 1), u8(unix.ETHTOOL_A_EEE_TX_LPI_ENABLED, 0), u32(unix.ETHTOOL_A_EEE_TX_LPI_TIMER, 17)),
			true, groupEEE,
			Values{"net.eee.advertise": "1000baseT/Full", "net.eee.enabled": "on", "net.eee.tx-lpi": "off", "net.eee.tx-timer": "17"}, nil,
			[]string{"100baseT/Full", "1000baseT/Full"},
		},
		"wake-on-LAN: the ways that are on, of those there are": {
			unix.ETHTOOL_MSG_WOL_NTF,
			ethtoolData(t, bits(unix.ETHTOOL_A_WOL_MODES, 0b100001, 0b101111), func(ae *attrs) { ae.Bytes(unix.ETHTOOL_A_WOL_SOPASS, []byte{0, 1, 2, 3, 4, 0xff}) }),
			true, groupWake, Values{"net.wake.on": "phy,magic", "net.wake.password": "0001020304ff"}, nil,
			[]string{"phy", "ucast", "mcast", "bcast", "magic"},
		},
		"a message level of nothing": {
			unix.ETHTOOL_MSG_DEBUG_NTF, ethtoolData(t, bits(unix.ETHTOOL_A_DEBUG_MSGMASK, 0, 0)),
			true, groupMessages, Values{"net.messages": "none"}, nil, []string{"drv", "probe", "link", "timer"},
		},
		"private flags that were asked for have names": {
			unix.ETHTOOL_MSG_PRIVFLAGS_GET_REPLY, ethtoolData(t, privateFlags("legacy-rx", true, "s0ix-enabled", false)),
			false, groupPrivateFlags, Values{"net.private-flag.legacy-rx": "on", "net.private-flag.s0ix-enabled": "off"}, nil, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, ntf, ok, err := parseEthtool(genetlink.Message{Header: genetlink.Header{Command: tt.cmd}, Data: tt.data}, someNames)
			if err != nil || !ok {
				t.Fatalf("ok %v, err %v", ok, err)
			}
			if r.index != 7 || r.group != tt.group || ntf != tt.ntf {
				t.Errorf("index %d, group %q, notification %v", r.index, r.group, ntf)
			}
			if diff := cmp.Diff(tt.values, r.values); diff != "" {
				t.Errorf("values (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tt.limits, r.limits); diff != "" {
				t.Errorf("limits (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tt.supported, r.supported); diff != "" {
				t.Errorf("link modes (-want +got)\n%s", diff)
			}
		})
	}
}

// privateFlags encodes pairs of name and state as the kernel does in its long form.
func privateFlags(pairs ...any) func(*attrs) {
	return func(ae *attrs) {
		ae.Nested(unix.ETHTOOL_A_PRIVFLAGS_FLAGS, func(ae *attrs) error {
			ae.Nested(unix.ETHTOOL_A_BITSET_BITS, func(ae *attrs) error {
				for i := 0; i < len(pairs); i += 2 {
					ae.Nested(unix.ETHTOOL_A_BITSET_BITS_BIT, func(ae *attrs) error {
						ae.Uint32(unix.ETHTOOL_A_BITSET_BIT_INDEX, uint32(i/2))
						ae.String(unix.ETHTOOL_A_BITSET_BIT_NAME, pairs[i].(string))
						ae.Flag(unix.ETHTOOL_A_BITSET_BIT_VALUE, pairs[i+1].(bool))
						return nil
					})
				}
				return nil
			})
			return nil
		})
	}
}

func TestPrivateFlagsAreAnnouncedWithoutNames(t *testing.T) {
	data := ethtoolData(t, bits(unix.ETHTOOL_A_PRIVFLAGS_FLAGS, 1, 0b11))
	r, _, ok, err := parseEthtool(genetlink.Message{Header: genetlink.Header{Command: unix.ETHTOOL_MSG_PRIVFLAGS_NTF}, Data: data}, someNames)
	if err != nil || !ok || !r.unnamed || len(r.values) > 0 {
		t.Errorf("%+v, ok %v, err %v; want what says to ask", r, ok, err)
	}
}

func TestParseEthtoolOtherGroup(t *testing.T) {
	const fecNtf = unix.ETHTOOL_MSG_FEC_NTF
	_, _, ok, err := parseEthtool(genetlink.Message{Header: genetlink.Header{Command: fecNtf}}, someNames)
	if ok || err != nil {
		t.Errorf("ok %v, err %v; want neither", ok, err)
	}
}

// TestEthtoolChange reads back what a change says, with the parser of reports.
func TestEthtoolChange(t *testing.T) {
	cur := report{
		limits:    map[string]uint32{"net.ring.rx": 4096, "net.channel.combined": 2},
		supported: []string{"10baseT/Full", "100baseT/Full", "phy", "magic", "drv", "link"},
		values:    Values{"net.private-flag.legacy-rx": "off", "net.wake.password": "000000000000"},
	}
	for name, tt := range map[string]struct {
		group group
		ops   []string
		reply uint8
		want  Values
		fails bool
	}{
		"rings": {groupRings, []string{"net.ring.rx=512"}, unix.ETHTOOL_MSG_RINGS_GET_REPLY, Values{"net.ring.rx": "512"}, false},
		"pause": {groupPause, []string{"net.pause.autoneg=off", "net.pause.tx=on"}, unix.ETHTOOL_MSG_PAUSE_GET_REPLY,
			Values{"net.pause.autoneg": "off", "net.pause.tx": "on"}, false},
		"forced link": {groupLinkModes, []string{"net.link.autoneg=off", "net.link.speed=10", "net.link.duplex=half"}, unix.ETHTOOL_MSG_LINKMODES_GET_REPLY,
			Values{"net.link.autoneg": "off", "net.link.speed": "10", "net.link.duplex": "half"}, false},
		"only the link modes that the device has": {groupLinkModes, []string{"net.link.autoneg=on", "net.link.advertise=100baseT/Full,1000baseT/Full"}, unix.ETHTOOL_MSG_LINKMODES_GET_REPLY,
			Values{"net.link.autoneg": "on", "net.link.advertise": "100baseT/Full"}, false},
		"channels": {groupChannels, []string{"net.channel.combined=2"}, unix.ETHTOOL_MSG_CHANNELS_GET_REPLY, Values{"net.channel.combined": "2"}, false},
		"coalescing": {groupCoalesce, []string{"net.coalesce.rx-usecs=50", "net.coalesce.adaptive-tx=off"}, unix.ETHTOOL_MSG_COALESCE_GET_REPLY,
			Values{"net.coalesce.rx-usecs": "50", "net.coalesce.adaptive-tx": "off"}, false},
		"EEE": {groupEEE, []string{"net.eee.enabled=on", "net.eee.advertise=100baseT/Full"}, unix.ETHTOOL_MSG_EEE_GET_REPLY,
			Values{"net.eee.enabled": "on", "net.eee.advertise": "100baseT/Full"}, false},
		"wake-on-LAN by the ways that the device has": {groupWake, []string{"net.wake.on=phy,arp", "net.wake.password=0102030405ff"}, unix.ETHTOOL_MSG_WOL_GET_REPLY,
			Values{"net.wake.on": "phy", "net.wake.password": "0102030405ff"}, false},
		"no wake-on-LAN":  {groupWake, []string{"net.wake.on=none"}, unix.ETHTOOL_MSG_WOL_GET_REPLY, Values{"net.wake.on": "none"}, false},
		"a message level": {groupMessages, []string{"net.messages=drv,link"}, unix.ETHTOOL_MSG_DEBUG_GET_REPLY, Values{"net.messages": "drv,link"}, false},
		"a private flag by its name": {groupPrivateFlags, []string{"net.private-flag.legacy-rx=on"}, unix.ETHTOOL_MSG_PRIVFLAGS_GET_REPLY,
			Values{"net.private-flag.legacy-rx": "on"}, false},
		"a private flag that another driver had": {groupPrivateFlags, []string{"net.private-flag.colour=on"}, 0, nil, true},
		"more channels than there are":           {groupChannels, []string{"net.channel.combined=3"}, 0, nil, true},
		"no way to wake that the device has":     {groupWake, []string{"net.wake.on=arp"}, 0, nil, true},
		"none of the link modes":                 {groupLinkModes, []string{"net.link.advertise=1000baseT/Full"}, 0, nil, true},
		"a ring over the maximum":                {groupRings, []string{"net.ring.rx=4097"}, 0, nil, true},
		"a ring that the device does not have":   {groupRings, []string{"net.ring.rx-mini=1"}, 0, nil, true},
		"a feature that the kernel has not":      {groupFeatures, []string{"net.feature.colour=on"}, 0, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ethtoolChange(tt.group, 7, ops(t, tt.ops...), cur, someNames)
			if (err != nil) != tt.fails {
				t.Fatalf("err %v", err)
			}
			if tt.fails {
				return
			}
			m.Header.Command = tt.reply
			r, _, ok, err := parseEthtool(m, someNames)
			if !ok || err != nil || r.index != 7 {
				t.Fatalf("index %d, ok %v, err %v", r.index, ok, err)
			}
			if diff := cmp.Diff(tt.want, r.values); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFeatureChangeSpeaksOnlyOfItsBits(t *testing.T) {
	m, err := ethtoolChange(groupFeatures, 7, ops(t, "net.feature.rx-all=on", "net.feature.tx-scatter-gather=off"), report{}, someNames)
	if err != nil {
		t.Fatal(err)
	}
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	var b bitset
	for ad.Next() {
		if ad.Type() == unix.ETHTOOL_A_FEATURES_WANTED {
			ad.Nested(b.parse)
		}
	}
	if diff := cmp.Diff([]uint32{0b01000}, b.value); diff != "" {
		t.Errorf("value (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]uint32{0b01001}, b.mask); diff != "" {
		t.Errorf("mask (-want +got)\n%s", diff)
	}
}

func TestParseStrings(t *testing.T) {
	set := func(id uint32, list []string) func(*attrs) {
		return func(ae *attrs) {
			ae.Nested(unix.ETHTOOL_A_STRINGSETS_STRINGSET, func(ae *attrs) error {
				ae.Uint32(unix.ETHTOOL_A_STRINGSET_ID, id)
				ae.Uint32(unix.ETHTOOL_A_STRINGSET_COUNT, uint32(len(list)))
				ae.Nested(unix.ETHTOOL_A_STRINGSET_STRINGS, func(ae *attrs) error {
					for i, s := range list {
						ae.Nested(unix.ETHTOOL_A_STRINGS_STRING, func(ae *attrs) error {
							ae.Uint32(unix.ETHTOOL_A_STRING_INDEX, uint32(i))
							ae.String(unix.ETHTOOL_A_STRING_VALUE, s)
							return nil
						})
					}
					return nil
				})
				return nil
			})
		}
	}
	data := encode(t, func(ae *attrs) {
		ae.Nested(unix.ETHTOOL_A_STRSET_STRINGSETS, func(ae *attrs) error {
			for _, id := range stringSets {
				set(uint32(id), someNames[id])(ae)
			}
			set(99, []string{"of no interest"})(ae)
			return nil
		})
	})
	got, err := parseStrings(genetlink.Message{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(someNames, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func linkData(t testing.TB, flags uint32, fields ...func(*attrs)) []byte {
	data := make([]byte, sizeofIfInfomsg)
	binary.NativeEndian.PutUint32(data[4:], 7)
	binary.NativeEndian.PutUint32(data[8:], flags)
	return append(data, encode(t, func(ae *attrs) {
		for _, f := range fields {
			f(ae)
		}
	})...)
}

func TestParseLink(t *testing.T) {
	full := linkData(t, unix.IFF_UP|unix.IFF_LOWER_UP|unix.IFF_PROMISC|unix.IFF_MULTICAST,
		func(ae *attrs) { ae.String(unix.IFLA_IFNAME, "nic0") },
		func(ae *attrs) { ae.Bytes(unix.IFLA_ADDRESS, []byte{0x52, 0x54, 0, 0, 0, 9}) },
		u32(unix.IFLA_MTU, 9000), u32(unix.IFLA_TXQLEN, 500), u32(unix.IFLA_MIN_MTU, 68), u32(unix.IFLA_MAX_MTU, 16110))
	m := netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWLINK}, Data: full}
	got, ok, err := parseLink(m)
	if err != nil || !ok {
		t.Fatalf("ok %v, err %v", ok, err)
	}
	want := report{
		index: 7, name: "nic0", carrier: true, minMTU: 68, maxMTU: 16110,
		values: Values{
			"net.mtu": "9000", "net.mac": "52:54:00:00:00:09", "net.txqueuelen": "500",
			"net.flag.promisc": "on", "net.flag.allmulti": "off", "net.flag.multicast": "on", "net.flag.arp": "on",
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(report{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	m.Header.Type = unix.RTM_DELLINK
	if r, _, _ := parseLink(m); !r.gone {
		t.Error("a removed interface is not gone")
	}
	bridge := append([]byte{unix.AF_BRIDGE}, full[1:]...)
	if _, ok, err := parseLink(netlink.Message{Data: bridge}); ok || err != nil {
		t.Errorf("a bridge's port is taken for an interface: %v, %v", ok, err)
	}
	if _, _, err := parseLink(netlink.Message{Data: full[:15]}); err == nil {
		t.Error("a short message is accepted")
	}
}

func TestLinkChange(t *testing.T) {
	for name, tt := range map[string]struct {
		op            oplog.Op
		flags, change uint32
		attr          []byte // header of the attribute left out
	}{
		"mtu":                               {oplog.Set("net.mtu", "258"), 0, 0, []byte{2, 1, 0, 0}},
		"mac":                               {oplog.Set("net.mac", "52:54:00:00:00:09"), 0, 0, []byte{0x52, 0x54, 0, 0, 0, 9, 0, 0}},
		"a flag on":                         {oplog.Set("net.flag.promisc", "on"), unix.IFF_PROMISC, unix.IFF_PROMISC, nil},
		"a flag off changes that flag only": {oplog.Set("net.flag.promisc", "off"), 0, unix.IFF_PROMISC, nil},
		"arp is the opposite of a flag":     {oplog.Set("net.flag.arp", "off"), unix.IFF_NOARP, unix.IFF_NOARP, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := linkChange(7, tt.op)
			if err != nil {
				t.Fatal(err)
			}
			if flags := binary.NativeEndian.Uint32(m.Data[8:]); flags != tt.flags {
				t.Errorf("flags %#x, want %#x", flags, tt.flags)
			}
			if change := binary.NativeEndian.Uint32(m.Data[12:]); change != tt.change {
				t.Errorf("change %#x, want %#x", change, tt.change)
			}
			attr := m.Data[sizeofIfInfomsg:]
			if len(attr) > 4 {
				attr = attr[4:]
			}
			if diff := cmp.Diff(tt.attr, attr, cmp.Transformer("string", func(b []byte) string { return string(b) })); diff != "" {
				t.Errorf("attribute (-want +got)\n%s", diff)
			}
		})
	}
	if _, err := linkChange(7, oplog.Set("net.ring.rx", "1")); err == nil {
		t.Error("a ring is set as a link setting")
	}
}

// FuzzParse feeds messages to every parser: whatever a kernel sends, they
// return, and what they return is known to the table.
func FuzzParse(f *testing.F) {
	f.Add(uint8(unix.ETHTOOL_MSG_FEATURES_NTF), ethtoolData(f, bits(unix.ETHTOOL_A_FEATURES_HW, 0b11111, 0), bits(unix.ETHTOOL_A_FEATURES_WANTED, 1, 0)))
	f.Add(uint8(unix.ETHTOOL_MSG_RINGS_NTF), ethtoolData(f, u32(unix.ETHTOOL_A_RINGS_RX_MAX, 4096), u32(unix.ETHTOOL_A_RINGS_RX, 256)))
	f.Add(uint8(unix.ETHTOOL_MSG_PAUSE_NTF), ethtoolData(f, u8(unix.ETHTOOL_A_PAUSE_AUTONEG, 1)))
	f.Add(uint8(unix.ETHTOOL_MSG_LINKMODES_NTF), ethtoolData(f, u8(unix.ETHTOOL_A_LINKMODES_AUTONEG, 1), bits(unix.ETHTOOL_A_LINKMODES_OURS, 0b1000, 0b1111)))
	f.Add(uint8(unix.ETHTOOL_MSG_PRIVFLAGS_NTF), ethtoolData(f, bits(unix.ETHTOOL_A_PRIVFLAGS_FLAGS, 1, 1)))
	f.Add(uint8(unix.ETHTOOL_MSG_PRIVFLAGS_GET_REPLY), ethtoolData(f, privateFlags("legacy-rx", true)))
	f.Add(uint8(unix.ETHTOOL_MSG_COALESCE_NTF), ethtoolData(f, u32(unix.ETHTOOL_A_COALESCE_RX_USECS, 3), u8(unix.ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX, 1)))
	f.Add(uint8(unix.ETHTOOL_MSG_EEE_NTF), ethtoolData(f, bits(unix.ETHTOOL_A_EEE_MODES_OURS, 8, 8), u8(unix.ETHTOOL_A_EEE_ENABLED, 1)))
	f.Add(uint8(unix.ETHTOOL_MSG_WOL_NTF), ethtoolData(f, bits(unix.ETHTOOL_A_WOL_MODES, 1, 3)))
	f.Add(uint8(unix.ETHTOOL_MSG_DEBUG_NTF), ethtoolData(f, bits(unix.ETHTOOL_A_DEBUG_MSGMASK, 1, 0)))
	f.Add(uint8(0), linkData(f, unix.IFF_UP, u32(unix.IFLA_MTU, 1500)))
	f.Fuzz(func(t *testing.T, cmd uint8, data []byte) {
		gm := genetlink.Message{Header: genetlink.Header{Command: cmd}, Data: data}
		reports := make([]report, 2)
		reports[0], _, _, _ = parseEthtool(gm, someNames)
		reports[1], _, _ = parseLink(netlink.Message{Data: data})
		if n, err := parseStrings(gm); err == nil {
			for id, set := range n {
				if len(set) > maxStrings || !slices.Contains(stringSets, id) {
					t.Errorf("set %d with %d names", id, len(set))
				}
			}
		}
		for _, r := range reports {
			for key, value := range r.values {
				o, ok := lookup(key)
				if !ok {
					t.Fatalf("%s is not in the table", key)
				}
				if o.group != r.group {
					t.Errorf("%s comes with group %q", key, r.group)
				}
				if err := o.check(value); err != nil {
					t.Errorf("%s is read as what cannot be set: %v", key, err)
				}
			}
		}
	})
}
