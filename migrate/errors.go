// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"errors"
	"fmt"
)

var (
	// ErrUnknownOutcome: the destination was told to run the guest and did
	// not answer. The source was left stopped, because two running copies of
	// one guest are worse than none.
	ErrUnknownOutcome = errors.New("it is not known whether the destination runs the guest")

	// ErrSourceNotResumed: after a failed migration the source could not be
	// made to run again. Without it, a failed Run left the source running.
	ErrSourceNotResumed = errors.New("the source could not be resumed")

	// ErrSourceLost: the source's QEMU went away.
	ErrSourceLost = errors.New("source QEMU is gone")

	// ErrDestinationLost: the destination's QEMU went away, as it does when
	// it cannot load what it was sent. It says why on its standard error only.
	ErrDestinationLost = errors.New("destination QEMU is gone (its own log tells why)")

	// ErrNotRunning: the source does not run its guest.
	ErrNotRunning = errors.New("source is not running")

	// ErrNotIncoming: the destination was not started with -incoming, or is
	// already in use.
	ErrNotIncoming = errors.New("destination does not wait for a migration")

	// ErrCapability: a migration capability is on which the relay cannot
	// carry.
	ErrCapability = errors.New("migration capability not supported")

	// ErrNoDevice: no PCI device of the source has that id.
	ErrNoDevice = errors.New("no such PCI device")

	// ErrMigration: the source gave up the migration by itself.
	ErrMigration = errors.New("source reports that the migration failed")

	// ErrCancelled: somebody cancelled the migration at the source.
	ErrCancelled = errors.New("migration was cancelled at the source")
)

// An OpError is a failed step of a migration.
type OpError struct {
	// Op is the step, such as "resolve device" or "relay".
	Op string

	// Device is the qdev id of a device or "" if the step is about none.
	Device string

	Err error
}

func (e *OpError) Error() string {
	if e.Device == "" {
		return fmt.Sprintf("migrate: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("migrate: %s %q: %v", e.Op, e.Device, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Err: err}
}
