// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package traffic

import "encoding/binary"

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

// restorable returns options as the kernel takes them.
func restorable(kind Kind, typ string, options []byte) []byte {
	l, ok := filterLayouts[typ]
	if kind != Filter || !ok {
		return options
	}
	return edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		if typ == l.actions {
			v = edit(v, func(_ uint16, v []byte) ([]byte, bool) { return restorableAction(v), true })
		}
		return v, true
	})
}

// restorableAction gives police the tables of its rates, without which the kernel
// refuses a rate and which it no longer reads but to see that they are there
// (tcf_police_init(), qdisc_get_rtab(), net/sched).
func restorableAction(action []byte) []byte {
	if actionName(action) != "police" {
		return action
	}
	return edit(action, func(typ uint16, v []byte) ([]byte, bool) {
		if typ == actOptions {
			v = restorablePolice(v)
		}
		return v, true
	})
}

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
