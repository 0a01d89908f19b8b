// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package traffic

import (
	"encoding/binary"
	"slices"

	"github.com/mdlayher/netlink"
)

// What the kernel wants to be told otherwise than it tells is made of options here.

// Attributes and layout of the action police, linux/pkt_cls.h.
const (
	policeTBF      = 1 // struct tc_police
	policeRate     = 2
	policePeakRate = 3

	rateRate = 8 // the rate in struct tc_ratespec; its first byte is cell_log
)

// rateTables are the tables, and where the rates are in struct tc_police.
var rateTables = []struct {
	attr uint16
	at   int
}{{policeRate, 20}, {policePeakRate, 32}}

// sizeofRateTable is TC_RTAB_SIZE; cellLog may be any from 1 to 31.
const (
	sizeofRateTable = 1024
	cellLog         = 3
)

// restorable returns the object's options as the kernel takes them.
func (o Object) restorable(options []byte) []byte {
	if o.Kind == Qdisc {
		return restorableTimes(o.Type, options)
	}
	l, ok := filterLayouts[o.Type]
	if o.Kind != Filter || !ok {
		return options
	}
	if o.Type == "flower" {
		options = o.restorableVLAN(options)
	}
	return edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		switch typ {
		case l.actions:
			v = edit(v, func(_ uint16, v []byte) ([]byte, bool) { return restorableAction(v), true })
		case l.police:
			v = restorablePolice(v)
		}
		return v, true
	})
}

// times are attributes in µs that the kernel keeps in units of its own, in ns: of 2^10
// (CODEL_SHIFT) and 2^6 (PSCHED_SHIFT). It rounds down each time.
var times = map[string]struct {
	unit  uint64
	attrs []uint16
}{
	"codel":    {1 << 10, []uint16{1, 3, 5}},
	"fq_codel": {1 << 10, []uint16{1, 3, 7}},
	"pie":      {1 << 6, []uint16{1}},
	"fq_pie":   {1 << 6, []uint16{3}},
}

// restorableTimes makes times such that the kernel will tell what it told.
func restorableTimes(typ string, options []byte) []byte {
	t, ok := times[typ]
	if !ok {
		return options
	}
	return edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		if slices.Contains(t.attrs, typ) && len(v) == 4 {
			told := binary.NativeEndian.Uint32(v)
			if uint64(told)*1000/t.unit*t.unit/1000 != uint64(told) {
				told++
			}
			binary.NativeEndian.PutUint32(v, told)
		}
		return v, true
	})
}

// restorableVLAN gives a filter that looks at a VLAN tag its own protocol as the type:
// the kernel tells the one behind the tag (fl_set_key(), net/sched/cls_flower.c).
func (o Object) restorableVLAN(options []byte) []byte {
	const ethType, vlanID, vlanPriority, vlanEthType = 8, 23, 24, 25
	tagged := false
	out := edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		tagged = tagged || typ == vlanID || typ == vlanPriority || typ == vlanEthType
		return v, typ != ethType
	})
	if !tagged {
		return options
	}
	return appendAttr(out, ethType, binary.BigEndian.AppendUint16(nil, o.Protocol))
}

// restorableAction marks options as nested, which some actions insist on and the kernel
// does not tell, and gives police its tables.
func restorableAction(action []byte) []byte {
	police := actionName(action) == "police"
	out := []byte{}
	edit(action, func(typ uint16, v []byte) ([]byte, bool) {
		if typ == actOptions && police {
			v = restorablePolice(v)
		}
		if typ == actOptions {
			typ |= netlink.Nested
		}
		out = appendAttr(out, typ, v)
		return v, true
	})
	return out
}

// restorablePolice gives police the tables of its rates, without which the kernel
// refuses a rate and which it no longer reads but to see that they are there
// (tcf_police_init(), qdisc_get_rtab(), net/sched).
func restorablePolice(options []byte) []byte {
	var tables []uint16
	out := edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		for _, t := range rateTables {
			if typ == policeTBF && len(v) >= t.at+rateRate+4 && binary.NativeEndian.Uint32(v[t.at+rateRate:]) != 0 {
				v[t.at] = cellLog
				tables = append(tables, t.attr)
			}
		}
		return v, typ != policeRate && typ != policePeakRate
	})
	for _, table := range tables {
		out = appendAttr(out, table, make([]byte, sizeofRateTable))
	}
	return out
}
