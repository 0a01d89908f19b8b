// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package signals is where "you were migrated" comes from: the VM generation id,
// Xen's xenstore, hot-plug uevents, a periodic check of each device's identity, and
// messages from the host. All feed one channel of [Migrated].
//
// A signal is a hint, no verdict: the same move may be signalled by several
// sources, or by none but the check, and a migration that was aborted may be
// signalled too. The package must never know what a role or a driver is, nor what
// is done about a signal.
package signals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Source names where a signal came from.
type Source string

// The sources of this package.
const (
	Generation Source = "vmgenid"  // the hypervisor changed the VM generation id
	XenStore   Source = "xenstore" // Xen's toolstack or kernel says so
	Uevent     Source = "uevent"   // a device came or went
	Identity   Source = "check"    // a device is no longer the device it was
	Stall      Source = "stall"    // the guest stood still for seconds, or was that busy
	Host       Source = "host"     // a message of the host's
	Operator   Source = "manual"   // a command given in the guest
)

// Migrated says that the hardware may have changed.
type Migrated struct {
	Source Source
	// At is when the source learned it, in nanoseconds of CLOCK_MONOTONIC.
	At int64
	// Device is the PCI address or role concerned, where the source knows it.
	Device string
	// Detail is for people, e.g. "add" or "remove"; it may be empty.
	Detail string
}

// A Watcher waits for signals.
type Watcher interface {
	// Watch calls emit for each signal until ctx ends, and returns nil then. Any
	// other end is an error. emit never blocks.
	Watch(ctx context.Context, emit func(Migrated)) error
	// Source names the watcher in logs.
	Source() Source
}

// ErrUnavailable is matched by every [UnavailableError].
var ErrUnavailable = errors.New("signal source is not available")

// UnavailableError says why a source cannot work on this machine. The others do
// without it.
type UnavailableError struct {
	Source Source
	Err    error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("signals: %s is not available: %v", e.Source, e.Err)
}

// Unwrap makes the error match both [ErrUnavailable] and its cause.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// Merge runs the watchers and returns the one channel that their signals come out
// of, in the order in which they were emitted, none left out. It keeps them until
// they are received: no watcher ever waits for the receiver. A watcher that fails is
// logged, and the others go on. The channel is closed when ctx has ended and all
// watchers have returned. A nil logger discards.
func Merge(ctx context.Context, logger *slog.Logger, watchers ...Watcher) <-chan Migrated {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	q := &queue{wake: make(chan struct{}, 1)}
	var running sync.WaitGroup
	for _, w := range watchers {
		running.Go(func() {
			if err := w.Watch(ctx, q.push); err != nil && ctx.Err() == nil {
				logger.Error("signals: source failed", "source", w.Source(), "err", err)
			}
		})
	}
	out := make(chan Migrated)
	go func() {
		defer close(out)
		defer running.Wait()
		q.deliver(ctx, out)
	}()
	return out
}

// queue holds the signals nobody has received yet.
type queue struct {
	wake chan struct{}
	mu   sync.Mutex
	list []Migrated
}

func (q *queue) push(m Migrated) {
	q.mu.Lock()
	q.list = append(q.list, m)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() []Migrated {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

func (q *queue) deliver(ctx context.Context, out chan<- Migrated) {
	for {
		for _, m := range q.take() {
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
	}
}

// Manual is a source that is told: by the control protocol's "migrated" message,
// by a command. Its zero value is not usable; see [NewManual].
type Manual struct {
	source Source
	queue  queue
}

// NewManual returns a source of that name.
func NewManual(source Source) *Manual {
	return &Manual{source: source, queue: queue{wake: make(chan struct{}, 1)}}
}

// Notify signals a migration that is known since ago. It never blocks. Signals
// given before anybody watches are kept.
func (m *Manual) Notify(ago time.Duration, device, detail string) {
	m.queue.push(Migrated{Source: m.source, At: Now() - ago.Nanoseconds(), Device: device, Detail: detail})
}

// Source implements [Watcher].
func (m *Manual) Source() Source { return m.source }

// Watch implements [Watcher].
func (m *Manual) Watch(ctx context.Context, emit func(Migrated)) error {
	for {
		for _, s := range m.queue.take() {
			emit(s)
		}
		select {
		case <-m.queue.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Now returns CLOCK_MONOTONIC in nanoseconds, the clock of [Migrated.At] and of
// bpf_ktime_get_ns(). It stands still while the machine is stopped for migration.
func Now() int64 {
	var t unix.Timespec
	// It cannot fail for a clock that exists on every Linux.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}
