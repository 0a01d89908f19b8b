// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package clock

import "time"

// stepAbove is the offset from which on the clock is set: slewing it, at 500 ppm, would
// take longer than four minutes (RFC 5905, figure 28, STEPT).
const stepAbove = 128 * time.Millisecond

// Waits between two questions to a server. It is not asked more often than every 2 s
// even in a hurry, as of iburst (RFC 5905, 13.2), and not more often than every 16 s else.
const (
	hurryWait = 2 * time.Second
	minWait   = 16 * time.Second
	maxWait   = 1024 * time.Second
	lostWait  = 64 * time.Second
)

// hurries is how often nobody may answer before it is no longer worth a hurry.
const hurries = 30

// state is what the next decision depends on.
type state struct {
	hurry bool          // the clock may be off by anything
	doubt time.Duration // by how much the last look would have it set, which was not believed; 0: it would not
	wait  time.Duration // that comes next, if all is well
	vain  int           // looks without an answer since the last one
}

// action is what is done about an offset; if it is neither, it is looked at again.
type action struct {
	step, slew bool
	wait       time.Duration // until the next look
}

// decide says what is done about an offset. A clock that was set is looked at again soon:
// the answer may have been late, see [answerLimit].
func (s *state) decide(offset time.Duration) action {
	s.vain = 0
	if offset.Abs() > stepAbove {
		same := s.doubt != 0 && (offset-s.doubt).Abs() <= stepAbove
		act := action{step: s.hurry || same, wait: hurryWait}
		switch {
		case act.step:
			*s = state{hurry: true}
		case s.doubt != 0: // what says something else each time is not asked often
			act.wait = minWait
			fallthrough
		default:
			*s = state{doubt: offset}
		}
		return act
	}
	act := action{slew: true, wait: max(s.wait, minWait)}
	*s = state{wait: min(2*act.wait, maxWait)}
	return act
}

// failed says when to look again, after a look to which there was no answer.
func (s *state) failed() time.Duration {
	s.vain++
	s.wait = 0
	if s.hurry && s.vain < hurries {
		return hurryWait
	}
	return lostWait
}
