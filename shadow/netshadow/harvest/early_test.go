// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"slices"
	"testing"
	"time"
)

func TestEarlyLosses(t *testing.T) {
	type loss struct {
		after time.Duration
		bytes int
	}
	for _, tc := range []struct {
		rule   string
		losses []loss
		found  time.Duration
		want   []uint64 // by their place
	}{
		{"nothing was lost", nil, 0, nil},
		{"what was lost of late is kept in its order", []loss{{0, 60}, {time.Second, 60}}, 2 * time.Second, []uint64{0, 1}},
		{"what was lost long before the device was found to be gone is not wanted", []loss{{0, 60}, {3 * time.Second, 60}}, earlyAge + time.Second, []uint64{1}},
		{"what was lost after the device was found to be gone is", []loss{{0, 60}, {30 * time.Second, 60}}, time.Second, []uint64{0, 1}},
		{"what is too old when others are lost is let go", []loss{{0, 60}, {time.Second, 60}, {earlyKept + time.Second, 60}}, time.Second, []uint64{1, 2}},
		{"of too much the oldest is let go", []loss{{0, earlyBytes / 2}, {0, earlyBytes / 4}, {0, earlyBytes / 2}}, 0, []uint64{1, 2}},
		{"what is too much alone is let go", []loss{{0, earlyBytes + 1}}, 0, nil},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			var e earlyLosses
			const start = time.Hour
			for i, l := range tc.losses {
				e.add(sample{role: uint8(i), number: uint64(start + l.after), data: make([]byte, l.bytes)})
			}
			var got []uint64
			for _, s := range e.take(start + tc.found) {
				got = append(got, uint64(s.role))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("kept %v, want %v", got, tc.want)
			}
			if again := e.take(start); len(again) > 0 || e.bytes != 0 {
				t.Errorf("%d frames and %d bytes are kept after they were taken", len(again), e.bytes)
			}
		})
	}
}
