// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package dump reads the kernel's tables as they are at one time.
//
// The kernel gives a table of interfaces or addresses out in pieces, and marks it as interrupted
// if something was changed in between (NLM_F_DUMP_INTR): then some of it may be missing.
// While one role recovers, another's devices come and go.
package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// tries is how often what changes while it is read is read.
const tries = 8

// Settled calls read again as long as what it reads changes meanwhile, and returns its last
// error. After a number of tries that is [netlink.ErrDumpInterrupted].
func Settled(read func() error) (err error) {
	for range tries {
		if err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return err
}

// Whole is Settled for what returns a table.
func Whole[T any](read func() (T, error)) (table T, err error) {
	err = Settled(func() error {
		table, err = read()
		return err
	})
	return table, err
}

// Links are the interfaces.
func Links() ([]netlink.Link, error) { return Whole(netlink.LinkList) }

// Addresses are those of an interface, or of all if it is nil; family as for
// [netlink.AddrList].
func Addresses(link netlink.Link, family int) ([]netlink.Addr, error) {
	return Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}

// Neighbours are the entries of an interface, or of all if ifindex is 0; family as for
// [netlink.NeighList].
func Neighbours(ifindex, family int) ([]netlink.Neigh, error) {
	return Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(ifindex, family) })
}
