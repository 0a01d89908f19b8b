// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// A Recovery is the running account of one role's way back to passive mode.
// Its methods may be called from any goroutine.
type Recovery struct {
	mu       sync.Mutex
	tl       ctl.Timeline
	progress func(ctl.Timeline)
}

// NewRecovery starts the account of a recovery. progress, which may be nil,
// is called with a copy of the timeline after every change, so that a journal
// can follow.
func NewRecovery(role, cause string, progress func(ctl.Timeline)) *Recovery {
	return &Recovery{
		tl:       ctl.Timeline{Role: role, Cause: cause, Started: clock(unix.CLOCK_BOOTTIME)},
		progress: progress,
	}
}

// Now is CLOCK_MONOTONIC in nanoseconds, the clock of every stamp: it does
// not count the time during which the guest was stopped, so a timeline
// starts where the guest does.
func Now() int64 { return clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err) // both clocks are read all over the kernel's life: it has them
	}
	return ts.Nano()
}

// Stamp records that a step is reached now. The first stamp of a name stays.
func (r *Recovery) Stamp(name string) { r.StampAt(name, Now()) }

// StampAt records a step reached at a known CLOCK_MONOTONIC time in ns.
func (r *Recovery) StampAt(name string, at int64) {
	r.update(func(tl *ctl.Timeline) { stamp(tl, ctl.Stamp{Name: name, At: at}) })
}

// Count adds to the recovery's frame counters.
func (r *Recovery) Count(f ctl.Frames) {
	r.update(func(tl *ctl.Timeline) {
		tl.Frames.Held += f.Held
		tl.Frames.Harvested += f.Harvested
		tl.Frames.Resent += f.Resent
		tl.Frames.Dropped += f.Dropped
	})
}

// Defer records operations that the new device cannot do.
func (r *Recovery) Defer(d ...ctl.Deferred) {
	if len(d) > 0 {
		r.update(func(tl *ctl.Timeline) { tl.Deferred = append(tl.Deferred, d...) })
	}
}

// Fail records why the recovery could not end, in words for a person.
func (r *Recovery) Fail(err error) { r.update(func(tl *ctl.Timeline) { tl.Error = err.Error() }) }

// Between sets the names of the old and the new device, and records what was reached
// with that: the journal follows once.
func (r *Recovery) Between(from, to string, reached ...ctl.Stamp) {
	r.update(func(tl *ctl.Timeline) {
		if from != "" {
			tl.From = from
		}
		if to != "" {
			tl.To = to
		}
		tl.Error = ""
		for _, s := range reached {
			stamp(tl, s)
		}
	})
}

// stamp adds a stamp to a timeline, unless that has one of the name.
func stamp(tl *ctl.Timeline, s ctl.Stamp) {
	if _, ok := tl.Stamp(s.Name); ok {
		return
	}
	tl.Stamps = append(tl.Stamps, s)
	slices.SortStableFunc(tl.Stamps, ctl.CompareStamps)
}

// number gives the recovery its place among the role's recoveries, from 1.
func (r *Recovery) number(n uint64) { r.update(func(tl *ctl.Timeline) { tl.Recovery = n }) }

// Timeline returns a copy of the account as it stands.
func (r *Recovery) Timeline() ctl.Timeline {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cloneTimeline(r.tl)
}

func (r *Recovery) update(f func(*ctl.Timeline)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.tl)
	if r.progress != nil {
		r.progress(cloneTimeline(r.tl))
	}
}

// began is when the first stamp of a timeline was set, CLOCK_MONOTONIC in ns.
func began(tl ctl.Timeline) int64 {
	if len(tl.Stamps) == 0 {
		return 0
	}
	return tl.Stamps[0].At
}

func cloneTimeline(tl ctl.Timeline) ctl.Timeline {
	tl.Stamps = slices.Clone(tl.Stamps)
	tl.Deferred = slices.Clone(tl.Deferred)
	return tl
}
