// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package boot

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCreators(t *testing.T) {
	root := t.TempDir()
	in := func(name string) string { return filepath.Join(root, name) }
	if err := os.WriteFile(in("mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := []Creator{
		Dir{in("var/tmp"), 0o777 | fs.ModeSticky},
		Link{in("etc/mtab"), "/proc/self/mounts"},
		Link{in("mine"), "/elsewhere"},
		Default{in("etc/hosts"), "127.0.0.1 localhost\n"},
		Default{in("mine"), "other"},
		Func{"nothing", func() error { return nil }},
	}
	// What is there already is no error: the second time makes nothing.
	for range 2 {
		if failed := Create(slog.New(slog.DiscardHandler), table); failed != 0 {
			t.Fatalf("%d failed", failed)
		}
	}
	if fi, err := os.Stat(in("var/tmp")); err != nil || fi.Mode() != 0o777|fs.ModeSticky|fs.ModeDir {
		t.Errorf("var/tmp has mode %v, %v", fi.Mode(), err)
	}
	if got, err := os.Readlink(in("etc/mtab")); err != nil || got != "/proc/self/mounts" {
		t.Errorf("etc/mtab leads to %q, %v", got, err)
	}
	if got, err := os.ReadFile(in("etc/hosts")); err != nil || !strings.HasPrefix(string(got), "127.0.0.1") {
		t.Errorf("etc/hosts is %q, %v", got, err)
	}
	if got, err := os.ReadFile(in("mine")); err != nil || string(got) != "mine" {
		t.Errorf("what the image brought became %q, %v", got, err)
	}
}

func TestOneFailureDoesNotKeepTheRestFromBeingMade(t *testing.T) {
	root := t.TempDir()
	var log strings.Builder
	failed := Create(slog.New(slog.NewTextHandler(&log, nil)), []Creator{
		Func{"broken", func() error { return errors.New("no reason") }},
		Dir{filepath.Join(root, "after"), 0o755},
	})
	if failed != 1 {
		t.Errorf("%d failed, want 1", failed)
	}
	if _, err := os.Stat(filepath.Join(root, "after")); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "broken") || !strings.Contains(log.String(), "no reason") {
		t.Errorf("log %q does not tell what failed and why", log.String())
	}
}

func TestTheTableIsOrdered(t *testing.T) {
	at := make(map[string]int)
	for i, c := range Table("/init") {
		if _, dup := at[c.String()]; dup {
			t.Errorf("twice in the table: %s", c)
		}
		at[c.String()] = i
		if m, ok := c.(Mount); ok {
			// A mount hides what was made below it before.
			for earlier, j := range at {
				if j < i && strings.Contains(earlier, " "+m.Target+"/") {
					t.Errorf("%q is hidden by %q", earlier, m)
				}
			}
		}
	}
}
