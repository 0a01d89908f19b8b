// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/qmp"
)

var (
	// ErrOptions: the options are not those of a device, or not of the one that
	// QEMU has by that id.
	ErrOptions = errors.New("device options do not fit")

	// ErrInUse: there is another device of that id.
	ErrInUse = errors.New("the id is in use")

	// ErrNotReady: QEMU has no guest that could be given a device.
	ErrNotReady = errors.New("a device cannot be plugged in now")

	// ErrUnanswered: the guest did not let go of a device in the time it had.
	ErrUnanswered = errors.New("the guest does not let go of it")

	// ErrGuestRefused: the guest said that it does not let go of a device.
	ErrGuestRefused = errors.New("the guest refuses to let go of it")

	// ErrPending: after a roll-back the device is there, but the guest was asked
	// to let go of it and may still do so.
	ErrPending = errors.New("the guest has it and may still let go of it")

	// ErrNotPluggedBack: after a roll-back the guest runs on the source without
	// the device.
	ErrNotPluggedBack = errors.New("it could not be plugged back")

	// ErrNotPlugged: the guest runs, without the device.
	ErrNotPlugged = errors.New("it could not be plugged in")
)

// An Error is a move that failed after something had been changed: what failed,
// and with the roll-back, if anything, and what both sides were when all was
// over. A move that was refused before gives no Error.
type Error struct {
	Err                 error
	Source, Destination State
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v\nnow the source %v; the destination %v", e.Err, e.Source, e.Destination)
}

func (e *Error) Unwrap() error { return e.Err }

// A State is what one side said of itself.
type State struct {
	// Status is QEMU's run state, such as "running", or "" if it did not answer.
	Status string

	// Has and Lacks are the ids of the devices in question that are there and
	// are not.
	Has, Lacks []string
}

func (s State) String() string {
	if s.Status == "" {
		return "does not answer"
	}
	out := fmt.Sprintf("is %q", s.Status)
	if len(s.Has) > 0 {
		out += ", has " + strings.Join(s.Has, ", ")
	}
	if len(s.Lacks) > 0 {
		out += ", lacks " + strings.Join(s.Lacks, ", ")
	}
	return out
}

// stateTimeout is how long a side may take to say what state it is in.
const stateTimeout = 5 * time.Second

// stateOf asks one side for its state, with those of the devices in it.
func stateOf(ctx context.Context, c *qmp.Client, devices []Device) (s State) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateTimeout)
	defer cancel()
	there, err := peripherals(ctx, c)
	if err != nil {
		return State{}
	}
	for _, d := range devices {
		if _, ok := there[d.ID]; ok {
			s.Has = append(s.Has, d.ID)
		} else {
			s.Lacks = append(s.Lacks, d.ID)
		}
	}
	slices.Sort(s.Has)
	slices.Sort(s.Lacks)
	if s.Status, err = c.Status(ctx); err != nil {
		return State{}
	}
	return s
}

func opError(op, device string, err error) error {
	if err == nil {
		return nil
	}
	return &migrate.OpError{Op: op, Device: device, Err: err}
}
