// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import "testing"

func TestParseProbe(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       int64
		ok         bool
	}{
		{"a probe that took the device", "7,512,2041,-;probe of 0000:00:05.0 returned 0 after 4210 usecs\n", 4_210_000, true},
		{"a driver that refused it counts too", "7,511,2040,-;probe of 0000:00:05.0 returned 19 after 12 usecs\n", 12_000, true},
		{"a negative result", "7,511,2040,-;probe of 0000:00:05.0 returned -19 after 12 usecs\n", 12_000, true},
		{"another device", "7,512,2041,-;probe of virtio0 returned 0 after 900 usecs\n", 0, false},
		{"another message", "6,400,1999,-;e1000 0000:00:05.0: Hardware Error\n", 0, false},
		{"a number that is no time", "7,1,1,-;probe of 0000:00:05.0 returned 0 after 99999999999999999999 usecs\n", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, ok := parseProbe(tc.line, "0000:00:05.0"); ok != tc.ok || ok && got != tc.want {
				t.Errorf("parseProbe(%q) = %d, %v; want %d, %v", tc.line, got, ok, tc.want, tc.ok)
			}
		})
	}
}
