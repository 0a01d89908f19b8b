// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package traffic

import (
	"encoding/binary"
	"slices"

	"github.com/mdlayher/netlink"
)

// What the kernel tells in options beside settings is taken out of them here. What
// cannot be read as it should be is left as it is: it is the kernel's to judge.

// editor changes an attribute, in place or by what it returns; keep is false for one
// that is no setting.
type editor func(typ uint16, v []byte) (out []byte, keep bool)

// edit applies an editor to each of the attributes in b, which are kept in their order.
func edit(b []byte, f editor) []byte {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return b
	}
	out := []byte{}
	for d.Next() {
		v, keep := f(d.Type(), slices.Clone(d.Bytes()))
		if keep {
			out = appendAttr(out, d.Type()|d.TypeFlags(), v)
		}
	}
	if d.Err() != nil {
		return b
	}
	return out
}

// appendAttr appends a struct nlattr and its value, padded to 4 bytes.
func appendAttr(b []byte, typ uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, v...)
	return append(b, make([]byte, -len(v)&3)...)
}

// zero sets bytes to 0 as far as there are any.
func zero(b []byte, from, to int) {
	if from < len(b) {
		clear(b[from:min(to, len(b))])
	}
}

func canonical(kind Kind, typ string, options []byte) []byte {
	switch {
	case kind == Filter:
		return canonicalFilter(typ, options)
	case kind == Qdisc && typ == "htb":
		return edit(options, canonicalHTB)
	case kind == Class && typ == "htb":
		return edit(options, canonicalHTBClass)
	case kind == Qdisc && typ == "sfq":
		return canonicalSFQ(slices.Clone(options))
	}
	return options
}

// canonicalSFQ: struct tc_sfq_qopt_v1 ends in struct tc_sfqred_stats. A number of flows
// that nobody asked for may be over the limit, where one that was asked for is not
// (sfq_change()).
func canonicalSFQ(options []byte) []byte {
	const limitAt, flowsAt, statsAt = 8, 16, 48
	zero(options, statsAt, statsAt+24)
	if len(options) >= flowsAt+4 {
		limit, flows := binary.NativeEndian.Uint32(options[limitAt:]), binary.NativeEndian.Uint32(options[flowsAt:])
		binary.NativeEndian.PutUint32(options[flowsAt:], min(limit, flows))
	}
	return options
}

const (
	htbParms = 1 // TCA_HTB_PARMS, struct tc_htb_opt
	htbInit  = 2 // TCA_HTB_INIT, struct tc_htb_glob
)

// canonicalHTB: the kernel tells its version as 0x30011 and wants 3 (HTB_VER,
// htb_init()), and counts packets.
func canonicalHTB(typ uint16, v []byte) ([]byte, bool) {
	if typ == htbInit && len(v) >= 20 {
		if version := binary.NativeEndian.Uint32(v); version > 0xffff {
			binary.NativeEndian.PutUint32(v, version>>16)
		}
		zero(v, 16, 20) // direct_pkts
	}
	return v, true
}

// canonicalHTBClass: the level follows from the classes below.
func canonicalHTBClass(typ uint16, v []byte) ([]byte, bool) {
	if typ == htbParms {
		zero(v, 36, 40)
	}
	return v, true
}

// A filterLayout says where in the options of a filter there is what is no setting.
// 0 is for what its kind has not.
type filterLayout struct {
	actions uint16
	police  uint16 // options of the action police, as tc makes it in old ways
	flags   uint16 // TCA_CLS_FLAGS_*
	counts  uint16
}

// filterLayouts are from linux/pkt_cls.h.
var filterLayouts = map[string]filterLayout{
	"u32":      {actions: 7, police: 6, flags: 11, counts: 9},
	"flower":   {actions: 3, flags: 22, counts: 86},
	"matchall": {actions: 2, flags: 3, counts: 4},
	"basic":    {actions: 3, police: 4, counts: 5},
	"fw":       {actions: 4, police: 2},
	"route":    {actions: 6, police: 5},
	"flow":     {actions: 9, police: 10},
	"cgroup":   {actions: 1, police: 2},
	"bpf":      {actions: 1, police: 2, flags: 9},
}

// hardwareFlags are TCA_CLS_FLAGS_IN_HW and TCA_CLS_FLAGS_NOT_IN_HW: what became of
// the filter, which nobody can ask for (tc_flags_valid()).
const hardwareFlags = 1<<2 | 1<<3

func canonicalFilter(typ string, options []byte) []byte {
	l, ok := filterLayouts[typ]
	if !ok {
		return options
	}
	return edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		switch typ {
		case l.actions:
			return edit(v, func(_ uint16, v []byte) ([]byte, bool) { return canonicalAction(v), true }), true
		case l.police:
			return actionLayouts["police"].canonical(v), true
		case l.flags:
			if len(v) != 4 {
				return v, true
			}
			flags := binary.NativeEndian.Uint32(v) &^ hardwareFlags
			binary.NativeEndian.PutUint32(v, flags)
			return v, flags != 0
		case l.counts:
			return nil, false
		}
		return v, true
	})
}

