// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import "testing"

func TestHandOverIn(t *testing.T) {
	for _, tc := range []struct {
		name, record string
		want         int64
		ok           bool
	}{
		{"the kernel's line, in µs", "6,418,1234567,-;Run /init as init process\n SUBSYSTEM=none", 1234567000, true},
		{"another line of the kernel's", "6,419,1234570,-;Freeing unused kernel image", 0, false},
		{"a program that says the same words later in its line", "12,420,1234580,-;umbra: Run /init as init process", 0, false},
		{"a stamp that is no number", "6,418,soon,-;Run /init as init process", 0, false},
		{"a record without a stamp", "6,418;Run /init as init process", 0, false},
		{"nothing", "", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, ok := handOverIn(tc.record); got != tc.want || ok != tc.ok {
				t.Errorf("handOverIn(%q) = %d, %v; want %d, %v", tc.record, got, ok, tc.want, tc.ok)
			}
		})
	}
}
