// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package configtest is what tests of configurations have in common.
package configtest

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/umbra-vm/umbra/init/config"
)

// RoundTrip fails the test if a configuration that was accepted is not the same when it is
// written and read again.
func RoundTrip(tb testing.TB, c *config.Config) {
	tb.Helper()
	var out bytes.Buffer
	if err := c.Encode(&out); err != nil {
		tb.Fatal(err)
	}
	again, err := config.Load(&out)
	if err != nil {
		tb.Fatalf("what was accepted is refused after a round trip: %v", err)
	}
	if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
		tb.Fatalf("round trip (-first +second):\n%s", diff)
	}
}
