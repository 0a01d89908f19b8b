// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import "testing"

func TestParseIdle(t *testing.T) {
	for _, tc := range []struct {
		name, stat string
		want       int64 // ticks; -1 for an error
	}{
		{"idle and waiting for disks, of all processors", "cpu  10 20 30 400 5 6 7 8 0 0\ncpu0 10 20 30 1 1 6 7 8 0 0\n", 405},
		{"a line of one processor", "cpu0 10 20 30 400 5 6 7 8 0 0\n", -1},
		{"a line without the time of disks", "cpu 10 20 30 400\n", -1},
		{"no number", "cpu 10 20 30 x 5 6\n", -1},
		{"nothing", "", -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseIdle(tc.stat)
			if err != nil {
				got = -1
			}
			if got != tc.want {
				t.Errorf("parseIdle(%q) = %d, %v; want %d", tc.stat, got, err, tc.want)
			}
		})
	}
}
