// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package signals

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// DefaultPeriod is how often devices are checked when nothing else says that they
// changed. Lengthened by Jitter, and by what a guest may be late, it is still less than
// the second for which a guest that is told nothing may not know.
const DefaultPeriod = 850 * time.Millisecond

// Jitter is the part of a period by which each wait is lengthened or shortened at
// random, so that the guests of one host do not all read at once.
const Jitter = 0.1

// StallTime is by how much a check has to be late for the guest to have stood still. A
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

// Poll is a [Watcher] that runs checks on a period, each waited for by the next. It
// signals when a check's answer turns from false to true, not again while it stays
// true; and, as [Stall], when checks come late by [StallTime].
type Poll struct {
	log    *slog.Logger
	period time.Duration
	checks []Check
}

// NewPoll returns a watcher; a period of 0 is [DefaultPeriod]. A nil logger discards.
func NewPoll(logger *slog.Logger, period time.Duration, checks ...Check) *Poll {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if period <= 0 {
		period = DefaultPeriod
	}
	return &Poll{log: logger, period: period, checks: checks}
}

// Source implements [Watcher].
func (p *Poll) Source() Source { return Identity }

// Watch implements [Watcher]. The first check comes after one period.
func (p *Poll) Watch(ctx context.Context, emit func(Migrated)) error {
	moved := make([]bool, len(p.checks))
	failing := make([]bool, len(p.checks))
	last := time.Now() // when checks began, which may have stood still themselves
	for {
		wait := jittered(p.period, rand.Float64())
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		if late := time.Since(last) - wait; late >= StallTime {
			emit(Migrated{Source: Stall, At: Now(), Detail: "late by " + late.Round(time.Second).String()})
		}
		last = time.Now()
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
