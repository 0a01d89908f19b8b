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
		at     time.Duration
		want   []uint64 // by their number
	}{
		{"nothing was lost", nil, 0, nil},
		{"what was lost of late is kept in its order", []loss{{0, 60}, {time.Second, 60}}, 2 * time.Second, []uint64{0, 1}},
		{"what is too old when it is wanted is not", []loss{{0, 60}, {3 * time.Second, 60}}, 6 * time.Second, []uint64{1}},
		{"what is too old when others are lost is let go", []loss{{0, 60}, {time.Second, 60}, {6 * time.Second, 60}}, 6 * time.Second, []uint64{1, 2}},
		{"of too much the oldest is let go", []loss{{0, earlyBytes / 2}, {0, earlyBytes / 4}, {0, earlyBytes / 2}}, 0, []uint64{1, 2}},
		{"what is too much alone is let go", []loss{{0, earlyBytes + 1}}, 0, nil},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			var e earlyLosses
			start := time.Now()
			for i, l := range tc.losses {
				e.add(sample{number: uint64(i), data: make([]byte, l.bytes)}, start.Add(l.after))
			}
			var got []uint64
			for _, s := range e.take(start.Add(tc.at)) {
				got = append(got, s.number)
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
