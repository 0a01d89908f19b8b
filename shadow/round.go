// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// round answers one signal: it finds the roles whose device is not what it
// was, and takes them and the roles that were still vacant through a recovery.
// Roles whose device is alive are not touched: that is what makes an aborted
// migration harmless.
//
// ctx ends the round early when a newer migration makes it pointless. Only the
// wait for a device to become usable ends then; steps that take something down
// or move frames run to their end, which is bounded, so that nothing is lost
// halfway.
func (m *Manager) round(ctx context.Context, sig Signal) error {
	whole := context.WithoutCancel(ctx)
	lost := m.examine(whole, sig)
	look := m.rescan
	if moved(sig, lost) {
		look = m.search
	}
	if len(lost) > 0 {
		defer m.hurry()()
		// Where nothing has to leave its address first, new hardware is
		// looked for while the roles enter active mode.
		early := !slices.ContainsFunc(lost, func(l loss) bool { return l.verdict != drivers.Absent })
		var scan sync.WaitGroup
		if early {
			scan.Go(func() { look(whole) })
		}
		m.vacate(whole, sig, lost)
		m.failOverAll(whole, sig)
		scan.Wait()
		if m.dismiss(whole, sig) || !early {
			look(whole)
		}
	} else {
		m.failOverAll(whole, sig)
		if m.dismiss(whole, sig) || !sig.Quiet && m.anyVacant() || sig.Cause == ctl.CauseMigration && m.canHaveMore() {
			look(whole)
		}
	}
	if ctx.Err() != nil {
		return ErrSuperseded
	}
	m.makeRoom(whole, lost)
	return m.fill(ctx, sig)
}

// moved reports whether what a round has found, or been told, is a migration. A
// device that was pulled is none: the kernel knows of that.
func moved(sig Signal, lost []loss) bool {
	return sig.Cause == ctl.CauseMigration ||
		slices.ContainsFunc(lost, func(l loss) bool { return l.verdict != drivers.Alive && !l.gone })
}

// makeRoom gives up the devices that were left for after the recovery and whose
// address holds something again, as it may when a migration overtakes another:
// a bus scan does not see what is there while the kernel believes in the old. What this
// round itself has lost it has just looked at: with a migration since, another follows.
func (m *Manager) makeRoom(ctx context.Context, lost []loss) {
	found := false
	for _, r := range m.all() {
		m.mu.Lock()
		olds, rec := slices.Clone(r.old), r.rec
		m.mu.Unlock()
		for _, old := range olds {
			if slices.ContainsFunc(lost, func(l loss) bool { return l.role == r && l.address == old.Address }) {
				continue
			}
			v, err := m.hw.Verify(ctx, old.Device)
			if err != nil || rec == nil || (v != drivers.Replaced && v != drivers.Reset) {
				continue
			}
			old.Verdict = v
			m.detach(ctx, r, old, rec)
			if err := old.Remove(ctx); err != nil {
				m.fail(r, &RoleError{r.Name, "remove", old.Address, err})
				continue
			}
			found = true
			m.mu.Lock()
			r.old = slices.DeleteFunc(r.old, func(o Old) bool { return o.Address == old.Address })
			r.retired = append(r.retired, old)
			m.mu.Unlock()
		}
	}
	if found {
		m.search(ctx)
	}
}

// hurry makes recoveries short until the returned function is called: most of one is
// waiting for the kernel's grace periods.
func (m *Manager) hurry() func() {
	if m.opt.Expedite == nil {
		return func() {}
	}
	m.opt.Expedite(true)
	return func() { m.opt.Expedite(false) }
}

func (m *Manager) rescan(ctx context.Context) {
	m.binding.Lock()
	defer m.binding.Unlock()
	if err := m.hw.Rescan(ctx); err != nil {
		m.log.Error("bus rescan", "err", err)
	}
}

// search is rescan after a migration: it looks into the slots too that were empty
// on the old host, and are believed to be.
func (m *Manager) search(ctx context.Context) {
	if ports, err := m.hw.PowerOn(ctx); err != nil {
		m.log.Warn("not every slot was looked into", "ports", len(ports), "err", err)
	}
	m.rescan(ctx)
}

// settle takes the power away from the slots that a search has found to be empty,
// once a card in them would have answered. One that answers late is announced by the
// kernel, like one that is plugged.
func (m *Manager) settle(ctx context.Context) {
	m.settling.Lock()
	defer m.settling.Unlock()
	if lit, err := m.hw.WaitPower(ctx); err != nil || !lit {
		return
	}
	m.rescan(ctx)
	if err := m.hw.SettlePower(ctx); err != nil {
		m.log.Warn("slots left with power", "err", err)
	}
}

