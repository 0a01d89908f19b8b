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
	"github.com/umbra-vm/umbra/init/internal/onestep"
	"golang.org/x/sys/unix"
)

// firstMetric is the metric of the routes of the first role; each further role
// has the next, and after them each VLAN, so that their default routes do not replace
// one another.
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
	dial6  dialFunc6

	mu     sync.Mutex // one change of states, their files and resolv.conf at a time
	states map[string]State
	resolv string
}

// New returns a Daemon for this machine.
func New(opt Options) *Daemon {
	return &Daemon{
		opt: opt, kernel: rtnetlink{}, store: Store{Dir: opt.StateDir},
		now: boottime, dial: dialDHCP, dial6: dialDHCPv6, states: make(map[string]State),
	}
}

// Run configures interfaces until ctx is done. It takes nothing away when it
// ends: its successor goes on from the state it leaves.
func (d *Daemon) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	workers := d.workers()
	for _, w := range workers {
		wg.Go(func() { w.run(ctx) })
	}
	wg.Go(func() {
		watchIPv6(ctx, d.opt.Logger, func(n news6) {
			for _, w := range workers {
				w.heard(n)
			}
		})
	})
	watchLinks(ctx, d.opt.Logger, func(c change) {
		if w, ours := workers[c.name]; ours {
			w.box.put(c.link)
		}
	})
	wg.Wait()
	return ctx.Err()
}

// workers returns those of all network roles and of their VLANs, by interface.
func (d *Daemon) workers() map[string]*worker {
	workers := make(map[string]*worker)
	metric := firstMetric + len(d.opt.Roles)
	for i, role := range d.opt.Roles {
		if role.Class != config.ClassNet {
			continue
		}
		w := newWorker(d, role, firstMetric+i)
		workers[role.Name] = w
		for _, v := range role.VLANs {
			workers[v.Interface(role.Name)] = w.newVLAN(v, metric)
			metric++
		}
	}
	return workers
}

// remember changes the state of a role, keeps it for the successor, and brings the
// name servers up to date. A state that cannot be read begins anew.
func (d *Daemon) remember(role string, edit func(*State)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	st, err := d.store.Load(role)
	if err != nil {
		d.opt.Logger.Warn("begins anew", "role", role, "err", err)
	}
	edit(&st)
	if err := d.store.Save(role, st); err != nil {
		return err
	}
	d.states[role] = st
	text := ResolvConf(maps.Clone(d.states))
	if text == d.resolv {
		return nil
	}
	if err := onestep.Replace(d.opt.ResolvConf, []byte(text), 0o644); err != nil {
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

// A mailbox holds the newest of what is told, such as the state of an interface.
type mailbox[T any] struct {
	mu      sync.Mutex
	newest  T
	changed chan struct{} // closed and replaced with every put
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{changed: make(chan struct{})} }

func (b *mailbox[T]) put(v T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest = v
	close(b.changed)
	b.changed = make(chan struct{})
}

// get returns the newest, the zero value if nothing was told, and a channel that is
// closed when there is something newer.
func (b *mailbox[T]) get() (T, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newest, b.changed
}
