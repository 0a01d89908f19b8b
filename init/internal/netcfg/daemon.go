// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"golang.org/x/sys/unix"
)

// firstMetric is the metric of the routes of the first role; each further role
// has the next, so that their default routes do not replace one another.
const firstMetric = 100

// Options are what a Daemon needs from its surroundings.
type Options struct {
	Roles      []config.Role // those without a network are left out
	StateDir   string        // e.g. /run/umbra/net
	ResolvConf string        // e.g. /etc/resolv.conf
	Hostname   string        // told to DHCP servers, if not empty
	// Tell tells who waits for it that the network of a role came up or
	// went down.
	Tell   func(ctx context.Context, role string, up bool) error
	Logger *slog.Logger
}

// A Daemon configures the interfaces of all network roles.
type Daemon struct {
	opt    Options
	kernel Kernel
	store  Store
	now    func() time.Duration
	dial   dialFunc

	mu     sync.Mutex
	states map[string]State
	resolv string
}

// New returns a Daemon for this machine.
func New(opt Options) *Daemon {
	return &Daemon{
		opt: opt, kernel: rtnetlink{}, store: Store{Dir: opt.StateDir},
		now: boottime, dial: dialDHCP, states: make(map[string]State),
	}
}

// Run configures interfaces until ctx is done. It takes nothing away when it
// ends: its successor goes on from the state it leaves.
func (d *Daemon) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	boxes := make(map[string]*mailbox)
	for i, role := range d.opt.Roles {
		if role.Class != config.ClassNet {
			continue
		}
		w := &worker{
			daemon: d, role: role, metric: firstMetric + i, box: newMailbox(),
			log: d.opt.Logger.With("role", role.Name),
		}
		boxes[role.Name] = w.box
		wg.Go(func() { w.run(ctx) })
	}
	watchLinks(ctx, d.opt.Logger, func(c change) {
		if box, ours := boxes[c.name]; ours {
			box.put(c.link)
		}
	})
	wg.Wait()
	return ctx.Err()
}

// remember keeps the state of a role for the successor, and brings the name
// servers up to date.
func (d *Daemon) remember(role string, st State) error {
	if err := d.store.Save(role, st); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states[role] = st
	text := ResolvConf(maps.Clone(d.states))
	if text == d.resolv {
		return nil
	}
	if err := replace(d.opt.ResolvConf, []byte(text)); err != nil {
		return fmt.Errorf("name servers: %w", err)
	}
	d.resolv = text
	return nil
}

// boottime returns the time of CLOCK_BOOTTIME.
func boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}

// A mailbox holds the newest state of an interface.
type mailbox struct {
	mu      sync.Mutex
	link    *Link
	changed chan struct{} // closed and replaced with every put
}

func newMailbox() *mailbox { return &mailbox{changed: make(chan struct{})} }

func (b *mailbox) put(l *Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link = l
	close(b.changed)
	b.changed = make(chan struct{})
}

// get returns the newest state, nil if there is no interface, and a channel
// that is closed when there is a newer one.
func (b *mailbox) get() (*Link, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.link, b.changed
}
