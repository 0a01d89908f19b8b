// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package record

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       Record
		err        error
	}{
		{"a line of a program that init prefixes", `load: bench: {"kind":"udp","count":4000,"work_ns":26400000.5,"elapsed_ns":26500000}`,
			Record{Kind: UDP, Count: 4000, Work: 26400000.5, Elapsed: 26500000}, nil},
		{"a line of process 1", `bench: {"kind":"done"}`, Record{Kind: Done}, nil},
		{"a carriage return at the end belongs to the console", "bench: {\"kind\":\"done\"}\r", Record{Kind: Done}, nil},
		{"other programs' lines are none", "witness: connected", Record{}, ErrNoRecord},
		{"the mark alone is none", "bench: hello", Record{}, ErrNoRecord},
		{"a line cut short is bad", `bench: {"kind":"udp","cou`, Record{}, ErrBad},
		{"a line that ran into another is bad", `bench: {"kind":"udp"}umbra: 1.00s`, Record{}, ErrBad},
		{"a key that nobody writes is bad", `bench: {"kind":"udp","sends":1}`, Record{}, ErrBad},
		{"a record of no kind is bad", `bench: {"count":1}`, Record{}, ErrBad},
		{"time does not run backwards", `bench: {"kind":"bare","probe_ns":-1}`, Record{}, ErrBad},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.line)
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("Parse(%q) = %+v, %v; want %+v, %v", tc.line, got, err, tc.want, tc.err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`load: bench: {"kind":"udp","count":4000,"work_ns":1.5}`, `bench: {"kind":"done"}`, `bench: {`, "bench: {}x", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(line)
		if err != nil {
			if !errors.Is(err, ErrBad) && !errors.Is(err, ErrNoRecord) {
				t.Fatalf("Parse(%q): %v is neither ErrBad nor ErrNoRecord", line, err)
			}
			return
		}
		var b strings.Builder
		if err := Write(&b, r); err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(b.String()); err != nil || again != r {
			t.Fatalf("%+v was written as %q and read as %+v, %v", r, b.String(), again, err)
		}
	})
}
