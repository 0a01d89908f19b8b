// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is what is known of a network interface.
type Link struct {
	Index   int
	Name    string
	MAC     net.HardwareAddr
	MTU     int
	Up      bool // by the administrator
	Carrier bool // and able to carry frames (IFF_RUNNING)
}

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	return Link{
		Index: a.Index, Name: a.Name, MAC: a.HardwareAddr, MTU: a.MTU,
		Up:      a.RawFlags&unix.IFF_UP != 0,
		Carrier: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
	}
}

// linkTable follows which interface bears which name.
type linkTable map[int]string // index to name

// change is news about a name: the interface that bears it, or none.
type change struct {
	name string
	link *Link
}

// seen takes in an interface as it is now.
func (t linkTable) seen(l Link) []change {
	var cs []change
	if old, known := t[l.Index]; known && old != l.Name {
		cs = append(cs, change{name: old})
	}
	t[l.Index] = l.Name
	return append(cs, change{name: l.Name, link: &l})
}

// gone takes in that an interface is no more.
func (t linkTable) gone(index int) []change {
	name, known := t[index]
	if !known {
		return nil
	}
	delete(t, index)
	return []change{{name: name}}
}

// all takes in a list of all interfaces there are.
func (t linkTable) all(links []Link) []change {
	there := make(map[int]bool)
	for _, l := range links {
		there[l.Index] = true
	}
	var cs []change
	for index := range t {
		if !there[index] {
			cs = append(cs, t.gone(index)...)
		}
	}
	for _, l := range links {
		cs = append(cs, t.seen(l)...)
	}
	return cs
}

// watchLinks tells about every change of an interface, and of every interface
// there is to begin with, until ctx is done.
func watchLinks(ctx context.Context, log *slog.Logger, tell func(change)) {
	table := make(linkTable)
	for ctx.Err() == nil {
		if err := followLinks(ctx, table, tell); err != nil && ctx.Err() == nil {
			// Typically ENOBUFS: messages were lost, all is listed anew.
			log.Debug("links are listed again", "err", err)
			sleep(ctx, 50*time.Millisecond)
		}
	}
}

func followLinks(ctx context.Context, table linkTable, tell func(change)) error {
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	var once sync.Once
	stop := func() { once.Do(func() { close(done) }) }
	defer stop()
	var failure error
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) { failure = err }, // before updates is closed
	})
	if err != nil {
		return fmt.Errorf("subscribe to links: %w", err)
	}
	list, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	links := make([]Link, len(list))
	for i, l := range list {
		links[i] = linkOf(l)
	}
	tellAll(table.all(links), tell)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u, open := <-updates:
			switch {
			case !open:
				return fmt.Errorf("subscription to links: %w", failure)
			case u.IfInfomsg.Family != unix.AF_UNSPEC:
				// A bridge telling about its ports.
			case u.Header.Type == unix.RTM_DELLINK:
				tellAll(table.gone(int(u.IfInfomsg.Index)), tell)
			default:
				tellAll(table.seen(linkOf(u.Link)), tell)
			}
		}
	}
}

func tellAll(cs []change, tell func(change)) {
	for _, c := range cs {
		tell(c)
	}
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) { sleepUnless(ctx, d, nil) }

// sleepUnless waits for d, until ctx is done or until there is news.
func sleepUnless(ctx context.Context, d time.Duration, news <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-news:
	}
}
