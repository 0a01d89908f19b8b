// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

// CauseBoot is the cause in the first timeline of every role.
const CauseBoot = "boot"

// Options configure a Manager.
type Options struct {
	Hardware Hardware
	Classes  []Class // the first that owns a device shadows it
	Generic  Class   // shadows the devices that no other class owns
	Roles    []Role  // from the config, in its order
	// Modules are loaded by name before the first scan: what the proxies
	// and the guest itself need. "name params" passes parameters.
	Modules []string
	// Prefetch names the modules kept loaded, so that a recovery pays only
	// for probe and open.
	Prefetch []string
	// StateDir is where the journals are, one per role. It must outlive the
	// process, and should not outlive the boot.
	StateDir string
	// Expedite, if not nil, turns on and off, for the length of a recovery, what
	// makes it shorter at the price of something else.
	Expedite func(on bool)
	// Watchdog is how long after a signal the driver of a device that has gone is
	// about to reset it, as nothing is sent any more. 0 is [DefaultWatchdog].
	Watchdog time.Duration
	Logger   *slog.Logger
}

// DefaultWatchdog is less than the kernel's 4 to 6 s after a queue has stopped
// (net/sched/sch_generic.c, dev_watchdog), and than the 2 s of e1000e's own.
const DefaultWatchdog = time.Second

// Manager owns every role and, with it, every driver load in the guest.
type Manager struct {
	opt Options
	hw  Hardware
	log *slog.Logger

	// binding is held for reading while a driver may be bound to a device,
	// for writing while a module goes, so that none goes from under a
	// device just bound.
	binding sync.RWMutex

	tidying  sync.WaitGroup // what goes on after a recovery
	settling sync.Mutex     // held by the one that settles the power of slots
	freed    chan struct{}  // an address that was passed over can be looked at

	// examining is held while devices are verified and the roles that lost theirs
	// are claimed: all that one migration took belong to one round.
	examining sync.Mutex

	mu      sync.Mutex
	roles   []*role
	refused map[string]error // by bus address: why no driver took the device
	// lastResumed is when the host last said that the guest went on; the
	// message may come before the recovery that it belongs to has begun.
	lastResumed int64
	leaving     map[string]bool // bus addresses of devices gone and not yet removed
	// unplugged are the bus addresses of devices that the host is about to take
	// away, and when it should have.
	unplugged map[string]int64
}

// role is a Role with its state. The Manager's mu guards all but the shadow.
type role struct {
	Role
	class   Class
	shadow  Shadow
	journal *journal.Journal
	auto    bool // made for a device that no configured role claimed

	dev        drivers.Device // zero Address while vacant; standby while that is in its place
	standby    drivers.Device // zero Address if there is none
	carried    bool           // what is sent goes over standby
	stuck      bool           // standby has carried, is gone, and its driver cannot let go of it
	last       Identity       // of the device before
	old        []Old          // gone, but not yet detached
	retired    []Old          // detached, but their driver not yet unloaded
	passive    bool
	opening    bool // dev has been chosen and is being brought up
	kept       bool // dev is gone, and its driver cannot let go of it
	alarmed    bool // dev is gone, and the next round is to give it up
	entered    bool // was alarmed, and this round is to
	since      int64
	message    string
	rec        *Recovery
	done       []ctl.Timeline
	lessons    []lesson // of the drivers that it has had, the newest last
	recoveries uint64
	resumed    int64 // the resumption that a recovery has been told from
}

// doneKept bounds the timelines kept per role.
const doneKept = 16