// old describes a device to be given up. Only the first call of its Remove
// does anything: later the address may hold the next device.
func (m *Manager) old(v drivers.Verdict, dev drivers.Device) Old {
	var once sync.Once
	return Old{
		Device: dev, Verdict: v,
		Remove: func(ctx context.Context) (err error) {
			once.Do(func() { err = m.hw.Remove(ctx, dev) })
			return unlessGone(err)
		},
		LetGo: func(ctx context.Context) error {
			var errs []error
			for _, c := range dev.Children {
				errs = append(errs, unlessGone(m.hw.Unbind(ctx, c)))
			}
			return errors.Join(errs...)
		},
	}
}

// unlessGone is err, or nil if it only says that the kernel noticed by itself.
func unlessGone(err error) error {
	if errors.Is(err, drivers.ErrNoDevice) {
		return nil
	}
	return err
}

func (m *Manager) detach(ctx context.Context, r *role, old Old, rec *Recovery) {
	if err := r.shadow.Detach(ctx, old, rec); err != nil {
		m.fail(r, &RoleError{r.Name, "detach", old.Address, err})
	}
}

// fill finds devices for the vacant roles and completes every role that is
// not in passive mode.
func (m *Manager) fill(ctx context.Context, sig Signal) error {
	devs, err := m.hw.Scan(ctx)
	if err != nil {
		return fmt.Errorf("scan the buses: %w", err)
	}
	vacant := m.vacant()
	for _, r := range vacant {
		if r.rec != nil {
			r.rec.Stamp(ctl.StampScanned)
		}
	}
	free := m.loadFree(ctx, sig, devs, m.stillUnplugged(devs))
	if len(free) > 0 && m.overtaken(context.WithoutCancel(ctx), Signal{Cause: sig.Cause}) {
		return ErrSuperseded
	}
	standbys := m.assign(context.WithoutCancel(ctx), sig, free)
	m.adoptRest(free)

	var (
		mu   sync.Mutex
		errs []error
		todo []*role
	)
	for _, r := range m.all() {
		m.mu.Lock()
		// One that came from an alarm and was not given up has a device that cannot
		// be judged now: the kernel is taking it away, or adding another one there.
		if r.dev.Address != "" && !r.passive && !r.kept && !r.stuck && !r.alarmed && !r.entered {
			todo = append(todo, r)
		}
		m.mu.Unlock()
	}
	parallel(todo, func(r *role) {
		if err := m.complete(ctx, r, sig); err != nil {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		}
	})
	for r, dev := range standbys {
		m.standBy(context.WithoutCancel(ctx), r, dev)
	}
	m.reportVacant(devs)
	return errors.Join(errs...)
}

func (m *Manager) vacant() (out []*role) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		if r.vacant() && !(r.auto && r.rec == nil) {
			out = append(out, r)
		}
	}
	return out
}

func (m *Manager) anyVacant() bool { return len(m.vacant()) > 0 }

// free is a device whose driver is bound and which serves no role.
type free struct {
	dev   drivers.Device
	class Class
	taken bool
}

// loadFree loads, in parallel, the drivers of the devices that serve no role, but not
// of those to be unplugged.
func (m *Manager) loadFree(ctx context.Context, sig Signal, devs []drivers.Device, unplugged []string) []*free {
	m.mu.Lock()
	owned := maps.Clone(m.leaving)
	for _, address := range unplugged {
		owned[address] = true
	}
	for _, r := range m.roles {
		// A device that only has a shadow of its own may still take a
		// configured role of its class.
		if r.dev.Address != "" && !(r.auto && m.classOf(r.dev) != m.opt.Generic) {
			owned[r.dev.Address] = true
		}
		owned[r.standby.Address] = true
		for _, d := range r.old {
			owned[d.Address] = true
		}
	}
	var todo []drivers.Device
	for _, d := range devs {
		if _, bad := m.refused[d.Address]; !owned[d.Address] && !(bad && sig.Quiet) {
			todo = append(todo, d)
		}
	}
	m.mu.Unlock()

	out := make([]*free, len(todo))
	idx := make([]int, len(todo))
	for i := range idx {
		idx[i] = i
	}
	parallel(idx, func(i int) {
		dev := todo[i]
		class := m.classOf(dev)
		// One that is bound may be what a predecessor has given up.
		if class == nil || class != m.opt.Generic && dev.Driver != "" && !m.works(ctx, dev) {
			return
		}
		switch {
		case class == m.opt.Generic && dev.Driver != "":
		case complete(dev):
			m.mu.Lock()
			delete(m.refused, dev.Address)
			m.mu.Unlock()
		default:
			bound, err := m.Load(ctx, dev)
			if err != nil {
				// A role that waits for such a device says so itself.
				m.log.Debug("device without a driver", "device", describe(dev), "ids", dev.IDs.String(), "err", err)
				return
			}
			dev = bound
		}
		out[i] = &free{dev: dev, class: class}
	})
	var bound []*free
	for _, f := range out {
		if f != nil {
			bound = append(bound, f)
		}
	}
	return bound
}

// complete reports whether a device, and every child that its driver made, has a driver.
func complete(dev drivers.Device) bool {
	return dev.Driver != "" && !slices.ContainsFunc(dev.Children, func(c drivers.Device) bool {
		return c.Modalias != "" && !complete(c)
	})
}

