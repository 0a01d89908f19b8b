// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/umbra-vm/umbra/migrate/qmp"
)

const (
	// takeOverTimeout is how long the destination may take to answer the
	// one command after which there is no way back.
	takeOverTimeout = 30 * time.Second

	// resumeTimeout is how long QEMU may take to say RESUME after it has
	// answered that the guest runs.
	resumeTimeout = 10 * time.Second

	// rollBackTimeout is how long the source may take to give up a migration
	// and go on.
	rollBackTimeout = 60 * time.Second
)

// takeOver waits until the destination has loaded the guest, and starts it.
func (m *migration) takeOver(ctx context.Context) error {
	if err := m.loaded(ctx); err != nil {
		return opError("load", err)
	}
	m.notify(StageLoaded, time.Now(), nil)
	if err := ctx.Err(); err != nil {
		return opError("take over", context.Cause(ctx))
	}
	if err := m.sourceStopped(ctx); err != nil {
		return opError("take over", err)
	}
	if err := m.dst.Err(); err != nil {
		return opError("take over", lost(m.dst, ErrDestinationLost, err))
	}

	// The point of no return. The context's end must not cut the answer off.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeOverTimeout)
	defer cancel()
	err := m.dst.Execute(ctx, "cont", nil, nil)
	switch {
	case qmp.Refused(err):
		return opError("take over", err)
	case err != nil:
		return opError("take over", fmt.Errorf("%w: %w", ErrUnknownOutcome, lost(m.dst, ErrDestinationLost, err)))
	}
	return opError("take over", m.resumed(ctx))
}

// loaded waits until the destination holds the guest, paused.
func (m *migration) loaded(ctx context.Context) error {
	for {
		info, err := queryMigrate(ctx, m.dst)
		if err != nil {
			return lost(m.dst, ErrDestinationLost, err)
		}
		switch info.Status {
		case "completed":
			status, err := m.dst.Status(ctx)
			if err != nil {
				return lost(m.dst, ErrDestinationLost, err)
			}
			if status != "paused" {
				return fmt.Errorf("%w: after loading its state is %q", ErrNotIncoming, status)
			}
			return nil
		case "failed":
			return fmt.Errorf("%w: it could not load the guest: %s", ErrDestinationLost, info.Error)
		}
		e, err := m.dstEvents.Wait(ctx, func(e qmp.Event) bool { return e.Event.Event == "MIGRATION" })
		if err != nil {
			return lost(m.dst, ErrDestinationLost, err)
		}
		m.log.Debug("destination", "migration", e.Text("status"))
	}
}

// resumed notes when the guest began to run.
func (m *migration) resumed(ctx context.Context) error {
	m.report.ResumedAt = time.Now()
	eventCtx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	e, err := m.dstEvents.Wait(eventCtx, func(e qmp.Event) bool { return e.Event.Event == "RESUME" })
	switch {
	case err == nil:
		m.report.ResumedAt = e.Time()
	case m.dst.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, lost(m.dst, ErrDestinationLost, err))
	}
	m.report.Total = m.report.ResumedAt.Sub(m.started)
	m.report.Downtime = m.report.ResumedAt.Sub(m.report.StoppedAt)
	m.notify(StageResumed, m.report.ResumedAt, nil)
	return nil
}

// rollBack makes the source run the guest again after cause ended the attempt
// before the point of no return. It returns cause, and what went wrong with the
// roll-back itself.
func (m *migration) rollBack(ctx context.Context, cause error) error {
	m.log.Warn("migration failed, rolling back", "err", cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTimeout)
	defer cancel()
	if err := m.destinationIdle(ctx); err != nil {
		return opError("roll back", errors.Join(cause, err))
	}
	if err := m.resumeSource(ctx); err != nil {
		m.log.Error("source not resumed", "err", err)
		return opError("roll back", errors.Join(cause, fmt.Errorf("%w: %w", ErrSourceNotResumed, lost(m.src, ErrSourceLost, err))))
	}
	m.notify(StageRolledBack, time.Now(), nil)
	return cause
}

// destinationIdle makes sure that nobody else has started the destination. One
// that does not answer was told "stop" before anything was sent to it, and
// cannot start by itself.
func (m *migration) destinationIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, graceTime)
	defer cancel()
	if status, err := m.dst.Status(ctx); err == nil && status == "running" {
		return fmt.Errorf("%w: it was not started by this migration, but it runs", ErrUnknownOutcome)
	}
	return nil
}

func (m *migration) resumeSource(ctx context.Context) error {
	info, err := queryMigrate(ctx, m.src)
	if err != nil {
		return err
	}
	if !info.finished() {
		if err := m.src.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
			return err
		}
		if _, err := m.waitFinished(ctx); err != nil {
			return err
		}
	}
	for {
		status, err := m.src.Status(ctx)
		if err != nil {
			return err
		}
		switch status {
		case "running":
			return nil
		case "paused", "postmigrate":
			if err := m.src.Execute(ctx, "cont", nil, nil); err != nil {
				return err
			}
		case "finish-migrate": // on its way to one of the others
			if err := pause(ctx); err != nil {
				return err
			}
		default:
			return fmt.Errorf("its state is %q", status)
		}
	}
}
