// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// DefaultPeriod is how often devices are checked when nothing else says that they
// changed. Lengthened by Jitter, and by what a guest may be late, it is still less than
// the second for which a guest that is told nothing may not know.
const DefaultPeriod = 850 * time.Millisecond

// Jitter is the part of a period by which each wait is lengthened or shortened at
// random, so that the guests of one host do not all read at once.
const Jitter = 0.1

// StallTime is by how much a timer has to be late for the guest to have stood still. A
// hypervisor whose clocks go on while a guest is moved, as Xen's, tells it so at least that.
const StallTime = 5 * time.Second

// Check verifies one device.
type Check struct {
	// Device names it in signals and logs, e.g. a role.
	Device string
	// Moved reports whether the device is no longer what it was. It costs one read
	// of config space. An error leaves the last answer standing.
	Moved func(ctx context.Context) (bool, error)
}

// Poll is a [Watcher] that runs checks on a period, one round of them at a time. It
// signals when a check's answer turns from false to true, not again while it stays
// true; and, as [Stall], when its own timer comes late by [StallTime], which it notices
// while a check takes long.
type Poll struct {
	log    *slog.Logger
	period time.Duration
	checks []Check
	now    func() time.Time
}

// NewPoll returns a watcher; a period of 0 is [DefaultPeriod]. A nil logger discards.
func NewPoll(logger *slog.Logger, period time.Duration, checks ...Check) *Poll {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if period <= 0 {
		period = DefaultPeriod
	}
	return &Poll{log: logger, period: period, checks: checks, now: time.Now}
}

// Source implements [Watcher].
func (p *Poll) Source() Source { return Identity }

// Watch implements [Watcher]. The first checks come after one period; those that fall due
// while others are running are left out.
func (p *Poll) Watch(ctx context.Context, emit func(Migrated)) error {
	due := make(chan struct{})
	var checking sync.WaitGroup
	checking.Go(func() { p.check(ctx, due, emit) })
	defer checking.Wait()
	defer close(due)
	for last := p.now(); ; last = p.now() {
		wait := jittered(p.period, rand.Float64())
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		if late := p.now().Sub(last) - wait; late >= StallTime {
			emit(Migrated{Source: Stall, At: Now(), Detail: "late by " + late.Round(time.Second).String()})
		}
		select {
		case due <- struct{}{}:
		default:
		}
	}
}

// check runs all checks whenever they are due.
func (p *Poll) check(ctx context.Context, due <-chan struct{}, emit func(Migrated)) {
	moved := make([]bool, len(p.checks))
	failing := make([]bool, len(p.checks))
	for range due {
		for i, c := range p.checks {
			now, err := c.Moved(ctx)
			if err != nil {
				if !failing[i] && ctx.Err() == nil {
					p.log.Warn("signals: check", "device", c.Device, "err", err)
				}
				failing[i] = true
				continue
			}
			failing[i] = false
			if now && !moved[i] {
				emit(Migrated{Source: Identity, At: Now(), Device: c.Device})
			}
			moved[i] = now
		}
	}
}

// jittered maps r in [0,1) to period ± Jitter.
func jittered(period time.Duration, r float64) time.Duration {
	return time.Duration(float64(period) * (1 + Jitter*(2*r-1)))
}
