// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package logs

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const all = 1 << 20

// texts are the lines with their numbers and programs.
func texts(lines []Line) []string {
	var out []string
	for _, l := range lines {
		out = append(out, fmt.Sprintf("%d %s %s", l.N, l.Source, l.Text))
	}
	return out
}

func TestAFloodCostsNobodyElseALine(t *testing.T) {
	var b Book
	b.Limit("quiet", all)
	b.Add("quiet", "here")
	b.Limit("loud", 3*(lineBytes+3))
	for i := range 100 {
		b.Add("loud", fmt.Sprintf("l%02d", i))
	}
	want := []string{"1 quiet here", "99 loud l97", "100 loud l98", "101 loud l99"}
	if diff := cmp.Diff(want, texts(b.After("", 0, all))); diff != "" {
		t.Errorf("lines of all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:1], texts(b.After("quiet", 0, all))); diff != "" {
		t.Errorf("lines of one (-want +got):\n%s", diff)
	}
}

func TestBounds(t *testing.T) {
	line := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name  string
		limit int
		add   []string
		want  []string
	}{
		{"what fits is kept", 2 * (lineBytes + 1), []string{"a", "b"}, []string{"1 p a", "2 p b"}},
		{"the oldest goes first", 2*(lineBytes+1) - 1, []string{"a", "b"}, []string{"2 p b"}},
		{"an empty line takes its place too", 2 * lineBytes, []string{"", "", ""}, []string{"2 p ", "3 p "}},
		{"a line beyond the bound is not kept", lineBytes + 9, []string{"a", line(10)}, nil},
		{"no bound given is the default", 0, []string{line(DefaultBytes)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Book
			if tt.limit != 0 {
				b.Limit("p", tt.limit)
			}
			for _, text := range tt.add {
				b.Add("p", text)
			}
			if diff := cmp.Diff(tt.want, texts(b.After("p", 0, all))); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAReadIsBoundedToo(t *testing.T) {
	var b Book
	for _, text := range []string{"a", "b", "c", "d"} {
		b.Add("p", text)
	}
	two := 2 * (lineBytes + 1)
	for _, tt := range []struct {
		name string
		got  []Line
		want []string
	}{
		{"after a line come the oldest", b.After("", 1, two), []string{"2 p b", "3 p c"}},
		{"after none of them comes the first", b.After("p", 0, two), []string{"1 p a", "2 p b"}},
		{"after the last comes nothing", b.After("", 4, two), nil},
		{"a program that never spoke has no lines", b.After("q", 0, two), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, texts(tt.got)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
	if n := b.Last(); n != 4 {
		t.Errorf("the last line is number %d", n)
	}
}

func TestALowerBoundForgetsAtOnce(t *testing.T) {
	var b Book
	b.Add("p", "a")
	b.Add("p", "b")
	b.Limit("p", lineBytes+1)
	if diff := cmp.Diff([]string{"2 p b"}, texts(b.After("p", 0, all))); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		b.Add("p", "old")
		if diff := cmp.Diff([]string{"1 p old"}, texts(b.Follow("p", 0, all, time.Hour))); diff != "" {
			t.Errorf("what is there comes at once (-want +got):\n%s", diff)
		}
		got := make(chan []Line)
		go func() { got <- b.Follow("p", 1, all, time.Hour) }()
		synctest.Wait()
		b.Add("q", "of another program")
		synctest.Wait()
		b.Add("p", "new")
		if diff := cmp.Diff([]string{"3 p new"}, texts(<-got)); diff != "" {
			t.Errorf("what is waited for (-want +got):\n%s", diff)
		}
		if lines := b.Follow("p", 3, all, time.Minute); lines != nil {
			t.Errorf("%v after a wait for nothing", lines)
		}
	})
}
