// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sizeofTcmsg is the size of struct tcmsg (linux/rtnetlink.h).
const sizeofTcmsg = 20

// Attributes of all objects (linux/rtnetlink.h).
const (
	tcaKind         = 1
	tcaOptions      = 2
	tcaStab         = 8
	tcaChain        = 11
	tcaIngressBlock = 13
	tcaEgressBlock  = 14
)

// Max is how many objects of one interface are kept.
const Max = 1024

// maxOptions bounds the attributes of an object in bytes, as a value in hexadecimal
// has to fit into an operation.
const maxOptions = 24 << 10

// ErrTooMany says that an interface has more objects, or larger ones, than are kept.
var ErrTooMany = errors.New("more of traffic control than is kept")

// kindOf tells what a message is about, also that of an answer.
func kindOf(t netlink.HeaderType) (Kind, bool) {
	switch t {
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		return Qdisc, true
	case unix.RTM_NEWTCLASS, unix.RTM_DELTCLASS:
		return Class, true
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		return Filter, true
	}
	return 0, false
}

// Announced returns the index of the interface whose traffic control a notification
// says has changed.
func Announced(m netlink.Message) (index int, ok bool) {
	if _, ok := kindOf(m.Header.Type); !ok || len(m.Data) < sizeofTcmsg {
		return 0, false
	}
	return int(int32(binary.NativeEndian.Uint32(m.Data[4:]))), true
}

// List asks for the objects of a kind of an interface: for the queueing disciplines of
// all interfaces, which is how the kernel answers, for all classes, or for the filters
// of one parent.
func List(kind Kind, index int, parent uint32) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  []netlink.HeaderType{unix.RTM_GETQDISC, unix.RTM_GETTCLASS, unix.RTM_GETTFILTER}[kind],
			Flags: netlink.Request | netlink.Dump,
		},
		Data: tcmsg(index, 0, parent, 0),
	}
}

