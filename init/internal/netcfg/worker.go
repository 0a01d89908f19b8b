// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/kmsg"
)

// Waits between attempts of what failed.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// settle is how long an exchange that is under way may go on when there is
// news about its link: the news may be that it works now.
const settle = 100 * time.Millisecond

// nap bounds one sleep. Timers stand still while the machine sleeps and leases
// do not, so the clock is looked at from time to time.
const nap = 10 * time.Minute

// worker looks after one role.
type worker struct {
	daemon *Daemon
	role   config.Role
	metric int
	box    *mailbox[*Link]
	ipv6   *mailbox[struct{}] // there are news of the interface's IPv6
	log    *slog.Logger

	announce func(ctx context.Context, up bool) error // that the whole came up or went down

	mu      sync.Mutex // one word at a time
	waiting map[part]bool
	up      bool // what was told last
}

// A part of a role's network; the role is up when all of them are.
type part string

const (
	partMethod part = "method"
	partIPv6   part = "ipv6"
)

func newWorker(d *Daemon, role config.Role, metric int) *worker {
	w := &worker{
		daemon: d, role: role, metric: metric, box: newMailbox[*Link](), ipv6: newMailbox[struct{}](),
		log:     d.opt.Logger.With("role", role.Name),
		waiting: map[part]bool{partMethod: true},
	}
	w.announce = func(ctx context.Context, up bool) error { return d.opt.Tell(ctx, role.Name, up) }
	if awaitsIPv6(role.Network) {
		w.waiting[partIPv6] = true
	}
	return w
}

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		link, err := w.awaitLink(ctx)
		if err != nil {
			return
		}
		session, cancel := context.WithCancelCause(ctx)
		go w.watch(session, cancel, link)
		w.session(session, link)
		cancel(nil)
		if ctx.Err() == nil {
			w.log.Warn("interface is gone")
			w.tell(ctx, partMethod, false)
			w.tell(ctx, partIPv6, false)
		}
	}
}

// errGone ends the session of an interface that is no more.
var errGone = errors.New("interface is gone")

// watch ends a session when the role's name is no longer that of the link. Any
// other change below it, of its carrier first of all, is no reason: addresses
// outlive it.
func (w *worker) watch(ctx context.Context, end context.CancelCauseFunc, link Link) {
	wasUp := link.Up
	for {
		now, changed := w.box.get()
		if now == nil || now.Index != link.Index {
			end(errGone)
			return
		}
		if now.Up && !wasUp {
			// The kernel drops the routes of an interface that is taken
			// down, and its IPv6 addresses.
			if err := w.restore(now.Index); err != nil {
				w.log.Warn("addresses and routes are not back", "err", err)
			}
		}
		wasUp = now.Up
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (w *worker) restore(index int) error {
	st, err := w.daemon.store.Load(w.role.Name)
	if err == nil && st.V6.Ifindex == index && st.V6.Lease != nil {
		err = w.addLeased(index, st.V6.Lease)
	}
	if err != nil || st.Ifindex != index {
		return err
	}
	d := desired{st.Addresses, st.Routes}
	return apply(w.daemon.kernel, index, d, d, w.metric)
}

// awaitLink returns the role's interface once it can carry frames. An
// interface that nobody has brought up is brought up, once.
func (w *worker) awaitLink(ctx context.Context) (Link, error) {
	broughtUp := 0
	for {
		link, changed := w.box.get()
		switch {
		case link == nil:
		case link.Carrier:
			return *link, nil
		case !link.Up && broughtUp != link.Index:
			broughtUp = link.Index
			if err := w.daemon.kernel.Up(link.Index); err != nil {
				w.log.Warn("interface does not come up", "err", err)
				broughtUp = 0
				sleep(ctx, firstRetry)
				continue
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Link{}, ctx.Err()
		}
	}
}

// session configures a link and keeps it configured until ctx is done.
func (w *worker) session(ctx context.Context, link Link) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.sessionIPv6(ctx, link) })
	for _, v := range w.role.VLANs {
		wg.Go(func() { w.addVLAN(ctx, link, v) })
	}
	switch w.role.Network.Method {
	case config.MethodNone:
		w.tell(ctx, partMethod, true)
		<-ctx.Done()
	case config.MethodStatic:
		w.static(ctx, link)
		<-ctx.Done()
	default:
		w.dhcp(ctx, link)
	}
}

