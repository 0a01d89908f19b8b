// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
)

// keptLines of each kind are kept for a failure.
const keptLines = 2000

// recorder keeps what was heard of a guest and of its hosts.
type recorder struct {
	mu      sync.Mutex
	lines   []string // of the console, over all hosts
	gone    int      // lines before these
	logged  []string // of this process's loggers
	changed chan struct{}
}

// line takes a line of the console.
func (r *recorder) line(host string, l vm.Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.lines) + 1
	r.lines = appendKept(r.lines, fmt.Sprintf("%s %s | %s", l.At.Format("15:04:05.000"), host, l.Text))
	r.gone += before - len(r.lines)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Write takes a record of a logger.
func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logged = appendKept(r.logged, strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func appendKept(lines []string, l string) []string {
	if len(lines) >= keptLines {
		lines = slices.Delete(lines, 0, keptLines/4)
	}
	return append(lines, l)
}

// next returns the number that the next line of the console will have.
func (r *recorder) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone + len(r.lines)
}

// wait returns the first line of the console, from number from on, that
// matches.
func (r *recorder) wait(ctx context.Context, pattern string, from int) (string, error) {
	re := regexp.MustCompile(pattern)
	for {
		r.mu.Lock()
		kept := r.lines[min(max(0, from-r.gone), len(r.lines)):]
		i := slices.IndexFunc(kept, re.MatchString)
		var line string
		if i >= 0 {
			line = kept[i]
		}
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if i >= 0 {
			return line, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("%w: the console does not show %q", context.Cause(ctx), pattern)
		}
	}
}

// since returns the lines of the console, from number from on, that match.
func (r *recorder) since(from int, pattern string) (found []string) {
	re := regexp.MustCompile(pattern)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines[min(max(0, from-r.gone), len(r.lines)):] {
		if re.MatchString(l) {
			found = append(found, l)
		}
	}
	return found
}

// says reports whether a line of the console matches.
func (r *recorder) says(pattern string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.lines, regexp.MustCompile(pattern).MatchString)
}

func (r *recorder) console(n int) string { return r.last(n, &r.lines, nil) }

// agent returns the last lines that umbra printed: the agent, and what PID 1
// says of it.
func (r *recorder) agent(n int) string {
	return r.last(n, &r.lines, func(l string) bool { return strings.Contains(l, "umbra: ") })
}

func (r *recorder) host(n int) string { return r.last(n, &r.logged, nil) }

func (r *recorder) last(n int, from *[]string, keep func(string) bool) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := *from
	if keep != nil {
		lines = slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !keep(l) })
	}
	lines = lines[max(0, len(lines)-n):]
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("  " + l + "\n")
	}
	return b.String()
}
