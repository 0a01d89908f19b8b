// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"fmt"
	"slices"
	"syscall"
	"time"
)

// Policy says when a program that ended is started again.
type Policy string

// The restart policies.
const (
	Always    Policy = "always"
	OnFailure Policy = "on-failure"
	Never     Policy = "never"
)

// ExitStop is the exit code by which a program asks not to be started again,
// whatever its policy: gokrazy's convention for "there is nothing to do here".
const ExitStop = 125

// Healthy is how long a program must have run for its end to count as the
// first of a series: back-off starts anew.
const Healthy = 10 * time.Second

// Exit is how a process ended: by a signal, or with a code.
type Exit struct {
	Code   int
	Signal syscall.Signal // 0 if the process exited by itself
}

// OK reports whether the process said that all went well.
func (e Exit) OK() bool { return e.Signal == 0 && e.Code == 0 }

func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Backoff is the wait before a restart: Min after the first end of a series,
// doubled with every further one, never above Max.
type Backoff struct{ Min, Max time.Duration }

// Wait returns the wait after the nth end of a series, n counted from 1.
func (b Backoff) Wait(n int) time.Duration {
	d := b.Min
	for ; n > 1 && d < b.Max; n-- {
		d *= 2
	}
	return min(d, b.Max)
}

// Decision is what follows from an exit.
type Decision struct {
	Restart bool
	After   time.Duration // the wait before the restart
	Series  int           // ends in quick succession, this one included
	Reason  string        // why it is not started again
}

// Decide says what to do after a program ended: exit is how, uptime how long
// it had run, and series how many ends in quick succession came before.
func Decide(p Policy, b Backoff, exit Exit, uptime time.Duration, series int) Decision {
	if uptime >= Healthy {
		series = 0
	}
	d := Decision{Series: series + 1}
	switch {
	case exit.Signal == 0 && exit.Code == ExitStop:
		d.Reason = fmt.Sprintf("it asked not to be restarted (exit code %d)", ExitStop)
	case p == Never:
		d.Reason = "its restart policy is never"
	case p == OnFailure && exit.OK():
		d.Reason = "it is done"
	default:
		d.Restart, d.After = true, b.Wait(d.Series)
	}
	return d
}

// Missing returns the needs that are not up, in their order.
func Missing(needs []string, up map[string]bool) []string {
	var missing []string
	for _, n := range needs {
		if !up[n] {
			missing = append(missing, n)
		}
	}
	return missing
}

// StopOrder returns the order in which programs are stopped: stages from the
// highest to the lowest, the programs of a stage at once, listed in the
// reverse of the order in which they were given.
func StopOrder(specs []Spec) [][]string {
	byStage := make(map[int][]string)
	var stages []int
	for _, s := range slices.Backward(specs) {
		if _, seen := byStage[s.Stage]; !seen {
			stages = append(stages, s.Stage)
		}
		byStage[s.Stage] = append(byStage[s.Stage], s.Name)
	}
	slices.SortFunc(stages, func(a, b int) int { return b - a })
	order := make([][]string, len(stages))
	for i, stage := range stages {
		order[i] = byStage[stage]
	}
	return order
}
