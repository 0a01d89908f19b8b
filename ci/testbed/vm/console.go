// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	keptLines = 4096
	maxLine   = 4096 // bytes; a longer line is cut in pieces
)

// ErrNotSeen is returned when the machine ended, or the wait did, before the
// console showed what was waited for.
var ErrNotSeen = errors.New("not seen on the console")

// A Line of the console.
type Line struct {
	N    int       // number, from 0
	At   time.Time // when its end was read
	Text string    // without line end and control characters
}

// A Console keeps the newest lines that a machine printed.
type Console struct {
	log    io.Writer
	onLine func(Line)

	mu      sync.Mutex
	lines   []Line // the newest keptLines
	next    int    // number of the next line
	partial []byte
	ended   bool
	changed chan struct{} // closed and replaced at each change
	logErr  error
}

func newConsole(log io.Writer, onLine func(Line)) *Console {
	return &Console{log: log, onLine: onLine, changed: make(chan struct{})}
}

// Write takes output of the machine. It never fails: a log that cannot be
// written must not stop the machine; see Err.
func (c *Console) Write(b []byte) (int, error) {
	if c.log != nil {
		if _, err := c.log.Write(b); err != nil {
			c.mu.Lock()
			c.logErr = err
			c.mu.Unlock()
		}
	}
	now := time.Now()
	var fresh []Line
	c.mu.Lock()
	for _, x := range b {
		if x != '\n' {
			c.partial = append(c.partial, x)
		}
		if x == '\n' || len(c.partial) >= maxLine {
			fresh = append(fresh, c.lineLocked(now))
		}
	}
	if len(fresh) > 0 {
		c.wakeLocked()
	}
	c.mu.Unlock()
	if c.onLine != nil {
		for _, l := range fresh {
			c.onLine(l)
		}
	}
	return len(b), nil
}

func (c *Console) lineLocked(now time.Time) Line {
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return -1
		}
		return r
	}, string(c.partial))
	l := Line{N: c.next, At: now, Text: text}
	c.next++
	c.partial = c.partial[:0]
	if len(c.lines) == keptLines {
		c.lines = slices.Delete(c.lines, 0, keptLines/4)
	}
	c.lines = append(c.lines, l)
	return l
}

func (c *Console) wakeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// end says that nothing will come any more.
func (c *Console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.lineLocked(time.Now())
	}
	c.ended = true
	c.wakeLocked()
}

// Wait returns the first line that matches pattern among those with number
// from and above, waiting for it if need be. Go on behind a line with its
// number plus one. When ctx or the machine ends first, the error matches
// [ErrNotSeen]. A pattern that is no regular expression panics.
func (c *Console) Wait(ctx context.Context, pattern string, from int) (Line, error) {
	re := regexp.MustCompile(pattern)
	for {
		c.mu.Lock()
		for _, l := range c.lines {
			if l.N >= from && re.MatchString(l.Text) {
				c.mu.Unlock()
				return l, nil
			}
		}
		from = max(from, c.next)
		changed, ended := c.changed, c.ended
		c.mu.Unlock()
		if ended {
			return Line{}, fmt.Errorf("%w: %q: the machine ended", ErrNotSeen, pattern)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, fmt.Errorf("%w: %q: %w", ErrNotSeen, pattern, context.Cause(ctx))
		}
	}
}

// Next returns the number that the next line will have.
func (c *Console) Next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// Tail returns the last n lines, less if there are no more.
func (c *Console) Tail(n int) []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines[max(0, len(c.lines)-n):])
}

// Err returns the last error in writing the log.
func (c *Console) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logErr
}
