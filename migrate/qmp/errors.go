// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package qmp

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by a Client that was closed by its owner.
	ErrClosed = errors.New("monitor closed")

	// ErrGone is returned when the monitor's other end went away: QEMU
	// exited, was killed, or closed the socket.
	ErrGone = errors.New("QEMU is gone")

	// ErrProtocol is returned when the other end does not speak QMP.
	ErrProtocol = errors.New("not the QEMU machine protocol")
)

// Classes of Error, as in QEMU's qapi/error.json. QEMU uses GenericError for
// nearly everything.
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotFound  = "DeviceNotFound"
)

// An Error is QEMU's own answer that it did not do what it was told.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string {
	if e.Class == "" || e.Class == ClassGeneric {
		return e.Desc
	}
	return e.Class + ": " + e.Desc
}

// An OpError says which command failed on which monitor. Err is an *Error when
// QEMU refused the command; ErrGone or ErrClosed, possibly with the cause, when
// no answer can come any more; the context's error when the caller gave up, in
// which case QEMU may still carry the command out.
type OpError struct {
	// Op is the command, such as "query-status", or "connect".
	Op string

	// Addr is the monitor's address.
	Addr string

	Err error
}

func (e *OpError) Error() string {
	return fmt.Sprintf("qmp %s: %s: %v", e.Addr, e.Op, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

// Refused reports whether err is QEMU's refusal of a command, as opposed to a
// command whose fate is not known.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e)
}