func (w *worker) static(ctx context.Context, link Link) {
	network := w.role.Network
	var want desired
	for _, a := range network.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil { // validated with the configuration
			want.addresses = append(want.addresses, p)
		}
	}
	if gw, err := netip.ParseAddr(network.Gateway); err == nil {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gw.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		want.routes = []Route{{To: all, Gateway: gw}}
	}
	want.routes = append(want.routes, moreRoutes(network)...)
	w.retry(ctx, "static addresses", func() error {
		if err := w.put(link, want, nil, nil, ""); err != nil {
			return err
		}
		return w.unique(ctx, link, want.addresses)
	})
	if ctx.Err() != nil {
		return
	}
	args := []any{}
	if network.Gateway != "" {
		args = append(args, "gateway", network.Gateway)
	}
	w.log.Info(fmt.Sprint(want.addresses, " as configured"), args...)
	w.tell(ctx, partMethod, true)
}

// moreRoutes are the routes that are configured beside what the method gives.
func moreRoutes(n config.Network) []Route {
	var routes []Route
	for _, r := range n.Routes {
		to, err := netip.ParsePrefix(r.To)
		via, verr := netip.ParseAddr(r.Via)
		if err == nil && verr == nil { // validated with the configuration
			routes = append(routes, Route{To: to, Gateway: via})
		}
	}
	return routes
}

// dhcp gets a lease, puts it on the link and extends it.
func (w *worker) dhcp(ctx context.Context, link Link) {
	st := w.state()
	c := &client{link: link, hostname: w.daemon.opt.Hostname, now: w.daemon.now, dial: w.daemon.dial, log: w.log}
	// The identity of the first interface that bore the role's name stays,
	// whatever its address is today: the server is to know us again.
	if id, err := hex.DecodeString(st.ClientID); err == nil && len(id) > 1 {
		c.id = id
	} else {
		c.id = append([]byte{1}, link.MAC...) // hardware type Ethernet, RFC 2132, 9.14
	}
	lease, kept := w.takeOver(ctx, c, st)
	var shown netip.Prefix // the address the log was told of
	for ctx.Err() == nil {
		if lease == nil {
			kept = false
			if lease = acquire(ctx, w, "no lease yet", c.acquire); lease == nil {
				return
			}
		}
		if !kept {
			w.retry(ctx, "lease is not in use yet", func() error {
				dns := lease.DNS
				routes := slices.Concat(lease.Routes, moreRoutes(w.role.Network))
				return w.put(link, desired{[]netip.Prefix{lease.Address}, routes}, c.id, lease, lease.Domain, dns...)
			})
			if ctx.Err() != nil {
				return
			}
			if lease.Address != shown {
				w.announceLease(lease)
			}
		}
		shown = lease.Address
		w.tell(ctx, partMethod, true)
		lease, kept = w.hold(ctx, c, lease), false
		if lease == nil && ctx.Err() == nil {
			w.log.Warn("lease is lost, address is given up")
			shown = netip.Prefix{}
			w.tell(ctx, partMethod, false)
			if err := w.put(link, desired{}, c.id, nil, ""); err != nil {
				w.log.Warn("address is not given up", "err", err)
			}
		}
	}
}

// acquire gets a new lease by ask; nil means that ctx is done. News about the link
// begin the exchange again: what was sent before may have gone nowhere, for
// instance because there was no hardware below it yet.
func acquire[L any](ctx context.Context, w *worker, trouble string, ask func(context.Context) (*L, error)) *L {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		_, news := w.box.get()
		attempt, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-news:
				sleep(attempt, settle)
				cancel()
			case <-attempt.Done():
			}
		}()
		lease, err := ask(attempt)
		cancel()
		if err == nil {
			return lease
		}
		select {
		case <-news:
			wait = firstRetry
			continue
		default:
		}
		if ctx.Err() == nil {
			w.log.Warn(trouble, "again_in", wait, "err", err)
			sleepUnless(ctx, wait, news)
		}
	}
	return nil
}

// takeOver returns the remembered lease if it can still be used. kept says
// that it is on the interface already and needs no putting there.
func (w *worker) takeOver(ctx context.Context, c *client, st State) (lease *Lease, kept bool) {
	old := st.Lease
	if old == nil || old.Phase(w.daemon.now()) == Expired {
		return nil, false
	}
	if st.Ifindex == c.link.Index {
		present, err := w.daemon.kernel.Addresses(c.link.Index)
		if err == nil && slices.Contains(present, old.Address) {
			w.log.Info(fmt.Sprint(old.Address, " taken over"), "lease", w.left(old.Term))
			if err := w.daemon.remember(w.role.Name, func(*State) {}); err != nil {
				w.log.Warn("take over", "err", err)
			}
			return old, true
		}
	}
	lease, err := c.reclaim(ctx, old)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn(fmt.Sprint(old.Address, " could not be had again"), "err", err)
		}
		return nil, false
	}
	return lease, false
}

