// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/matrix"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/image"
)

// TestSample leaves and reaches every NIC of QEMU once, in an order and on a machine
// that change from day to day. UMBRA_SAMPLE names another day's. All pairs are the
// matrix's.
func TestSample(t *testing.T) {
	if testing.Short() {
		t.Skip("a VM test")
	}
	n := int(time.Now().Unix() / (24 * 60 * 60))
	if text := os.Getenv("UMBRA_SAMPLE"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 0 {
			t.Fatalf("UMBRA_SAMPLE=%q is no number of a day", text)
		}
	}
	b, err := matrix.Build(t.Context(), filepath.Join(workDir, "matrix"), image.Options{Progress: progress})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("UMBRA_SAMPLE=%d", n)
	var console bytes.Buffer // of all guests, one after the other
	r := &matrix.Runner{
		Bundle: b, Dir: vmtest.Dir(t), Logger: slog.New(slog.DiscardHandler),
		Console: func(string) io.WriteCloser { return nopCloser{&console} },
	}
	moves := 0
	err = r.Run(t.Context(), "sample", matrix.Sample(n), func(res matrix.Result) {
		moves++
		if harm := res.Harm(); harm != "" {
			t.Errorf("%v: %s", res.Pair, harm)
		}
		t.Logf("%v: stall %.0f ms, %d held, %d harvested, %d missing, %d reordered", res.Pair, res.StallMS, res.Held, res.Harvested, res.Missing, res.Reordered)
	})
	if err != nil || moves != len(matrix.Models) {
		t.Errorf("%d moves of %d: %v", moves, len(matrix.Models), err)
	}
	if t.Failed() {
		t.Logf("consoles:\n%s", &console)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
