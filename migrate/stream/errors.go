// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"errors"
	"fmt"
)

var (
	// ErrMalformed: the bytes contradict the format or themselves.
	ErrMalformed = errors.New("malformed migration stream")

	// ErrUnsupported: a part of the format which cannot be relayed, such as
	// the pages of a compressed or multi-channel migration.
	ErrUnsupported = errors.New("not supported by the relay")

	// ErrTooLarge: device state beyond Options.MaxDeviceState.
	ErrTooLarge = errors.New("device state too large")

	// ErrTruncated: the source closed the stream before its end. It failed,
	// was cancelled, or was killed.
	ErrTruncated = errors.New("migration stream ends early")

	// ErrForward: the destination did not take the bytes.
	ErrForward = errors.New("forward to the destination")

	// ErrEndMark: the destination did not take the end of the stream. It may
	// have taken enough of it to start the guest.
	ErrEndMark = errors.New("end mark perhaps delivered")

	// ErrNoSection: a device that was to be dropped is not in the stream.
	ErrNoSection = errors.New("no such device in the migration stream")

	// ErrInterrupt: a dropped device's interrupt lines cannot be known, or
	// cannot be lowered on this machine type.
	ErrInterrupt = errors.New("interrupt line of a dropped device")
)

// An Error says where in the stream something was wrong.
type Error struct {
	// Offset is the number of bytes before the fault, counted as the source
	// sent them; negative if the fault is that something is not there.
	Offset int64

	// Section names the section in which it is, as in "ram" or
	// "0000:00:02.0/e1000"; empty between sections.
	Section string

	Err error
}

func (e *Error) Error() string {
	where := "migration stream"
	if e.Section != "" {
		where += fmt.Sprintf(", section %q", e.Section)
	}
	if e.Offset >= 0 {
		where += fmt.Sprintf(", byte %d", e.Offset)
	}
	return where + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// missing is an Error about something that is not in the stream.
func missing(section string, sentinel error, format string, args ...any) error {
	return &Error{Offset: -1, Section: section, Err: fmt.Errorf("%w: "+format, append([]any{sentinel}, args...)...)}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnsupported}, args...)...)
}
