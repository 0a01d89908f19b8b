// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConsoleLines(t *testing.T) {
	for _, tc := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"one line in one write", []string{"one\n"}, []string{"one"}},
		{"one line in many writes", []string{"o", "n", "e\n"}, []string{"one"}},
		{"many lines in one write", []string{"a\nb\nc\n"}, []string{"a", "b", "c"}},
		{"carriage returns and control characters are left out", []string{"\x1b\x07a\tb\r\n"}, []string{"a\tb"}},
		{"bytes that are no UTF-8 stay visible", []string{"a\xffb\n"}, []string{"a\ufffdb"}},
		{"the rest at the end is a line", []string{"a\nrest"}, []string{"a", "rest"}},
		{"a line without end is cut", []string{strings.Repeat("x", maxLine+1)}, []string{strings.Repeat("x", maxLine), "x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log strings.Builder
			var called []string
			c := newConsole(&log, func(l Line) { called = append(called, l.Text) })
			for _, w := range tc.writes {
				c.Write([]byte(w))
			}
			c.end()
			var got []string
			for i, l := range c.Tail(10) {
				if l.N != i {
					t.Errorf("line %d has number %d", i, l.N)
				}
				got = append(got, l.Text)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("lines %q, want %q", got, tc.want)
			}
			if n := len(called); n > len(tc.want) || !slices.Equal(called, tc.want[:n]) {
				t.Errorf("OnLine got %q", called)
			}
			if log.String() != strings.Join(tc.writes, "") {
				t.Errorf("log %q", log.String())
			}
		})
	}
}

func TestConsoleKeepsTheNewestAndItsNumbers(t *testing.T) {
	c := newConsole(nil, nil)
	for i := range 3 * keptLines {
		fmt.Fprintf(c, "line %d\n", i)
	}
	tail := c.Tail(10 * keptLines)
	if len(tail) > keptLines || len(tail) < keptLines/2 {
		t.Errorf("%d lines kept", len(tail))
	}
	if last := tail[len(tail)-1]; last.N != 3*keptLines-1 || last.Text != fmt.Sprintf("line %d", last.N) {
		t.Errorf("newest line is %+v", last)
	}
}

func TestConsoleWait(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := newConsole(nil, nil)
	fmt.Fprint(c, "up\ndown\nup\n")
	first, err := c.Wait(ctx, "^up$", 0)
	if err != nil || first.N != 0 {
		t.Fatalf("Wait = %+v, %v, want line 0", first, err)
	}
	second, err := c.Wait(ctx, "^up$", first.N+1)
	if err != nil || second.N != 2 {
		t.Fatalf("Wait behind the first = %+v, %v, want line 2", second, err)
	}

	go fmt.Fprint(c, "up again\n")
	third, err := c.Wait(ctx, "^up", c.Next())
	if err != nil || third.Text != "up again" {
		t.Fatalf("Wait for what comes = %+v, %v", third, err)
	}

	gone, giveUp := context.WithCancelCause(ctx)
	cause := errors.New("enough")
	giveUp(cause)
	if _, err := c.Wait(gone, "never", 0); !errors.Is(err, ErrNotSeen) || !errors.Is(err, cause) {
		t.Errorf("Wait after its context = %v", err)
	}
	go c.end()
	if _, err := c.Wait(ctx, "never", 0); !errors.Is(err, ErrNotSeen) {
		t.Errorf("Wait at the machine's end = %v", err)
	}
	if l, err := c.Wait(ctx, "down", 0); err != nil || l.N != 1 {
		t.Errorf("Wait for the past after the end = %+v, %v", l, err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestConsoleOutlivesItsLog(t *testing.T) {
	c := newConsole(full{}, nil)
	if n, err := c.Write([]byte("line\n")); n != 5 || err != nil {
		t.Errorf("Write = %d, %v: the machine would stop", n, err)
	}
	if c.Err() == nil || len(c.Tail(1)) != 1 {
		t.Errorf("Err = %v with %d lines", c.Err(), len(c.Tail(1)))
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("a\r\nb"), 1)
	f.Add([]byte("\xff\x00\n\n"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut <= 0 {
			cut = 1
		}
		c := newConsole(nil, nil)
		for piece := range slices.Chunk(b, cut) {
			c.Write(piece)
		}
		c.end()
		for _, l := range c.Tail(keptLines) {
			if regexp.MustCompile(`[\r\n\x00]`).MatchString(l.Text) || len(l.Text) > 3*maxLine {
				t.Errorf("line %q", l.Text)
			}
		}
	})
}
