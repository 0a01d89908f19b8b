// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stats

import (
	"slices"
	"testing"
)

func TestOf(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values []float64
		want   Sample
	}{
		{"nothing measured", nil, Sample{}},
		{"one value is its own median, without spread", []float64{7}, Sample{1, 7, 7, 7, 0}},
		{"the middle of an odd number", []float64{30, 10, 20}, Sample{3, 20, 10, 30, 0.5}},
		{"the mean of the middle two of an even number", []float64{40, 10, 20, 30}, Sample{4, 25, 10, 40, 0.4}},
		{"an outlier moves neither median nor spread", []float64{100, 101, 99, 100, 9000}, Sample{5, 100, 99, 9000, 0.01}},
		{"zeros have no relative spread", []float64{0, 0, 1}, Sample{3, 0, 0, 1, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := slices.Clone(tc.values)
			if got := Of(in); got != tc.want {
				t.Errorf("Of(%v) = %+v, want %+v", tc.values, got, tc.want)
			}
			if !slices.Equal(in, tc.values) {
				t.Errorf("Of changed its argument: %v, was %v", in, tc.values)
			}
		})
	}
}

func TestRatio(t *testing.T) {
	if got := Ratio(3, 2); got != 1.5 {
		t.Errorf("Ratio(3, 2) = %v, want 1.5", got)
	}
	if got := Ratio(3, 0); got != 0 {
		t.Errorf("Ratio(3, 0) = %v, want 0", got)
	}
}

func TestMean(t *testing.T) {
	if got := Mean([]float64{1, 2, 6}); got != 3 {
		t.Errorf("Mean(1, 2, 6) = %v, want 3", got)
	}
	if got := Mean(nil); got != 0 {
		t.Errorf("Mean() = %v, want 0", got)
	}
}
