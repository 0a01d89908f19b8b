// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package vmtest runs virtual machines in tests: ended with the test, their
// consoles in its log when it fails.
package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image/machine"
)

// tailLines of a console are shown when a test fails.
const tailLines = 120

// Main runs tests that share what takes long to make, such as images, in *dir, which it
// creates and in the end removes, and returns the status to exit with.
func Main(m *testing.M, dir *string) int {
	var err error
	if *dir, err = os.MkdirTemp("", "umbra-tests-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(*dir)
	return m.Run()
}

// Dir returns a new directory for sockets, removed at the end of the test.
// testing.TB.TempDir has the test's name in its path, which is easily longer
// than the 107 bytes that the path of a UNIX socket may have.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "umbra-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Context returns a context that ends shortly before the test binary's
// deadline, so that a test that hangs still says where and shows its consoles,
// and at the end of the test.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, ok := d.Deadline(); ok {
			ctx, cancel = context.WithDeadlineCause(context.Background(), end.Add(-15*time.Second),
				errors.New("the test's time is over"))
		}
	}
	t.Cleanup(cancel)
	return ctx
}

// Start starts m for the time of the test. If the test fails, the end of the
// console, what QEMU said and the state of the machine go to the test's log.
func Start(ctx context.Context, t testing.TB, m machine.Machine) *vm.VM {
	t.Helper()
	var opts vm.Options
	if dir := os.Getenv("UMBRA_CONSOLE_DIR"); dir != "" {
		f, err := os.Create(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+"-"+m.Name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		opts.Log = f
	}
	v, err := vm.Start(ctx, m, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(Describe(v))
		}
		v.Close()
	})
	return v
}

// Describe is what a person wants to see of a machine whose test failed.
func Describe(v *vm.VM) string {
	var b strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := v.QMP.Status(ctx)
	if err != nil {
		status = err.Error()
	}
	fmt.Fprintf(&b, "machine %s: %s\n", v.Machine.Name, status)
	if s := v.Stderr(); s != "" {
		fmt.Fprintf(&b, "QEMU said:\n%s\n", s)
	}
	lines := v.Console.Tail(tailLines)
	fmt.Fprintf(&b, "last %d lines of its console:\n", len(lines))
	for _, l := range lines {
		fmt.Fprintf(&b, "  %s | %s\n", l.At.Format("15:04:05.000"), l.Text)
	}
	return b.String()
}