// NewManager makes the shadows of the configured roles. It touches no hardware.
func NewManager(opt Options) (*Manager, error) {
	opt.Watchdog = cmp.Or(opt.Watchdog, DefaultWatchdog)
	m := &Manager{
		opt: opt, hw: opt.Hardware, log: opt.Logger,
		refused: make(map[string]error),
		leaving: make(map[string]bool), unplugged: make(map[string]int64),
		freed: make(chan struct{}, 1),
	}
	for _, r := range opt.Roles {
		i := slices.IndexFunc(opt.Classes, func(c Class) bool { return c.Name() == r.Class })
		if i < 0 {
			return nil, &RoleError{Role: r.Name, Step: "find class", Err: fmt.Errorf("no class %q", r.Class)}
		}
		if _, err := m.addRole(r, opt.Classes[i], false); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Manager) addRole(r Role, c Class, auto bool) (*role, error) {
	j, st, err := m.openJournal(r.Name)
	if err != nil {
		return nil, &RoleError{Role: r.Name, Step: "open journal", Err: err}
	}
	sh, err := c.New(r, j)
	if err != nil {
		return nil, &RoleError{Role: r.Name, Step: "new shadow", Err: err}
	}
	n := &role{Role: r, class: c, shadow: sh, journal: j, auto: auto, since: Now(), done: st.Timelines}
	if _, err := st.Fact(factLessons, &n.lessons); err != nil {
		m.log.Error("journal", "role", r.Name, "err", err)
	}
	for _, tl := range st.Timelines {
		n.recoveries = max(n.recoveries, tl.Recovery)
	}
	m.mu.Lock()
	m.roles = append(m.roles, n)
	m.mu.Unlock()
	return n, nil
}

// openJournal opens a role's journal. One that is damaged is set aside: the
// role starts without its log, which is worse than with it and better than
// not at all.
func (m *Manager) openJournal(name string) (*journal.Journal, journal.State, error) {
	j, st, err := journal.Open(m.opt.StateDir, name)
	if !errors.Is(err, journal.ErrCorrupt) {
		return j, st, err
	}
	aside, serr := journal.SetAside(m.opt.StateDir, name)
	if serr != nil {
		return nil, journal.State{}, errors.Join(err, serr)
	}
	m.log.Error("journal damaged: the role starts with an empty log", "role", name, "kept as", aside, "err", err)
	return journal.Open(m.opt.StateDir, name)
}

// Load is the one way to a driver in the guest: every load goes through it,
// so that no driver runs outside a shadow.
func (m *Manager) Load(ctx context.Context, dev drivers.Device) (drivers.Device, error) {
	m.binding.RLock()
	bound, err := m.hw.Load(ctx, dev)
	m.binding.RUnlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.refused[dev.Address] = err
		return dev, err
	}
	delete(m.refused, dev.Address)
	return bound, nil
}

// Run boots the roles, brings the drivers that a recovery may need into memory,
// and then serves signals until ctx ends.
func (m *Manager) Run(ctx context.Context, signals <-chan Signal) error {
	defer m.tidying.Wait()
	if err := m.loadModules(ctx); err != nil {
		return err
	}
	m.restore(ctx)

	var (
		finished = make(chan error, 1)
		booted   bool
		pending  *Signal
		stop     context.CancelFunc
		retry    <-chan time.Time
	)
	start := func(sig Signal) {
		var rctx context.Context
		m.resume()
		// Taken here and not by the round: a signal that follows at once, of the same
		// migration, must not look before it does, and so take the roles from it.
		m.examining.Lock()
		rctx, stop = context.WithCancel(ctx)
		go func() { finished <- m.round(rctx, sig) }()
	}
	start(Signal{Cause: CauseBoot})
	for {
		select {
		case <-ctx.Done():
			if stop != nil {
				stop()
				<-finished
			}
			return ctx.Err()
		case err := <-finished:
			stop()
			stop = nil
			m.tidying.Go(func() { m.settle(ctx) })
			if err != nil && ctx.Err() == nil {
				m.log.Debug("recovery not complete", "err", err)
			}
			if !booted {
				booted = true
				m.tidying.Go(func() { m.prefetch(ctx) })
			}
			retry = nil
			switch {
			case pending != nil:
				sig := *pending
				pending = nil
				m.resumed(sig) // the round before may have begun only after it came
				start(sig)
			case errors.Is(err, ErrSuperseded):
				start(Signal{Cause: ctl.CauseMigration})
			case err != nil, m.unfinished():
				retry = time.After(retryAfter)
			}
		case <-retry:
			retry = nil
			if stop == nil {
				start(Signal{Cause: "retry", Quiet: true})
			}
		case <-m.freed:
			sig := Signal{Cause: ctl.CauseHotplug}
			switch {
			case stop == nil:
				start(sig)
			case pending == nil || pending.Quiet:
				pending = merge(pending, sig)
			}
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if sig.At == 0 {
				sig.At = Now()
			}
			m.alert(sig, stop == nil)
			m.resumed(sig)
			m.unplugs(sig)
			if stop == nil {
				start(sig)
				continue
			}
			if sig.Quiet && pending != nil {
				continue
			}
			pending = merge(pending, sig)
			if m.alarm(ctx, sig) || m.lostInFlight(ctx) {
				m.log.Warn("a newer signal overtakes the recovery", "cause", sig.Cause)
				stop()
			}
		}
	}
}

// Keeps says that the host leaves a device which it was about to take away. The next
// signal may give it to a role.
func (m *Manager) Keeps(address string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.unplugged, address)
}

// unplugs notes which devices nobody may take. After a migration it is another host's
// business.
func (m *Manager) unplugs(sig Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.unplugged, sig.Removed)
	switch {
	case sig.Unplug != "":
		m.unplugged[sig.Unplug] = sig.UnplugBy
	case sig.Cause == ctl.CauseMigration:
		clear(m.unplugged)
	}
}