// hold extends a lease when it is time to. It returns the lease that has taken
// its place, which may differ, or nil if it was lost or ctx is done.
func (w *worker) hold(ctx context.Context, c *client, lease *Lease) *Lease {
	fresh, err := extend(ctx, w, lease.Term, minRetry,
		func(ctx context.Context) (*Lease, error) { return c.renew(ctx, lease) },
		func(ctx context.Context) (*Lease, error) { return c.rebind(ctx, lease) })
	switch {
	case err == nil:
		w.log.Debug("lease extended", "lease", w.left(fresh.Term))
	case ctx.Err() == nil:
		w.log.Warn("lease not extended", "err", err)
	}
	return fresh
}

// errExpired says that a lease has come to its end.
var errExpired = errors.New("lease has expired")

// extend waits until it is time to extend a lease and asks for that, again and again,
// until it is granted, refused for good (ErrNak, ErrNoBinding), expired or ctx is done.
func extend[L any](ctx context.Context, w *worker, term Term, shortest time.Duration,
	renew, rebind func(context.Context) (*L, error)) (*L, error) {
	for next := term.Renew; ; {
		for {
			left := next - w.daemon.now()
			if left <= 0 || ctx.Err() != nil {
				break
			}
			sleep(ctx, min(left, nap))
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ask := renew
		switch term.Phase(w.daemon.now()) {
		case Expired:
			return nil, errExpired
		case Rebinding:
			ask = rebind
		}
		// No longer than it lasts.
		attempt, cancel := context.WithTimeout(ctx, term.Expires-w.daemon.now())
		fresh, err := ask(attempt)
		cancel()
		switch {
		case err == nil:
			return fresh, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, ErrNak), errors.Is(err, ErrNoBinding):
			return nil, err
		}
		now := w.daemon.now()
		if term.Phase(now) == Expired {
			return nil, fmt.Errorf("%w: %w", errExpired, err)
		}
		next = term.NextTry(now, shortest)
		w.log.Warn("lease not extended yet", "left", w.left(term), "err", err)
	}
}

// put makes the link what it should be and remembers it.
func (w *worker) put(link Link, want desired, id []byte, lease *Lease, domain string, dns ...netip.Addr) error {
	st := w.state()
	var had desired
	if st.Ifindex == link.Index {
		had = desired{st.Addresses, st.Routes}
	}
	if configured := w.role.Network.DNS; len(configured) > 0 {
		dns = nil
		for _, s := range configured {
			if a, err := netip.ParseAddr(s); err == nil {
				dns = append(dns, a)
			}
		}
	}
	if err := apply(w.daemon.kernel, link.Index, had, want, w.metric); err != nil {
		return err
	}
	return w.daemon.remember(w.role.Name, func(st *State) {
		*st = State{
			Ifindex: link.Index, ClientID: hex.EncodeToString(id), Lease: lease,
			Addresses: want.addresses, Routes: want.routes, DNS: dns, Domain: domain,
			V6: st.V6,
		}
	})
}

// state returns what is remembered of the role.
func (w *worker) state() State {
	st, err := w.daemon.store.Load(w.role.Name)
	if err != nil {
		w.log.Warn("begins anew", "err", err)
	}
	return st
}

// tell takes in whether a part of the role's network is up and says so of the whole,
// until it was heard.
func (w *worker) tell(ctx context.Context, p part, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, matters := w.waiting[p]; !matters {
		return
	}
	w.waiting[p] = !is
	up := true
	for _, waiting := range w.waiting {
		up = up && !waiting
	}
	if w.up == up {
		return
	}
	w.retry(ctx, "init does not listen", func() error { return w.announce(ctx, up) })
	if ctx.Err() == nil {
		w.up = up
	}
}

// retry repeats do, with growing waits, until it succeeds or ctx is done.
func (w *worker) retry(ctx context.Context, trouble string, do func() error) {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		err := do()
		if err == nil || ctx.Err() != nil {
			return
		}
		w.log.Warn(trouble, "again_in", wait, "err", err)
		sleep(ctx, wait)
	}
}

func (w *worker) announceLease(l *Lease) {
	args := []any{"server", l.Server, "lease", w.left(l.Term)}
	for _, r := range l.Routes {
		if r.To.Bits() == 0 {
			args = append(args, "gateway", r.Gateway)
		}
	}
	w.log.Info(fmt.Sprint(l.Address, " by DHCP"), args...)
}

// left renders the time a lease has left.
func (w *worker) left(t Term) string {
	if t.Expires == Forever {
		return "forever"
	}
	return kmsg.Duration(t.Expires - w.daemon.now())
}
