// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package stack tells what is stacked on an interface: the interfaces that send
// through it, and the MACs of others that do, behind a bridge or in another network
// namespace, with the VLAN tags that their frames leave with.
//
// It reads the kernel's tables and changes nothing. It must never know what its
// findings are used for.
package stack

import (
	"cmp"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/dump"
)

// A Tag is a VLAN tag of a frame.
type Tag struct {
	Protocol uint16 // e.g. 0x8100
	ID       uint16
}

// A Place is where a MAC is, seen from outside: on these VLANs, the outer first.
type Place struct {
	MAC  net.HardwareAddr
	Tags []Tag
}

// Interface is one of this namespace that sends through the one below all.
type Interface struct {
	Place
	Index int
	Name  string
}

// A Stack is what sends through an interface.
type Stack struct {
	// Interfaces begins with the one below all, if it is up. Those that are
	// down are left out.
	Interfaces []Interface
	// Behind are the places that no interface here has: macvlans of other
	// namespaces, and what bridges have learned of their other ports.
	Behind []Place
}

// Places returns every place of the stack, each once, that of the interface below all
// first.
func (s Stack) Places() (places []Place) {
	seen := make(map[string]bool)
	add := func(p Place) {
		if key := fmt.Sprint(p); !seen[key] {
			seen[key] = true
			places = append(places, p)
		}
	}
	for _, i := range s.Interfaces {
		add(i.Place)
	}
	for _, p := range s.Behind {
		add(p)
	}
	return places
}

// On returns what is stacked on an interface: VLANs, macvlans, ipvlans, the bridge it
// is a port of, and what is stacked on these in turn.
func On(ifindex int) (Stack, error) {
	var t tables
	var err error
	if t.links, err = dump.Links(); err != nil {
		return Stack{}, fmt.Errorf("stack: list interfaces: %w", err)
	}
	if t.fdb, err = dump.Neighbours(0, unix.AF_BRIDGE); err != nil {
		return Stack{}, fmt.Errorf("stack: list link addresses: %w", err)
	}
	if slices.ContainsFunc(t.links, filters) {
		if t.members, err = netlink.BridgeVlanList(); err != nil {
			return Stack{}, fmt.Errorf("stack: list VLANs of bridges: %w", err)
		}
	}
	return t.on(ifindex), nil
}

// tables are the kernel's.
type tables struct {
	links []netlink.Link
	// fdb has what bridges have learned, and of every interface the MACs that it
	// is to receive for.
	fdb     []netlink.Neigh
	members map[int32][]*nl.BridgeVlanInfo // by port, of bridges that filter VLANs
}

func (t tables) on(ifindex int) (s Stack) {
	stacked := t.above(ifindex)
	paths := make(map[int]path)
	for _, l := range stacked {
		a := l.Attrs()
		p, ok := path{}, true
		if a.Index != ifindex {
			p, ok = t.path(l, stacked, paths)
		}
		if !ok {
			continue
		}
		paths[a.Index] = p
		if tags, ok := t.leave(p, p.pvid); ok && a.Flags&net.FlagUp != 0 && len(a.HardwareAddr) == 6 {
			s.Interfaces = append(s.Interfaces, Interface{Place{a.HardwareAddr, tags}, a.Index, a.Name})
		}
	}
	seen := make(map[string]bool)
	for _, i := range s.Interfaces {
		seen[string(i.MAC)] = true
	}
	// From the top: an interface receives for all that is on it, but what is on a
	// VLAN is behind that one's tag.
	for _, l := range slices.Backward(stacked) {
		p, ok := paths[l.Attrs().Index]
		if !ok {
			continue
		}
		for _, b := range t.behind(l, p, paths) {
			if !seen[string(b.MAC)] {
				seen[string(b.MAC)] = true
				s.Behind = append(s.Behind, b)
			}
		}
	}
	return s
}

// A path is how frames of an interface leave.
type path struct {
	tags []Tag // that they have in the end
	// port is that of a bridge which filters VLANs, 0 if there is none on the way,
	// and pvid the VLAN of what the bridge itself sends without a tag.
	port int
	pvid uint16
}