func tcmsg(index int, handle, parent, info uint32) []byte {
	b := make([]byte, sizeofTcmsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

// Decode reads the objects of an interface from the answers to a List: those that
// somebody made, and all that filters may hang on beside them.
func Decode(kind Kind, index int, msgs []netlink.Message) (objects []Object, err error) {
	for _, m := range msgs {
		if k, ok := kindOf(m.Header.Type); !ok || k != kind {
			continue
		}
		if len(m.Data) < sizeofTcmsg {
			return nil, fmt.Errorf("tcmsg of %d bytes", len(m.Data))
		}
		if int(int32(binary.NativeEndian.Uint32(m.Data[4:]))) != index {
			continue
		}
		o, err := decode(kind, m.Data)
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	if kind == Filter {
		objects = withoutRootTables(objects)
	}
	return slices.DeleteFunc(objects, func(o Object) bool { return !o.made() }), nil
}

func decode(kind Kind, b []byte) (Object, error) {
	o := Object{
		Kind:   kind,
		Handle: binary.NativeEndian.Uint32(b[8:]),
		Parent: binary.NativeEndian.Uint32(b[12:]),
	}
	if info := binary.NativeEndian.Uint32(b[16:]); kind == Filter {
		o.Priority = uint16(info >> 16)
		o.Protocol = swap(uint16(info))
	}
	d, err := netlink.NewAttributeDecoder(b[sizeofTcmsg:])
	if err != nil {
		return Object{}, fmt.Errorf("traffic control: %w", err)
	}
	size := 0
	for d.Next() {
		switch t := d.Type(); t {
		case tcaKind:
			o.Type = d.String()
		case tcaChain:
			o.Chain = d.Uint32()
		case tcaOptions, tcaStab, tcaIngressBlock, tcaEgressBlock:
			size += len(d.Bytes())
			o.Attrs = append(o.Attrs, Attr{t, d.Bytes()})
		}
	}
	if err := d.Err(); err != nil {
		return Object{}, fmt.Errorf("traffic control: %w", err)
	}
	if size > maxOptions {
		return Object{}, fmt.Errorf("%w: a %s of %d bytes", ErrTooMany, o.Type, size)
	}
	if !isType(o.Type) {
		return Object{}, fmt.Errorf("traffic control: a type %.80q", o.Type)
	}
	slices.SortStableFunc(o.Attrs, func(a, b Attr) int { return int(a.Type) - int(b.Type) })
	o.Attrs = slices.CompactFunc(o.Attrs, func(a, b Attr) bool { return a.Type == b.Type })
	for i, a := range o.Attrs {
		if a.Type == tcaOptions {
			o.Attrs[i].Value = canonical(kind, o.Type, a.Value)
		}
	}
	return o, nil
}

// classful are the queueing disciplines whose classes somebody makes. Those of others
// come by themselves, with what their options say.
var classful = []string{"htb", "hfsc", "drr", "qfq"}

// made reports whether somebody made the object.
func (o Object) made() bool {
	_, options := o.attr(tcaOptions)
	switch o.Kind {
	case Qdisc:
		return o.Handle != 0
	case Class: // hfsc has one with the discipline's own handle
		return slices.Contains(classful, o.Type) && o.Handle&0xffff != 0
	}
	return options // what has none stands for all filters of a priority
}

// HasClasses reports whether a queueing discipline has classes that somebody makes.
func (o Object) HasClasses() bool { return o.Kind == Qdisc && slices.Contains(classful, o.Type) }

// FilterParents are what filters can hang on: 0 is a root discipline that the kernel
// chose, which has no handle.
func FilterParents(objects []Object) []uint32 {
	parents := []uint32{0}
	for _, o := range objects {
		switch {
		case o.Kind == Qdisc && o.Parent == root:
			parents[0] = o.Handle
		case o.Kind == Qdisc && o.Parent == ingress:
			parents = append(parents, o.ingressParents()...)
		case o.Kind == Qdisc, o.Kind == Class && (o.Type == "htb" || o.Type == "hfsc"):
			parents = append(parents, o.Handle)
		}
	}
	return parents
}

// ingressParents are what filters of an ingress discipline hang on; clsact has two
// places. Those of a block that interfaces share are no interface's.
func (o Object) ingressParents() (parents []uint32) {
	_, sharesIn := o.attr(tcaIngressBlock)
	_, sharesOut := o.attr(tcaEgressBlock)
	switch {
	case o.Type != "clsact":
		if !sharesIn {
			parents = append(parents, o.Handle)
		}
		return parents
	case !sharesIn:
		parents = append(parents, ingress&^0xffff|0xfff2) // TC_H_MIN_INGRESS
	}
	if !sharesOut {
		parents = append(parents, ingress&^0xffff|0xfff3) // TC_H_MIN_EGRESS
	}
	return parents
}

// Set makes the object on an interface, or changes the one of its name.
func (o Object) Set(index int) (netlink.Message, error) {
	flags := netlink.Request | netlink.Acknowledge | netlink.Create
	if o.Kind != Filter {
		flags |= netlink.Replace
	}
	var info uint32
	if o.Kind == Filter {
		info = uint32(o.Priority)<<16 | uint32(swap(o.Protocol))
	}
	ae := netlink.NewAttributeEncoder()
	ae.String(tcaKind, o.Type)
	if o.Kind == Filter {
		ae.Uint32(tcaChain, o.Chain)
	}
	for _, a := range o.Attrs {
		if a.Type == tcaOptions {
			// Some kinds insist on the flag, and none minds it.
			ae.Bytes(tcaOptions|netlink.Nested, o.restorable(a.Value))
			continue
		}
		ae.Bytes(a.Type, a.Value)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	return netlink.Message{
		Header: netlink.Header{
			Type:  []netlink.HeaderType{unix.RTM_NEWQDISC, unix.RTM_NEWTCLASS, unix.RTM_NEWTFILTER}[o.Kind],
			Flags: flags,
		},
		Data: append(tcmsg(index, o.Handle, o.Parent, info), attrs...),
	}, nil
}

// swap turns a protocol into the order of the network, or back.
func swap(p uint16) uint16 {
	b := binary.NativeEndian.AppendUint16(nil, p)
	return binary.BigEndian.Uint16(b)
}
