// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package traffic puts the kernel's traffic control of an interface into words that
// outlive the interface: its queueing disciplines, their classes and their filters.
//
// What the kernel tells of an object is kept as it is, byte for byte, and given back
// to another interface: the package knows neither what most options mean nor which
// kinds there are. It takes out what is no setting (counters, what the hardware made of
// a filter, hash tables that come by themselves), and knows the few places where the
// kernel wants something else than it tells; canonical.go and restore.go list them.
//
// Handles belong to an interface, so they are kept: a filter names the class that it
// leads to. A queueing discipline that nobody asked for has handle 0
// (attach_default_qdiscs(), net/sched/sch_generic.c of Linux 6.1), and is no object
// here: the next device has its own.
//
// The package must never talk to the kernel, nor know whose interface it is.
package traffic

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrBadObject is matched by the error of a text that describes no object.
var ErrBadObject = errors.New("not an object of traffic control")

// A Kind of object.
type Kind uint8

// Kinds of objects.
const (
	Qdisc Kind = iota
	Class
	Filter
)

// Parents that are no handle, linux/pkt_sched.h.
const (
	root    = 0xffffffff // TC_H_ROOT
	ingress = 0xfffffff1 // TC_H_INGRESS, and TC_H_CLSACT
)

// An Object is a queueing discipline, a class or a filter.
type Object struct {
	Kind   Kind
	Type   string // the kernel's name of what it is, such as "htb" or "u32"
	Parent uint32
	Handle uint32
	// Of filters only.
	Priority uint16
	Protocol uint16 // Ethernet's
	Chain    uint32

	Attrs []Attr // by type
}

// An Attr is an attribute that the kernel told, TCA_* of linux/rtnetlink.h.
type Attr struct {
	Type  uint16
	Value []byte
}

// attrNames are the attributes that are kept.
var attrNames = []struct {
	typ  uint16
	name string
}{
	{tcaOptions, "options"},
	{tcaStab, "stab"},
	{tcaIngressBlock, "ingress-block"},
	{tcaEgressBlock, "egress-block"},
}

// Name identifies the object among those of its kind: a queueing discipline by its
// parent, which can have one only, a class by its id, a filter by all that a person
// would have to name to remove it.
func (o Object) Name() string {
	switch o.Kind {
	case Qdisc:
		return parentName(o.Parent)
	case Class:
		return handleName(o.Handle)
	}
	return fmt.Sprintf("%s/%d/%d/%04x/%x", handleName(o.Parent), o.Chain, o.Priority, o.Protocol, o.Handle)
}

// Value describes the rest of the object in one line.
func (o Object) Value() string {
	words := []string{o.Type}
	switch o.Kind {
	case Qdisc:
		words = append(words, "handle="+handleName(o.Handle))
	case Class:
		words = append(words, "parent="+parentName(o.Parent))
	}
	for _, n := range attrNames {
		if v, ok := o.attr(n.typ); ok {
			words = append(words, n.name+"="+hex.EncodeToString(v))
		}
	}
	return strings.Join(words, ",")
}

func (o Object) attr(typ uint16) ([]byte, bool) {
	i := slices.IndexFunc(o.Attrs, func(a Attr) bool { return a.Type == typ })
	if i < 0 {
		return nil, false
	}
	return o.Attrs[i].Value, true
}

// Parse reads an object from its name and value. Its errors match ErrBadObject.
func Parse(kind Kind, name, value string) (Object, error) {
	o := Object{Kind: kind}
	if err := errors.Join(o.parseName(name), o.parseValue(value)); err != nil {
		return Object{}, fmt.Errorf("%w: %w", ErrBadObject, err)
	}
	if o.Name() != name || o.Value() != value {
		return Object{}, fmt.Errorf("%w: %q and %.80q are not in canonical form", ErrBadObject, name, value)
	}
	return o, nil
}

func (o *Object) parseName(name string) (err error) {
	switch o.Kind {
	case Qdisc:
		o.Parent, err = parseHandle(name)
		return err
	case Class:
		o.Handle, err = parseHandle(name)
		return err
	}
	part := strings.Split(name, "/")
	if len(part) != 5 {
		return fmt.Errorf("%q is no filter", name)
	}
	if o.Parent, err = parseHandle(part[0]); err != nil {
		return err
	}
	for i, p := range []struct {
		base, bits int
		set        func(uint64)
	}{
		{10, 32, func(n uint64) { o.Chain = uint32(n) }},
		{10, 16, func(n uint64) { o.Priority = uint16(n) }},
		{16, 16, func(n uint64) { o.Protocol = uint16(n) }},
		{16, 32, func(n uint64) { o.Handle = uint32(n) }},
	} {
		n, err := strconv.ParseUint(part[i+1], p.base, p.bits)
		if err != nil {
			return fmt.Errorf("%q is no filter: %w", name, err)
		}
		p.set(n)
	}
	return nil
}

// maxType is the longest name of a type, IFNAMSIZ without its end.
const maxType = 15

func isType(s string) bool {
	return s != "" && len(s) <= maxType && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c > '~' || c == ',' || c == '='
	})
}

func (o *Object) parseValue(value string) error {
	words := strings.Split(value, ",")
	o.Type = words[0]
	if !isType(o.Type) {
		return fmt.Errorf("%.80q begins with no type", value)
	}
	for _, word := range words[1:] {
		name, text, _ := strings.Cut(word, "=")
		if err := o.parseWord(name, text); err != nil {
			return fmt.Errorf("%.80q: %w", word, err)
		}
	}
	return nil
}

func (o *Object) parseWord(name, text string) (err error) {
	switch {
	case name == "handle" && o.Kind == Qdisc:
		o.Handle, err = parseHandle(text)
		return err
	case name == "parent" && o.Kind == Class:
		o.Parent, err = parseHandle(text)
		return err
	}
	for _, n := range attrNames {
		if n.name == name {
			v, err := hex.DecodeString(text)
			o.Attrs = append(o.Attrs, Attr{n.typ, v})
			return err
		}
	}
	return errors.New("no such attribute")
}

// handleName writes a handle as tc does: two numbers in hexadecimal, the second left
// out if it is 0.
func handleName(h uint32) string {
	if h&0xffff == 0 {
		return fmt.Sprintf("%x:", h>>16)
	}
	return fmt.Sprintf("%x:%x", h>>16, h&0xffff)
}

func parentName(h uint32) string {
	switch h {
	case root:
		return "root"
	case ingress:
		return "ingress"
	}
	return handleName(h)
}

func parseHandle(s string) (uint32, error) {
	switch s {
	case "root":
		return root, nil
	case "ingress":
		return ingress, nil
	}
	major, minor, ok := strings.Cut(s, ":")
	if !ok {
		return 0, fmt.Errorf("%q is no handle", s)
	}
	if minor == "" {
		minor = "0"
	}
	a, errA := strconv.ParseUint(major, 16, 16)
	b, errB := strconv.ParseUint(minor, 16, 16)
	if errA != nil || errB != nil {
		return 0, fmt.Errorf("%q is no handle", s)
	}
	return uint32(a)<<16 | uint32(b), nil
}