// path returns the path of l, which is stacked on one of below; false if frames of l
// do not get out.
func (t tables) path(l netlink.Link, below []netlink.Link, paths map[int]path) (path, bool) {
	at := slices.IndexFunc(below, func(b netlink.Link) bool {
		_, ok := paths[b.Attrs().Index]
		return ok && on(l, b)
	})
	if at < 0 {
		return path{}, false
	}
	p := paths[below[at].Attrs().Index]
	switch l := l.(type) {
	case *netlink.Vlan:
		if p.port != 0 { // the bridge takes the tag for the VLAN it forwards in
			tags, ok := t.leave(p, uint16(l.VlanId))
			return path{tags: tags}, ok
		}
		tag := Tag{cmp.Or(uint16(l.VlanProtocol), unix.ETH_P_8021Q), uint16(l.VlanId)}
		p.tags = append(slices.Clone(p.tags), tag)
	case *netlink.Bridge:
		if !filters(l) {
			break
		}
		p.port = below[at].Attrs().Index
		for _, m := range t.members[int32(l.Index)] {
			if m.PortVID() {
				p.pvid = m.Vid
			}
		}
	}
	return p, true
}

// leave returns the tags of frames that go p's way in a VLAN of its bridge; false if
// the bridge does not forward that VLAN to its port.
func (t tables) leave(p path, vid uint16) ([]Tag, bool) {
	if p.port == 0 {
		return p.tags, true
	}
	for _, m := range t.members[int32(p.port)] {
		switch {
		case m.Vid != vid:
		case m.EngressUntag():
			return p.tags, true
		default: // IEEE 802.1ad bridges are not told from others
			return append(slices.Clone(p.tags), Tag{unix.ETH_P_8021Q, vid}), true
		}
	}
	return nil, false
}

// behind returns the MACs that l receives for, and if it is a bridge those that it
// has learned on ports which are not stacked. Of those ports' own MACs nothing is
// sent.
func (t tables) behind(l netlink.Link, p path, stacked map[int]path) (places []Place) {
	for _, e := range t.fdb {
		if len(e.HardwareAddr) != 6 || e.HardwareAddr[0]&1 != 0 {
			continue
		}
		_, inside := stacked[e.LinkIndex]
		vid := p.pvid
		switch {
		case e.LinkIndex == l.Attrs().Index && e.Flags&unix.NTF_SELF != 0:
		case e.MasterIndex == l.Attrs().Index && !inside && e.State&unix.NUD_PERMANENT == 0:
			vid = uint16(e.Vlan)
		default:
			continue
		}
		if tags, ok := t.leave(p, vid); ok {
			places = append(places, Place{e.HardwareAddr, tags})
		}
	}
	return places
}

// above returns the link of that index and, behind it, all links stacked on it.
func (t tables) above(ifindex int) []netlink.Link {
	var stacked []netlink.Link
	seen := map[int]bool{ifindex: true}
	for next := []int{ifindex}; len(next) > 0; next = next[1:] {
		at := slices.IndexFunc(t.links, func(l netlink.Link) bool { return l.Attrs().Index == next[0] })
		if at < 0 {
			continue
		}
		below := t.links[at]
		stacked = append(stacked, below)
		for _, l := range t.links {
			if i := l.Attrs().Index; !seen[i] && on(l, below) {
				seen[i] = true
				next = append(next, i)
			}
		}
	}
	return stacked
}

// on reports whether what l sends may leave through below. In other kinds the
// parent is something else: a veth's peer, a tunnel's underlay.
func on(l, below netlink.Link) bool {
	switch l.Type() {
	case "vlan", "macvlan", "macvtap", "ipvlan":
		// The parent of one that came from another namespace is there.
		return l.Attrs().ParentIndex == below.Attrs().Index && l.Attrs().NetNsID < 0
	case "bridge":
		return l.Attrs().Index == below.Attrs().MasterIndex
	}
	return false
}

// filters reports whether l is a bridge that filters VLANs.
func filters(l netlink.Link) bool {
	b, ok := l.(*netlink.Bridge)
	return ok && b.VlanFiltering != nil && *b.VlanFiltering
}
