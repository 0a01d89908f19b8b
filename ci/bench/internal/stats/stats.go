// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package stats sums up repeated measurements. It knows numbers only.
package stats

import (
	"math"
	"slices"
)

// A Sample is what repeated measurements of one quantity came to.
type Sample struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	// Spread is the median distance from the median, relative to it: half of
	// the measurements are as close as that. It does not mind an outlier.
	Spread float64 `json:"spread"`
}

// Of sums up values, whose order does not matter and is not changed. No
// values give the zero Sample.
func Of(values []float64) Sample {
	if len(values) == 0 {
		return Sample{}
	}
	v := slices.Sorted(slices.Values(values))
	s := Sample{N: len(v), Median: median(v), Min: v[0], Max: v[len(v)-1]}
	if s.Median != 0 {
		away := make([]float64, len(v))
		for i, x := range v {
			away[i] = math.Abs(x - s.Median)
		}
		slices.Sort(away)
		s.Spread = median(away) / math.Abs(s.Median)
	}
	return s
}

// median of sorted values; of an even number the mean of the middle two.
func median(v []float64) float64 {
	h := len(v) / 2
	if len(v)%2 == 1 {
		return v[h]
	}
	return v[h-1]/2 + v[h]/2
}

// Ratio is a over b, and 0 if there is no b: a ratio to nothing is no number
// that a report could carry.
func Ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Mean is the arithmetic mean, 0 of no values.
func Mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return Ratio(sum, float64(len(v)))
}
