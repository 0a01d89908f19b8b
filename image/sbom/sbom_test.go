// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package sbom

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/image/sbom/sbomtest"
)

func write(t *testing.T, i Inventory) string {
	t.Helper()
	var b bytes.Buffer
	if err := i.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// inventory is one with a Go program, the test itself, and a file that is none.
func inventory(t *testing.T) Inventory {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Inventory{
		Name: "app", Tool: "umbra-test", Created: time.Unix(86400, 0),
		Components: []Component{
			{Name: "zlib1g", Version: "1:1.2+x-1", SHA256: strings.Repeat("0", 64), PURL: DebianPURL("debian", "zlib1g", "1:1.2+x-1", "amd64")},
			{Name: "bash", Version: "5"},
			{Name: "linux", Version: "6.1", License: "GPL-2.0-only"},
		},
		Files: []File{
			{Path: "/etc/text", Source: text}, {Path: "/bin/test", Source: self}, {Path: "/etc-text", Source: text},
			{Path: "/bin/bb", Source: text, Modules: []Component{{Name: "example.org/tools", Version: "v1.0.0", PURL: GoPURL("example.org/tools", "v1.0.0")}}},
		},
	}
}

func TestDocument(t *testing.T) {
	text := write(t, inventory(t))
	if err := sbomtest.Check([]byte(text)); err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		`"pkg:deb/debian/zlib1g@1%3A1.2%2Bx-1?arch=amd64"`, `"1970-01-02T00:00:00Z"`,
		`"a9993e364706816aba3e25717850c26c9cd0d89d"`, // of "abc" (RFC 3174, 7.3)
		`"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"`,
		`"name": "stdlib"`, `"fileName": "./etc/text"`, `"pkg:golang/example.org/tools@v1.0.0"`, `"STATIC_LINK"`, `"SPDXRef-File-etc-text-2"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document does not have %s", want)
		}
	}
}

func TestModule(t *testing.T) {
	i := Inventory{Modules: map[string]Component{"example.org/known": {Name: "known", Version: "7"}}}
	for _, tt := range []struct {
		name string
		m    debug.Module
		want Component
	}{
		{"a version and a sum", debug.Module{Path: "example.org/m", Version: "v2.0.0+incompatible", Sum: "h1:x"},
			Component{Name: "example.org/m", Version: "v2.0.0+incompatible", PURL: "pkg:golang/example.org/m@v2.0.0%2Bincompatible", Comment: "go.sum: h1:x"}},
		{"a checkout has no version", debug.Module{Path: "example.org/m", Version: "(devel)"}, Component{Name: "example.org/m"}},
		{"what is in its place counts", debug.Module{Path: "example.org/m", Version: "v1.0.0", Replace: &debug.Module{Path: "../m"}}, Component{Name: "../m"}},
		{"one of which more is known", debug.Module{Path: "example.org/known", Version: "(devel)"}, Component{Name: "known", Version: "7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := i.module(&tt.m); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestSameInventoryGivesTheSameBytesAndAnotherAnotherNamespace(t *testing.T) {
	first, second := inventory(t), inventory(t)
	second.Components[0], second.Components[1] = second.Components[1], second.Components[0]
	if write(t, first) != write(t, second) {
		t.Error("the order of components, or a path on this machine, shows")
	}
	namespace := func(text string) string {
		_, rest, _ := strings.Cut(text, `"documentNamespace": "`)
		ns, _, _ := strings.Cut(rest, `"`)
		return ns
	}
	second.Components[0].Version = "6"
	if a, b := namespace(write(t, first)), namespace(write(t, second)); a == b || a == "" {
		t.Errorf("namespaces %q and %q", a, b)
	}
}

func TestWriteNamesTheFileThatItCannotRead(t *testing.T) {
	i := Inventory{Name: "app", Files: []File{{Path: "/bin/app", Source: filepath.Join(t.TempDir(), "none")}}}
	if err := i.Write(new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "/bin/app") {
		t.Errorf("error %v", err)
	}
}