// stillUnplugged forgets the devices to be taken away that have gone, or whose time
// is over, and returns the others.
func (m *Manager) stillUnplugged(devs []drivers.Device) (addresses []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for address, by := range m.unplugged {
		there := slices.ContainsFunc(devs, func(d drivers.Device) bool { return d.Address == address })
		if !there || Now() > by {
			delete(m.unplugged, address)
			continue
		}
		addresses = append(addresses, address)
	}
	return addresses
}

// retryAfter is how long a role that has no usable device waits for another
// try when no signal comes.
const retryAfter = time.Second

// unfinished reports whether a configured role is not in passive mode.
func (m *Manager) unfinished() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.roles, func(r *role) bool { return !r.auto && !r.passive })
}

// loadModules loads what the configuration names: first what has parameters, in its order,
// for what needs such a module would load it without them; then the others, as many at a
// time as there are processors.
func (m *Manager) loadModules(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	var others []string
	for _, mod := range m.opt.Modules {
		if name, params, ok := strings.Cut(mod, " "); ok {
			m.loadModule(ctx, name, params)
			continue
		}
		others = append(others, mod)
	}
	for _, name := range others {
		g.Go(func() error {
			m.loadModule(ctx, name, "")
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	return ctx.Err()
}

// loadModule loads one. The guest is more useful without it than without an agent, and
// whatever needs it says so itself.
func (m *Manager) loadModule(ctx context.Context, name, params string) {
	err := m.hw.LoadModule(ctx, name, params)
	if err != nil && !errors.Is(err, drivers.ErrLoaded) { // by a predecessor
		m.log.Error("module not loaded", "module", name, "err", err)
	}
}

// prefetch makes the guest ready for a move, and says so.
func (m *Manager) prefetch(ctx context.Context) {
	for _, c := range m.opt.Classes {
		if p, ok := c.(Preparer); ok {
			p.Prepare(ctx)
		}
	}
	if len(m.opt.Prefetch) == 0 {
		return
	}
	t := Now()
	if err := m.hw.Prefetch(ctx, m.opt.Prefetch...); err != nil && ctx.Err() == nil {
		m.log.Warn("prefetch not complete: a recovery that needs the missing module will load it then", "err", err)
		return
	}
	m.log.Info("drivers prefetched", "modules", len(m.opt.Prefetch), "ms", (Now()-t)/1e6)
}

// factDevice is the journal's fact that names a role's device.
const factDevice = "device"

// factLast is the journal's fact with what the role's last device is told by.
const factLast = "last-device"

// identify tells dev. If its driver has let go of it, its MAC can no longer be read, and it is
// what it was. It needs the Manager's mu.
func (r *role) identify(dev drivers.Device) Identity {
	id := r.class.Identify(dev)
	if id.MAC == "" && id.Address == r.last.Address {
		return r.last
	}
	return id
}

// factOld is the journal's fact that lists the devices which a recovery has
// lost and not yet given up: what their drivers still have is to be harvested. After
// it, they are those that the kernel still believes in.
const factOld = "old-devices"

// restore takes over what a predecessor of this process left.
func (m *Manager) restore(ctx context.Context) {
	for _, r := range m.all() {
		st := r.journal.State()
		var dev drivers.Device
		if _, err := st.Fact(factDevice, &dev); err != nil {
			m.log.Error("journal", "role", r.Name, "err", err)
		}
		if dev.Address == "" && st.Recovery == nil {
			continue
		}
		var last Identity
		if _, err := st.Fact(factLast, &last); err != nil {
			m.log.Error("journal", "role", r.Name, "err", err)
		}
		m.restoreStandby(ctx, r, st)
		intact := false
		// A device that is not there any more would be asked for its settings, and what it
		// answers be taken for somebody's wish.
		if dev.Address != "" && st.Recovery == nil && !m.hasGone(ctx, dev) {
			var err error
			if intact, err = r.shadow.Intact(ctx, dev); err != nil {
				m.log.Warn("proxy not readable", "role", r.Name, "err", err)
			}
		}
		m.mu.Lock()
		r.dev, r.passive, r.last = dev, intact, last
		if !r.vacant() || last.none() { // the next device is to be like the last of its own
			r.last = r.identify(dev)
		}
		r.carried = intact && r.vacant()
		if st.Recovery != nil {
			r.rec = NewRecovery(r.Name, st.Recovery.Cause, nil)
			r.rec.tl = *st.Recovery
			r.rec.progress = m.follow(r)
		}
		m.mu.Unlock()
		m.log.Info("taken over from the last agent", "role", r.Name, "device", dev.Address, "passive", intact)
		m.restoreOld(ctx, r, st, dev)
	}
}

// hasGone reports whether dev is known not to be what it was.
func (m *Manager) hasGone(ctx context.Context, dev drivers.Device) bool {
	v, err := m.hw.Verify(ctx, dev)
	return errors.Is(err, drivers.ErrNoDevice) || err == nil && v != drivers.Alive
}

// restoreOld takes up the devices that a predecessor was about to give up. The
// one that the journal still names as the role's own is found by examine.
func (m *Manager) restoreOld(ctx context.Context, r *role, st journal.State, dev drivers.Device) {
	var gone []drivers.Device
	if _, err := st.Fact(factOld, &gone); err != nil {
		m.log.Error("journal", "role", r.Name, "err", err)
	}
	if len(gone) == 0 {
		return
	}
	if st.Recovery == nil {
		gone = slices.DeleteFunc(gone, func(d drivers.Device) bool { return d.Address == dev.Address })
		m.removeStale(ctx, gone)
		m.note(r.Name, r.journal.Fact(factOld, nil))
		return
	}
	for _, d := range gone {
		if d.Address == dev.Address {
			continue
		}
		old := m.old(drivers.Absent, d)
		if err := r.shadow.Activate(ctx, old, r.rec); err != nil {
			m.fail(r, &RoleError{r.Name, "enter active mode", d.Address, err})
		}
		m.mu.Lock()
		r.old = append(r.old, old)
		m.mu.Unlock()
	}
}

// note records something in a role's journal. A journal that cannot be written
// costs a successor its knowledge, not this agent its work.
func (m *Manager) note(role string, err error) {
	if err != nil {
		m.log.Error("journal not written", "role", role, "err", err)
	}
}

// clockSlack is how far a host may be off when it says how long ago it resumed
// the guest: its message waits until a guest that is busy reads it. In ns.
const clockSlack = int64(10 * time.Second)

// resumedKept is how long after the guest went on a recovery may begin and
// still be told from there: the longest that an undetected move takes, in ns.
const resumedKept = int64(30 * time.Second)

// resumed puts the time at which the guest went on into the timelines of the
// recoveries that followed. No signal can be older than the resumption.
func (m *Manager) resumed(sig Signal) {
	if sig.Resumed == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastResumed = sig.Resumed
	follows := func(tl ctl.Timeline) (at int64, ok bool) {
		at = began(tl)
		_, told := tl.Stamp(ctl.StampResumed)
		_, lost := tl.Stamp(ctl.StampDetected) // else a device was plugged, and that may have been before the move
		return min(at, sig.Resumed), !told && at != 0 && at+clockSlack >= sig.Resumed &&
			(tl.Cause == ctl.CauseMigration || lost && tl.Cause != ctl.CauseReload)
	}
	for _, r := range m.roles {
		if r.rec != nil {
			if at, ok := follows(r.rec.Timeline()); ok {
				r.rec.StampAt(ctl.StampResumed, at)
				r.resumed = sig.Resumed
			}
			continue
		}
		n := len(r.done)
		if n == 0 {
			continue
		}
		if at, ok := follows(r.done[n-1]); ok {
			r.done[n-1] = withStamp(r.done[n-1], ctl.StampResumed, at)
			r.resumed = sig.Resumed
			m.note(r.Name, r.journal.Done(r.done[n-1]))
		}
	}
}

// lostInFlight reports whether a device that a recovery is being built on is
// itself no longer there.
func (m *Manager) lostInFlight(ctx context.Context) bool {
	return m.anyLost(ctx, func(r *role) bool { return r.opening }, func(r *role) bool { return r.carried })
}

// Changed reports whether any device in passive mode, or any standby, is not what it
// was, and is cheap enough to be asked again and again: one look into config space per
// device.
func (m *Manager) Changed(ctx context.Context) bool {
	return m.anyLost(ctx, func(r *role) bool { return r.passive }, func(*role) bool { return true })
}

// anyLost reports whether any device of the roles that dev chooses, or any standby of
// those that standby does, is not what it was.
func (m *Manager) anyLost(ctx context.Context, dev, standby func(*role) bool) bool {
	var looks []drivers.Device
	m.mu.Lock()
	for _, r := range m.roles {
		if r.dev.Address != "" && dev(r) {
			looks = append(looks, r.dev)
		}
		if r.standby.Address != "" && r.standby.Address != r.dev.Address && standby(r) {
			looks = append(looks, r.standby)
		}
	}
	m.mu.Unlock()
	return slices.ContainsFunc(looks, func(d drivers.Device) bool { return !m.works(ctx, d) })
}

func (m *Manager) all() []*role {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.roles)
}

func (m *Manager) follow(r *role) func(ctl.Timeline) {
	return func(tl ctl.Timeline) { m.note(r.Name, r.journal.Progress(tl)) }
}
