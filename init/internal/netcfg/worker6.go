// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/init/config"
)

// ErrDuplicate says that another host on the link has an address.
var ErrDuplicate = errors.New("another host has the address")

// awaitsIPv6 reports whether a role is not up before the network has given it an
// IPv6 address.
func awaitsIPv6(n config.Network) bool {
	return n.IPv6 == config.IPv6SLAAC || n.IPv6 == config.IPv6DHCP
}

// asksIPv6 reports whether a role takes more from the network by IPv6 than what the
// kernel takes by itself.
func asksIPv6(n config.Network) bool {
	return n.IPv6 != config.IPv6None && n.IPv6 != ""
}

// sessionIPv6 looks after what the network gives by IPv6, until ctx is done.
// Addresses and routes that follow from router advertisements are the kernel's
// affair: they stay with the interface.
func (w *worker) sessionIPv6(ctx context.Context, link Link) {
	if !asksIPv6(w.role.Network) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.forgetServers(ctx) })
	switch w.role.Network.IPv6 {
	case config.IPv6SLAAC:
		w.slaac(ctx, link)
	case config.IPv6DHCP:
		w.dhcp6(ctx, link)
	case config.IPv6Auto:
		if w.await6(ctx, link, func(v View6) bool { return v.Managed }) == nil {
			w.dhcp6(ctx, link)
		}
	}
}

// slaac tells whether there is an address.
func (w *worker) slaac(ctx context.Context, link Link) {
	for {
		var addr netip.Addr
		has := func(v View6) (ok bool) {
			addr, ok = v.global()
			return ok
		}
		if w.await6(ctx, link, has) != nil {
			return
		}
		w.log.Info(fmt.Sprint(addr, " by router advertisement"))
		w.tell(ctx, partIPv6, true)
		if w.await6(ctx, link, func(v View6) bool { return !has(v) }) != nil {
			return
		}
		w.log.Warn("no IPv6 address any more")
		w.tell(ctx, partIPv6, false)
	}
}

