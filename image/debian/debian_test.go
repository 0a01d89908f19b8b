// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package debian_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/image/debian"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
)

// fakeApt puts an apt in front of PATH that knows version 1.2-3 of package "tool",
// whose .deb it delivers, and says that this is its hash.
func fakeApt(t *testing.T, deb []byte, sum string) {
	t.Helper()
	bin := t.TempDir()
	source := filepath.Join(bin, "source")
	if err := os.WriteFile(source, deb, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"apt-cache": `[ "$3" = tool=1.2-3 ] || { echo 'E: No packages found' >&2; exit 100; }
printf 'Package: tool\nVersion: 1.2-3\nFilename: pool/tool_1.2-3_amd64.deb\nSHA256: ` + sum + `\n'`,
		"apt-get": `cp '` + source + `' tool_1.2-3_amd64.deb`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

func tool(t *testing.T, more ...kerneltest.File) (deb []byte, sum string) {
	t.Helper()
	deb = kerneltest.Deb(t, "tool", append([]kerneltest.File{{Name: "./usr/bin/tool", Content: []byte("a tool")}}, more...))
	return deb, fmt.Sprintf("%x", sha256.Sum256(deb))
}

func TestUnpackAsksOnce(t *testing.T) {
	deb, sum := tool(t)
	fakeApt(t, deb, sum)
	cache := t.TempDir()
	var steps []string
	for range 2 {
		dir, err := debian.Unpack(context.Background(), "tool=1.2-3", sum, cache, func(s string) { steps = append(steps, s) })
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "usr/bin/tool")); err != nil || string(b) != "a tool" {
			t.Errorf("unpacked %q, %v", b, err)
		}
		t.Setenv("PATH", "/nonexistent") // the second time
	}
	want := []string{"downloading tool_1.2-3_amd64.deb", "unpacking tool_1.2-3_amd64.deb"}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("what was done in two calls (-want +got):\n%s", diff)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good, sum := tool(t)
	escaping, escapingSum := tool(t, kerneltest.File{Name: "../../escaped", Content: []byte("x")})
	other := strings.Repeat("0", 64)
	for _, tt := range []struct {
		name string
		pkg  string
		deb  []byte
		says string // what apt says that the hash is
		want string
		is   error
	}{
		{"a package that apt does not know", "none=1", good, sum, sum, debian.ErrUnknown},
		{"a version that is no longer to be had", "tool=1.2-2", good, sum, sum, debian.ErrUnknown},
		{"a name that would be an option", "-o=x", good, sum, sum, debian.ErrUnknown},
		{"another package of that version", "tool=1.2-3", good, sum, other, debian.ErrBroken},
		{"a download that is not what apt promised", "tool=1.2-3", good, other, other, debian.ErrBroken},
		{"a package that is cut off", "tool=1.2-3", good[:200], fmt.Sprintf("%x", sha256.Sum256(good[:200])),
			fmt.Sprintf("%x", sha256.Sum256(good[:200])), debian.ErrBroken},
		{"a path outside of its place", "tool=1.2-3", escaping, escapingSum, escapingSum, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakeApt(t, tt.deb, tt.says)
			cache := t.TempDir()
			_, err := debian.Unpack(context.Background(), tt.pkg, tt.want, cache, func(string) {})
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if left, _ := filepath.Glob(filepath.Join(cache, "unpacked", "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}