// classOf returns the class that shadows dev, nil if nothing does: a bridge
// or a chip that the kernel itself drives.
func (m *Manager) classOf(dev drivers.Device) Class {
	for _, c := range m.opt.Classes {
		if c.Owns(dev) {
			return c
		}
	}
	if m.opt.Generic != nil && m.opt.Generic.Owns(dev) {
		return m.opt.Generic
	}
	return nil
}

// complete takes a role that has a device to passive mode.
func (m *Manager) complete(ctx context.Context, r *role, sig Signal) error {
	m.mu.Lock()
	if r.rec == nil {
		r.rec = NewRecovery(r.Name, sig.Cause, m.follow(r))
		r.rec.Between("", describe(r.dev))
	}
	rec, dev, old := r.rec, r.dev, r.old
	m.mu.Unlock()

	whole := context.WithoutCancel(ctx)
	if err := r.shadow.Open(whole, dev, rec); err != nil {
		return m.fail(r, &RoleError{r.Name, "open", dev.Address, err})
	}
	rec.Stamp(ctl.StampOpened) // of classes that do not say so themselves
	for _, d := range old {
		m.detach(whole, r, d, rec)
	}
	if err := r.shadow.Complete(ctx, dev, rec); err != nil {
		if ctx.Err() != nil {
			return ErrSuperseded
		}
		return m.fail(r, &RoleError{r.Name, "complete", dev.Address, err})
	}
	rec.Stamp(ctl.StampPassive)

	m.mu.Lock()
	r.recoveries++
	rec.number(r.recoveries)
	tl := rec.Timeline()
	r.passive, r.opening, r.since, r.message = true, false, Now(), ""
	r.carried = r.vacant()
	retired := append(slices.Clone(r.old), r.retired...)
	for _, o := range r.old {
		m.leaving[o.Address] = true
	}
	r.rec, r.old, r.retired = nil, nil, nil
	if !r.carried { // the next device is to be like the last of its own
		r.last = r.class.Identify(dev)
	}
	r.done = append(r.done, tl)
	if len(r.done) > doneKept {
		r.done = r.done[1:]
	}
	last := r.last
	m.mu.Unlock()
	m.note(r.Name, r.journal.Fact(factLast, last))
	m.note(r.Name, r.journal.Done(tl))
	if len(retired) == 0 {
		m.note(r.Name, r.journal.Fact(factOld, nil))
	}
	m.log.Info("passive mode", "role", r.Name, "device", describe(dev), "cause", tl.Cause, "ms", (Now()-began(tl))/1e6)
	if len(retired) > 0 {
		m.tidying.Go(func() { m.retire(whole, r, tl, retired) })
	}
	m.learn(r, dev)
	return nil
}

// fail records a step that failed. One that fails again and again in the same
// way is told once.
func (m *Manager) fail(r *role, err error) error {
	m.mu.Lock()
	known := r.message == err.Error()
	r.message = err.Error()
	rec := r.rec
	m.mu.Unlock()
	if rec != nil {
		rec.Fail(err)
	}
	if !known {
		m.log.Error("recovery step failed", "role", r.Name, "err", err)
	}
	return err
}

// reportVacant says, for a person, why a role has no device.
func (m *Manager) reportVacant(devs []drivers.Device) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		if r.auto || !r.vacant() {
			continue
		}
		state := "active"
		if r.carried {
			state = "on the standby"
		}
		msg := state + ": no " + r.Class + " device on the bus; waiting for one"
		for _, d := range devs {
			why, bad := m.refused[d.Address]
			switch {
			case !bad || !r.class.Owns(d):
			case errors.Is(why, drivers.ErrNoDriver):
				msg = state + ": " + noDriver(d)
			default:
				msg = fmt.Sprintf("%s: the device at %s (%s) cannot be used: %v", state, d.Address, d.IDs, why)
			}
		}
		if r.message != msg {
			r.message = msg
			m.log.Warn("role without a device", "role", r.Name, "why", msg)
		}
		if r.rec != nil {
			r.rec.Fail(fmt.Errorf("%w: %s", ErrVacant, msg))
		}
	}
}

// describe names a device for a person, e.g. "e1000 at 0000:00:02.0".
func describe(d drivers.Device) string {
	if d.Address == "" {
		return ""
	}
	if name := driverOf(d); name != "" {
		return name + " at " + d.Address
	}
	return d.Address
}

// driverOf names the driver that does the work: of a virtio function that of
// the device behind it, not that of the transport.
func driverOf(d drivers.Device) string {
	for _, c := range d.Children {
		if c.Driver != "" {
			d = c
			break
		}
	}
	return cmp.Or(d.Module, d.Driver)
}

// parallel runs f on every element at once and waits for all.
func parallel[T any](in []T, f func(T)) {
	var wg sync.WaitGroup
	for _, v := range in {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f(v)
		}()
	}
	wg.Wait()
}