// await6 waits until ok says so of the interface, or ctx is done.
func (w *worker) await6(ctx context.Context, link Link, ok func(View6) bool) error {
	for {
		_, news := w.ipv6.get()
		view, err := w.daemon.kernel.View6(link.Index)
		if err != nil {
			w.log.Warn("IPv6 is not seen", "again_in", firstRetry, "err", err)
			sleep(ctx, firstRetry)
		} else if ok(view) {
			return ctx.Err()
		}
		if err == nil {
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// unique waits until the kernel has found out that no other host has any of the
// IPv6 addresses: before, it uses none of them. An address that another host has is
// taken away, so that it can be tried again; if it has a lifetime, by the kernel
// itself (net/ipv6/addrconf.c, addrconf_dad_stop).
func (w *worker) unique(ctx context.Context, link Link, addrs []netip.Prefix) error {
	var duplicate []error
	for _, p := range addrs {
		a := p.Addr()
		if !a.Is6() {
			continue
		}
		check, there := Tentative, true
		err := w.await6(ctx, link, func(v View6) bool {
			check, there = v.check(a)
			return check != Tentative
		})
		switch {
		case err != nil:
			return err
		case check == Duplicate, !there:
			duplicate = append(duplicate, fmt.Errorf("%s: %w", a, ErrDuplicate))
		}
		if there && check == Duplicate {
			if err := w.daemon.kernel.RemoveAddress(link.Index, p); err != nil {
				duplicate = append(duplicate, err)
			}
		}
	}
	return errors.Join(duplicate...)
}

// dhcp6 gets a lease, puts its address on the link and extends it.
func (w *worker) dhcp6(ctx context.Context, link Link) {
	c := &client6{link: link, now: w.daemon.now, dial: w.daemon.dial6, log: w.log}
	c.from = func(ctx context.Context) (from netip.Addr, err error) {
		err = w.await6(ctx, link, func(v View6) (ok bool) {
			from, ok = v.linkLocal()
			return ok
		})
		return from, err
	}
	st := w.state().V6
	raw, err := hex.DecodeString(st.DUID)
	if err == nil {
		c.id, err = identity6From(raw)
	}
	if err != nil {
		c.id = newIdentity6(link.MAC)
		duid := hex.EncodeToString(c.id.duid.ToBytes())
		w.retry(ctx, "DHCPv6 identity", func() error {
			return w.remember6(func(st *State6) { st.DUID = duid })
		})
	}
	lease := w.takeOver6(ctx, c, st)
	var shown netip.Addr // the address the log was told of
	for ctx.Err() == nil {
		if lease == nil {
			if lease = acquire(ctx, w, "no DHCPv6 lease yet", func(ctx context.Context) (*Lease6, error) {
				return c.acquire(ctx, w.forgotten6(ctx, c))
			}); lease == nil {
				return
			}
		}
		err := w.use6(ctx, c, lease)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.log.Warn(fmt.Sprint(lease.Address, " is not used"), "again_in", lastRetry, "err", err)
			w.giveUp6(ctx, c)
			lease = nil
			sleep(ctx, lastRetry)
			continue
		}
		if lease.Address != shown {
			shown = lease.Address
			w.log.Info(fmt.Sprint(lease.Address, " by DHCPv6"), "lease", w.left(lease.Term))
		}
		w.tell(ctx, partIPv6, true)
		lease = w.hold6(ctx, c, lease)
	}
}

// forgotten6 returns the address of a lease that the server does not know any more
// and that is in use until its end all the same; none if there is no such lease.
func (w *worker) forgotten6(ctx context.Context, c *client6) netip.Addr {
	l := w.state().V6.Lease
	switch {
	case l == nil:
		return netip.Addr{}
	case l.Phase(w.daemon.now()) == Expired:
		w.tell(ctx, partIPv6, false)
		w.giveUp6(ctx, c)
		return netip.Addr{}
	}
	return l.Address
}

// takeOver6 returns the remembered lease if it can still be used: without a question
// where its address is on the interface already.
func (w *worker) takeOver6(ctx context.Context, c *client6, st State6) *Lease6 {
	old := st.Lease
	if old == nil || old.Phase(w.daemon.now()) == Expired {
		return nil
	}
	if st.Ifindex == c.link.Index {
		view, err := w.daemon.kernel.View6(c.link.Index)
		if check, there := view.check(old.Address); err == nil && there && check != Duplicate {
			w.log.Info(fmt.Sprint(old.Address, " taken over"), "lease", w.left(old.Term))
			return old
		}
	}
	lease, err := c.rebind(ctx, old)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn(fmt.Sprint(old.Address, " could not be had again"), "err", err)
		}
		return nil
	}
	return lease
}

