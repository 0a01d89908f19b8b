// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package console

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"nothing is no line", "", nil},
		{"lines end at newlines", "a\nb\r\n", []string{"a", "b"}},
		{"an empty line is kept", "a\n\nb\n", []string{"a", "", "b"}},
		{"last words without a newline are a line", "a\nb", []string{"a", "b"}},
		{"a long line comes in pieces", long + long + "y\n", []string{long, long, "y"}},
		{"a terminal's control characters do not get through", "a\x1b[2Jb\a\tc\n", []string{"a·[2Jb·\tc"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			Lines(strings.NewReader(tt.in), func(l string) { got = append(got, l) })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzLines(f *testing.F) {
	f.Add("a\nb\x1b[0m")
	f.Add(strings.Repeat("\xff\r", 3000))
	f.Fuzz(func(t *testing.T, in string) {
		Lines(strings.NewReader(in), func(l string) {
			// A byte that is not UTF-8 is shown as a character of three.
			if len(l) > 3*maxLine || strings.ContainsFunc(l, func(r rune) bool { return r != '\t' && r < 0x80 && unicode.IsControl(r) }) {
				t.Fatalf("line %q", l)
			}
		})
	})
}

func TestPrintNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe() // a console nobody reads
		c := New(w)
		go c.Run()
		for i := range 2 * queueLines {
			c.Print(fmt.Sprintf("line %d", i))
		}
		c.Flush(time.Second) // returns although nothing was read
		w.CloseWithError(io.EOF)
		synctest.Wait()
		close(c.queue)
		_ = r
	})
}

func TestDroppedLinesAreCounted(t *testing.T) {
	var out strings.Builder
	c := New(&out)
	for range queueLines + 7 {
		c.Print("x")
	}
	close(c.queue)
	c.Run()
	if want := "umbra: 7 lines were not printed, the console is too slow\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("output starts with %q, want %q", out.String()[:40], want)
	}
	if got := strings.Count(out.String(), "x\n"); got != queueLines {
		t.Errorf("%d lines printed, want %d", got, queueLines)
	}
}
