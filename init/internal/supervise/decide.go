// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"cmp"
	"fmt"
	"maps"
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

	// OutOfMemory says that the kernel killed it, or a child, at its limit.
	OutOfMemory bool
}

// OK reports whether the process said that all went well.
func (e Exit) OK() bool { return e.Signal == 0 && e.Code == 0 }

// Asks reports whether the process asked not to be started again.
func (e Exit) Asks() bool { return e.Signal == 0 && e.Code == ExitStop }

func (e Exit) String() string {
	s := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != 0 {
		s = fmt.Sprintf("signal %d (%s)", int(e.Signal), e.Signal)
	}
	if e.OutOfMemory {
		s += ", at its limit of memory"
	}
	return s
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
	case exit.Asks():
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
// highest to the lowest; of a stage first those that no other of it needs, then those
// that only these need, and so on. Those of a step are stopped at once, listed in the
// reverse of the order in which they were given.
func StopOrder(specs []Spec) [][]string {
	provider := make(map[string]Spec)
	for _, s := range specs {
		if s.Provides != "" {
			provider[s.Provides] = s
		}
	}
	depths := make(map[string]int)
	// Since needs have no cycle (package config), this ends.
	var depth func(s Spec) int
	depth = func(s Spec) int {
		if d, known := depths[s.Name]; known {
			return d
		}
		d := 0
		for _, n := range s.Needs {
			if p, ok := provider[n]; ok && p.Stage == s.Stage {
				d = max(d, depth(p)+1)
			}
		}
		depths[s.Name] = d
		return d
	}
	type step struct{ stage, depth int }
	byStep := make(map[step][]string)
	for _, s := range slices.Backward(specs) {
		at := step{s.Stage, depth(s)}
		byStep[at] = append(byStep[at], s.Name)
	}
	steps := slices.SortedFunc(maps.Keys(byStep), func(a, b step) int {
		return cmp.Or(b.stage-a.stage, b.depth-a.depth)
	})
	order := make([][]string, len(steps))
	for i, at := range steps {
		order[i] = byStep[at]
	}
	return order
}