// Attributes of an action, linux/pkt_cls.h.
const (
	actKind    = 1
	actOptions = 2
	actCookie  = 6
	actFlags   = 7
	actHWStats = 8
)

// An actionLayout says where in the options of an action its parameters are, and when
// it was last used.
type actionLayout struct {
	parms  []uint16
	times  uint16
	counts int // in the parameters: refcnt and bindcnt
}

// An action's parameters begin with index, capab, action, refcnt and bindcnt (tc_gen).
const genCounts = 12

// actionLayouts are from linux/tc_act and linux/pkt_cls.h; those that are not among
// them are as usualAction.
var (
	usualAction   = actionLayout{[]uint16{2}, 1, genCounts}
	swappedAction = actionLayout{[]uint16{1}, 2, genCounts}
	actionLayouts = map[string]actionLayout{
		"csum": swappedAction, "nat": swappedAction, "connmark": swappedAction, "ct": swappedAction, "ife": swappedAction,
		"ctinfo": {[]uint16{3}, 2, genCounts},
		"gate":   {[]uint16{3}, 1, genCounts},
		"pedit":  {[]uint16{2, 4}, 1, genCounts},
		"police": {[]uint16{policeTBF}, 6, 44},
	}
)

// canonical takes out of an action's options how often it is used and when it last was.
func (l actionLayout) canonical(options []byte) []byte {
	return edit(options, func(typ uint16, v []byte) ([]byte, bool) {
		if slices.Contains(l.parms, typ) {
			zero(v, l.counts, l.counts+8)
		}
		return v, typ != l.times
	})
}

// canonicalAction keeps the index of an action: one that somebody made for several
// filters is meant again where it still is, and another gets the number that it had.
func canonicalAction(action []byte) []byte {
	name := actionName(action)
	l, ok := actionLayouts[name]
	if !ok {
		l = usualAction
	}
	return edit(action, func(typ uint16, v []byte) ([]byte, bool) {
		switch typ {
		case actKind, actCookie, actFlags, actHWStats:
			return v, true
		case actOptions:
			return l.canonical(v), true
		}
		return nil, false
	})
}

func actionName(action []byte) (name string) {
	d, err := netlink.NewAttributeDecoder(action)
	if err != nil {
		return ""
	}
	for d.Next() {
		if d.Type() == actKind {
			name = d.String()
		}
	}
	return name
}

// Attributes and handles of u32, linux/pkt_cls.h.
const (
	u32Hash    = 2
	u32Divisor = 4

	u32Root  = 0xfff00000 // TC_U32_ROOT
	u32Table = 0xfff00000 // the table's part of a handle, TC_U32_HTID
	u32Auto  = 0x80000000 // handles from here on are chosen by the kernel
)

// isTable reports whether the filter is a hash table of u32.
func (o Object) isTable() bool {
	_, ok := o.u32(u32Divisor)
	return ok
}

// u32 returns an attribute of a filter of kind u32.
func (o Object) u32(typ uint16) (n uint32, ok bool) {
	options, _ := o.attr(tcaOptions)
	if o.Type != "u32" || o.Kind != Filter {
		return 0, false
	}
	edit(options, func(t uint16, v []byte) ([]byte, bool) {
		if t == typ && len(v) == 4 {
			n, ok = binary.NativeEndian.Uint32(v), true
		}
		return v, true
	})
	return n, ok
}

// withoutRootTables leaves out the table that u32 makes by itself for each priority, the
// first of all that has a handle of the kernel's choice, and makes what is in it say so
// by the name that every such table answers to: the next one has another handle
// (u32_init(), gen_new_htid(), net/sched/cls_u32.c).
func withoutRootTables(filters []Object) []Object {
	type place struct {
		parent, chain uint32
		priority      uint16
	}
	roots := make(map[place]uint32)
	at := func(o Object) place { return place{o.Parent, o.Chain, o.Priority} }
	for _, o := range filters {
		if h, ok := roots[at(o)]; o.isTable() && o.Handle >= u32Auto && (!ok || o.Handle < h) {
			roots[at(o)] = o.Handle
		}
	}
	var out []Object
	for _, o := range filters {
		table, ok := roots[at(o)]
		switch hash, node := o.u32(u32Hash); {
		case !ok:
		case o.Handle == table && o.isTable():
			continue
		case node && hash&u32Table == table:
			o.Handle &^= u32Table
			o.setHash(u32Root)
		}
		out = append(out, o)
	}
	return out
}

func (o *Object) setHash(table uint32) {
	for i, a := range o.Attrs {
		if a.Type == tcaOptions {
			o.Attrs[i].Value = edit(a.Value, func(typ uint16, v []byte) ([]byte, bool) {
				if typ == u32Hash {
					binary.NativeEndian.PutUint32(v, table)
				}
				return v, true
			})
		}
	}
}
