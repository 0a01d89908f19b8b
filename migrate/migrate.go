// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/migrate/qmp"
	"github.com/umbra-vm/umbra/migrate/stream"
)

// Options of one migration. Incoming is the only one that must be set.
type Options struct {
	// Direct are the qdev ids of the source's direct-access devices, whose
	// state stays behind. They must be PCI devices.
	Direct []string

	// Incoming is where the destination listens: "unix:PATH" or
	// "tcp:HOST:PORT", as in its -incoming option.
	Incoming string

	// Deferred says that the destination was started with "-incoming defer"
	// and has to be told to listen on Incoming.
	Deferred bool

	// BandwidthBps limits the source, in bytes a second. 0 means no limit.
	BandwidthBps int64

	// DowntimeLimit is how long the source may expect the guest to stand
	// still for the last of its memory; QEMU's 300 ms if 0. The time that
	// the device state takes comes on top.
	DowntimeLimit time.Duration

	// Logger is silent if nil.
	Logger *slog.Logger

	// OnEvent, if not nil, is called for each step and with the progress of
	// RAM. Calls come one at a time, some of them within the downtime: it
	// must not block.
	OnEvent func(Event)

	// KeepLines leaves interrupt lines alone, see stream.Options.
	KeepLines bool
}

// A Stage is a step of a migration, in the order of the constants.
type Stage string

// Stages.
const (
	StageConnected   Stage = "connected"    // relay stands between the two
	StageRAM         Stage = "ram"          // a RAM section has passed
	StageStopped     Stage = "stopped"      // the source stopped the guest
	StageDeviceState Stage = "device-state" // RAM is complete
	StageForwarded   Stage = "forwarded"    // all but the end mark is handed over
	StageLoaded      Stage = "loaded"       // the destination has the guest, paused
	StageResumed     Stage = "resumed"      // the destination runs the guest
	StageRolledBack  Stage = "rolled-back"  // after a failure the source runs the guest
)

// An Event is one step of a migration as it happens.
type Event struct {
	Stage Stage

	// At is the host's wall clock; for StageStopped and StageResumed, as
	// QEMU stamped it.
	At time.Time

	// Progress counts what has passed the relay.
	Progress stream.Stats
}

// A Report describes a migration that succeeded.
type Report struct {
	// Total is the time from the start of Run to ResumedAt.
	Total time.Duration

	// Downtime is the time from StoppedAt to ResumedAt: what the guest
	// missed, by the host's wall clock.
	Downtime time.Duration

	// StoppedAt is when the source stopped the guest, ResumedAt when the
	// destination started it, each as stamped by its QEMU.
	StoppedAt, ResumedAt time.Time

	// Direct are the paths of the devices that stayed behind, in the order
	// of Options.Direct.
	Direct []stream.Path

	stream.Report
}

// Run moves the guest of src to dst, which waits for it. It returns when the
// guest runs on dst, or when the attempt is over and, as the package comment
// explains, src runs again. ctx ends the attempt at any time before the point of
// no return.
//
// Errors: *OpError around this package's sentinels, those of migrate/stream, of
// migrate/qmp, and the cause of the context's end.
func Run(ctx context.Context, src, dst *qmp.Client, opts Options) (*Report, error) {
	m := &migration{src: src, dst: dst, opts: opts, log: opts.Logger, started: time.Now()}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.srcEvents = src.Subscribe("MIGRATION", "STOP", "RESUME")
	defer m.srcEvents.Close()
	m.dstEvents = dst.Subscribe("MIGRATION", "RESUME")
	defer m.dstEvents.Close()

	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	if err := m.transfer(ctx); err != nil {
		return nil, m.rollBack(ctx, err)
	}
	if err := m.takeOver(ctx); err != nil {
		if errors.Is(err, ErrUnknownOutcome) {
			m.log.Error("outcome unknown, source left stopped", "err", err)
			return nil, err
		}
		return nil, m.rollBack(ctx, err)
	}
	m.log.Info("guest moved", "downtime", m.report.Downtime, "total", m.report.Total,
		"dropped", len(m.report.Dropped), "lines", fmt.Sprint(m.report.Lines))
	return &m.report, nil
}

// Check tells whether Run would be refused, as far as can be told beforehand. It
// changes nothing on either side.
func Check(ctx context.Context, src, dst *qmp.Client, opts Options) error {
	return (&migration{src: src, dst: dst, opts: opts}).check(ctx)
}

// migration is one attempt.
type migration struct {
	src, dst             *qmp.Client
	srcEvents, dstEvents *qmp.Subscription

	opts    Options
	log     *slog.Logger
	started time.Time

	mu     sync.Mutex // notify is called by Run's goroutine and the relay's
	passed stream.Stats

	report Report
}

// notify tells the owner of a step. stats is nil if the step moved no bytes.
func (m *migration) notify(stage Stage, at time.Time, stats *stream.Stats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stats != nil {
		m.passed = *stats
	}
	if stage != StageRAM {
		m.log.Debug("migration", "stage", stage, "bytes", m.passed.Bytes)
	}
	if m.opts.OnEvent != nil {
		m.opts.OnEvent(Event{Stage: stage, At: at, Progress: m.passed})
	}
}
