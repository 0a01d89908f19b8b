// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dom0

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/image/apt"
	"github.com/umbra-vm/umbra/image/apt/apttest"
	"github.com/umbra-vm/umbra/image/deb/debtest"
)

// tool is a package, with further files.
func tool(more ...debtest.File) apttest.Package {
	return apttest.Package{
		Name: "tool", Version: "1.2-3", Files: append([]debtest.File{{Name: "./usr/bin/tool", Content: "a tool"}}, more...),
	}
}

// sumOf returns the hash that apt knows of the package.
func sumOf(t *testing.T, client apt.Client) string {
	t.Helper()
	p, err := client.Show(context.Background(), "tool=1.2-3")
	if err != nil {
		t.Fatal(err)
	}
	return p.SHA256
}

func TestUnpackAsksOnce(t *testing.T) {
	apttest.Archive(t, tool())
	var steps []string
	client := apt.Client{CacheDir: t.TempDir(), Progress: func(s string) { steps = append(steps, s) }}
	sum := sumOf(t, client)
	for range 2 {
		dir, err := unpackPackage(context.Background(), client, "tool=1.2-3", sum)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "usr/bin/tool")); err != nil || string(b) != "a tool" {
			t.Errorf("unpacked %q, %v", b, err)
		}
		t.Setenv("PATH", "/nonexistent") // the second time
	}
	if want := []string{"downloading tool_1.2-3_amd64.deb"}; !slices.Equal(steps, want) {
		t.Errorf("in two calls %q was done, want %q", steps, want)
	}
}

func TestUnpackRefuses(t *testing.T) {
	for _, tt := range []struct {
		rule    string
		archive apttest.Package
		name    string
		other   bool // another hash is wanted than that of the package
		is      error
	}{
		{"a package that apt does not know", tool(), "none=1", false, apt.ErrUnavailable},
		{"a version that is no longer to be had", tool(), "tool=1.2-2", false, apt.ErrUnavailable},
		{"a name that would be an option", tool(), "-o=x", false, apt.ErrUnavailable},
		{"another package of that version", tool(), "tool=1.2-3", true, apt.ErrMismatch},
		{"a path outside of its place", tool(debtest.File{Name: "../../escaped", Content: "x"}), "tool=1.2-3", false, nil},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			apttest.Archive(t, tt.archive)
			client := apt.Client{CacheDir: t.TempDir()}
			sum := sumOf(t, client)
			if tt.other {
				sum = strings.Repeat("0", len(sum))
			}
			_, err := unpackPackage(context.Background(), client, tt.name, sum)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if left, _ := filepath.Glob(filepath.Join(client.CacheDir, "unpacked", "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}
