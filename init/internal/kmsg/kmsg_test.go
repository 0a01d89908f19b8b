// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmsg

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		limit      int
		want       []string
	}{
		{"nothing makes no record", "", 10, nil},
		{"a short line is one record", "abc", 10, []string{"abc"}},
		{"a line of exactly the limit is one record", "0123456789", 10, []string{"0123456789"}},
		{"one byte more makes a second", "0123456789a", 10, []string{"0123456789", "a"}},
		{"each line is a record, empty ones none", "a\n\nb\r\n", 10, []string{"a", "b"}},
		{"a character is not cut", "1234567ä9", 8, []string{"1234567", "ä9"}},
		{"bytes that are not UTF-8 are cut at the limit", strings.Repeat("\x80", 12), 10, []string{strings.Repeat("\x80", 10), "\x80\x80"}},
		{"a limit below a character's length is raised to it", "ääää", 1, []string{"ää", "ää"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Split(tt.text, tt.limit)); diff != "" {
				t.Errorf("Split (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("a line\nanother", 10)
	f.Add(strings.Repeat("äöü€𝄞", 300), 900)
	f.Add("\xff\xfe\x80\x80\x80\x80\x80", 4)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = max(limit%2000, utf8.UTFMax)
		var kept strings.Builder
		for _, piece := range Split(text, limit) {
			if len(piece) > limit || piece == "" || strings.Contains(piece, "\n") {
				t.Fatalf("piece %q at limit %d", piece, limit)
			}
			if utf8.ValidString(text) && !utf8.ValidString(piece) {
				t.Fatalf("a character of %q was cut: %q", text, piece)
			}
			kept.WriteString(piece)
		}
		strip := strings.NewReplacer("\n", "", "\r", "")
		if strip.Replace(kept.String()) != strip.Replace(text) {
			t.Fatalf("%q became %q", text, kept.String())
		}
	})
}

// records takes what a Writer writes, one record per call as the kernel does.
type records []string

func (r *records) Write(b []byte) (int, error) {
	*r = append(*r, string(b))
	return len(b), nil
}

func TestWriter(t *testing.T) {
	var got records
	k := NewWriter(&got, "umbra")
	k.Print(slog.LevelDebug, "fine print")
	k.Print(slog.LevelInfo, "two\nlines")
	k.Print(slog.LevelError, "bad")
	want := records{"<31>umbra: fine print\n", "<30>umbra: two\n", "<30>umbra: lines\n", "<28>umbra: bad\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestNoRecordIsLongerThanTheKernelTakes(t *testing.T) {
	var got records
	NewWriter(&got, "umbra netcfgd").Print(slog.LevelInfo, strings.Repeat("x", 5000))
	if len(got) != 6 {
		t.Errorf("%d records for 5000 bytes, want 6", len(got))
	}
	for _, r := range got {
		if len(r) > MaxRecord {
			t.Errorf("record of %d bytes", len(r))
		}
	}
}

func TestHandler(t *testing.T) {
	for _, tt := range []struct {
		name string
		log  func(*slog.Logger)
		want []string
	}{
		{"what a line is about comes first", func(l *slog.Logger) { l.With("role", "net0").Info("up", "mtu", 1500) }, []string{"net0: up mtu=1500"}},
		{"a device stands beside its role", func(l *slog.Logger) { l.Info("bound", "role", "net0", "device", "0000:00:02.0") }, []string{"net0 0000:00:02.0: bound"}},
		{"an error comes last", func(l *slog.Logger) { l.Warn("no", "err", errors.New("why"), "n", 1) }, []string{"warning: no n=1: why"}},
		{"an error is told as one", func(l *slog.Logger) { l.Error("no") }, []string{"error: no"}},
		{"a value with a space is quoted", func(l *slog.Logger) { l.Info("m", "k", "a b", "e", "") }, []string{`m k="a b" e=""`}},
		{"a value with a newline stays on its line", func(l *slog.Logger) { l.Info("m", "k", "a\nb") }, []string{`m k="a\nb"`}},
		{"groups are put in front", func(l *slog.Logger) { l.WithGroup("g").With("a", 1).Info("m", slog.Group("h", "b", 2)) }, []string{"m g.a=1 g.h.b=2"}},
		{"durations are rounded for people", func(l *slog.Logger) { l.Info("m", "d", 1234567*time.Microsecond) }, []string{"m d=1.23s"}},
		{"what is below the level is left out", func(l *slog.Logger) { l.Debug("m") }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			tt.log(slog.New(NewHandler(slog.LevelInfo, func(_ slog.Level, line string) { got = append(got, line) })))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}