// use6 puts the address of a lease on the link in place of the last one's, remembers
// it, and returns when the kernel uses it.
func (w *worker) use6(ctx context.Context, c *client6, lease *Lease6) error {
	index := c.link.Index
	w.retry(ctx, "DHCPv6 lease is not in use yet", func() error {
		old := w.state().V6
		if err := w.addLeased(index, lease); err != nil {
			return err
		}
		if l := old.Lease; l != nil && old.Ifindex == index && l.Address != lease.Address {
			// Gone already where it had expired.
			_ = w.daemon.kernel.RemoveAddress(index, single(l.Address))
		}
		return w.remember6(func(st *State6) {
			st.Ifindex, st.Lease = index, w.served(lease)
		})
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := w.unique(ctx, c.link, []netip.Prefix{single(lease.Address)})
	if errors.Is(err, ErrDuplicate) {
		if err := c.decline(ctx, lease); err != nil {
			w.log.Warn("the DHCPv6 server does not know that its address is taken", "err", err)
		}
	}
	return err
}

func (w *worker) addLeased(index int, lease *Lease6) error {
	preferred, valid := lease.lifetimes(w.daemon.now())
	if valid <= 0 {
		return nil // its end is dealt with where it is extended
	}
	if err := w.daemon.kernel.AddLeased(index, lease.Address, preferred, valid); err != nil {
		return fmt.Errorf("add address %s: %w", lease.Address, err)
	}
	return nil
}

// served returns the lease without name servers where others are configured.
func (w *worker) served(lease *Lease6) *Lease6 {
	if len(w.role.Network.DNS) == 0 {
		return lease
	}
	l := *lease
	l.DNS = nil
	return &l
}

// hold6 extends a lease when it is time to. It returns the lease that has taken its
// place, or nil if it was lost or ctx is done. A lease that the server has forgotten,
// as it may when it was started again, is in use until there is another one.
func (w *worker) hold6(ctx context.Context, c *client6, lease *Lease6) *Lease6 {
	fresh, err := extend(ctx, w, lease.Term, minRetry6,
		func(ctx context.Context) (*Lease6, error) { return c.renew(ctx, lease) },
		func(ctx context.Context) (*Lease6, error) { return c.rebind(ctx, lease) })
	switch {
	case err == nil:
		w.log.Debug("DHCPv6 lease extended", "lease", w.left(fresh.Term))
	case ctx.Err() != nil:
	case errors.Is(err, ErrNoBinding):
		w.log.Warn("DHCPv6 lease is asked for again", "err", err)
	default:
		w.log.Warn("DHCPv6 lease is lost, address is given up", "err", err)
		w.tell(ctx, partIPv6, false)
		w.giveUp6(ctx, c)
	}
	return fresh
}

// giveUp6 takes away the address of the lease.
func (w *worker) giveUp6(ctx context.Context, c *client6) {
	st := w.state().V6
	if st.Lease == nil || ctx.Err() != nil {
		return
	}
	if st.Ifindex == c.link.Index {
		// Gone already where the kernel has seen its end, or another host's.
		_ = w.daemon.kernel.RemoveAddress(c.link.Index, single(st.Lease.Address))
	}
	if err := w.remember6(func(st *State6) { st.Lease = nil }); err != nil {
		w.log.Warn("address is not given up", "err", err)
	}
}

// remember6 changes what is remembered of IPv6, and forgets name servers whose time
// is over.
func (w *worker) remember6(edit func(*State6)) error {
	return w.daemon.remember(w.role.Name, func(st *State) {
		edit(&st.V6)
		now := w.daemon.now()
		st.V6.Servers = slices.DeleteFunc(st.V6.Servers, func(s Server) bool { return s.Expires <= now })
	})
}

// heard takes in news of IPv6 on an interface, which may be another one's.
func (w *worker) heard(n news6) {
	link, _ := w.box.get()
	if n.index != 0 && (link == nil || n.index != link.Index) {
		return
	}
	w.ipv6.put(struct{}{})
	if len(n.servers) == 0 || len(w.role.Network.DNS) > 0 || !asksIPv6(w.role.Network) {
		return
	}
	err := w.remember6(func(st *State6) {
		for _, s := range n.servers {
			st.Servers = advertise(st.Servers, s, w.daemon.now())
		}
	})
	if err != nil {
		w.log.Warn("name servers that a router advertises are not used", "err", err)
	}
}

// forgetServers keeps no name server longer than routers want, until ctx is done.
func (w *worker) forgetServers(ctx context.Context) {
	for ctx.Err() == nil {
		_, news := w.ipv6.get()
		wait := Forever
		for _, s := range w.state().V6.Servers {
			wait = min(wait, s.Expires-w.daemon.now())
		}
		if wait > 0 {
			sleepUnless(ctx, min(wait, nap), news)
			continue
		}
		w.retry(ctx, "name servers are not forgotten", func() error { return w.remember6(func(*State6) {}) })
	}
}

// advertise takes in a name server that a router has advertised at the time now. The
// lifetime of all bits set is for ever, that of 0 ends it (RFC 8106, 5.1).
func advertise(servers []Server, s advertised, now time.Duration) []Server {
	expires := now + s.lifetime
	if s.lifetime >= infinite {
		expires = Forever
	}
	at := slices.IndexFunc(servers, func(have Server) bool { return have.Addr == s.addr })
	switch {
	case at >= 0:
		servers[at].Expires = expires
	case s.lifetime > 0:
		servers = append(servers, Server{s.addr, expires})
	}
	return servers
}
