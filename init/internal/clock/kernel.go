// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package clock

import (
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the clock of the kernel (CLOCK_REALTIME).
type Kernel struct{}

// Step implements [Clock].
func (Kernel) Step(offset time.Duration) error {
	return adjust(&unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: nanoseconds(offset)}, "set the clock")
}

// nanoseconds is an offset as ADJ_NANO has it: with nanoseconds in the place of
// microseconds, which must not be negative (timekeeping_validate_timex).
func nanoseconds(offset time.Duration) unix.Timeval {
	t := unix.Timeval{Sec: int64(offset / time.Second), Usec: int64(offset % time.Second)}
	if t.Usec < 0 {
		t.Sec--
		t.Usec += int64(time.Second)
	}
	return t
}

// Slew implements [Clock]. What is told of errors is what programs are told that ask the
// kernel how good its clock is.
func (Kernel) Slew(offset, distance, wait time.Duration) error {
	return adjust(&unix.Timex{
		Modes: unix.ADJ_OFFSET | unix.ADJ_TIMECONST | unix.ADJ_STATUS | unix.ADJ_NANO | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR,
		// By phase and frequency.
		Status: unix.STA_PLL, Offset: int64(offset), Constant: timeConstant(wait),
		Maxerror: distance.Microseconds(), Esterror: offset.Abs().Microseconds(),
	}, "slew the clock")
}

// timeConstant is the kernel's for questions that are so far apart: an offset shrinks by a
// factor of e in 2^(2+constant) s (kernel/time/ntp.c, ntp_offset_chunk), here in a quarter
// of the wait.
func timeConstant(wait time.Duration) int64 {
	return max(0, int64(bits.Len64(uint64(wait/time.Second)))-1-4)
}

func adjust(t *unix.Timex, what string) error {
	if _, err := unix.Adjtimex(t); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
