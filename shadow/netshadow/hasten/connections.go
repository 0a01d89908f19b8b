// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hasten

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Connection is one of TCP whose peer may send.
type Connection struct {
	Local, Peer netip.AddrPort
	Next        uint32 // the sequence number that is expected next
	Interface   int    // that it is bound to, or 0
}

// connectionLen is the size of struct connection of bpf/hasten.c.
const connectionLen = 48

// connections asks the kernel for all connections of this network namespace.
func (h *Hastener) connections() ([]Connection, error) {
	r, err := h.iterator.Open()
	if err != nil {
		return nil, fmt.Errorf("hasten: ask for connections: %w", err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("hasten: read connections: %w", err)
	}
	return parse(b)
}

var errSize = errors.New("not a number of whole connections")

// parse decodes structs connection of bpf/hasten.c. One of IPv4 over a socket of IPv6 is one
// of IPv4.
func parse(b []byte) ([]Connection, error) {
	if len(b)%connectionLen != 0 {
		return nil, fmt.Errorf("hasten: %d bytes: %w", len(b), errSize)
	}
	var out []Connection
	for ; len(b) > 0; b = b[connectionLen:] {
		var local, peer netip.Addr
		switch family := binary.NativeEndian.Uint16(b[8:]); family {
		case unix.AF_INET:
			local, peer = netip.AddrFrom4([4]byte(b[16:])), netip.AddrFrom4([4]byte(b[32:]))
		case unix.AF_INET6:
			local, peer = netip.AddrFrom16([16]byte(b[16:])).Unmap(), netip.AddrFrom16([16]byte(b[32:])).Unmap()
		default:
			return nil, fmt.Errorf("hasten: a connection of family %d", family)
		}
		out = append(out, Connection{
			Local:     netip.AddrPortFrom(local, binary.NativeEndian.Uint16(b[10:])),
			Peer:      netip.AddrPortFrom(peer, binary.NativeEndian.Uint16(b[12:])),
			Next:      binary.NativeEndian.Uint32(b),
			Interface: int(binary.NativeEndian.Uint32(b[4:])),
		})
	}
	return out, nil
}
