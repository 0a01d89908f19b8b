// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package apttest gives tests a Debian archive of their own, read by the apt of
// the machine.
package apttest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/image/deb/debtest"
)

// Package is a package of the archive.
type Package struct {
	Name    string
	Version string
	Fields  string // further lines of its control file: "Depends: lib"
	Files   []debtest.File
}

// Archive makes an archive, and lets apt know it and no other until the test
// ends. A machine without apt skips the test.
func Archive(t *testing.T, packages ...Package) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("this machine has no apt")
	}
	dir := t.TempDir()
	var list strings.Builder
	for _, p := range packages {
		control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\nDescription: a test\n", p.Name, p.Version)
		if p.Fields != "" {
			control += strings.TrimSpace(p.Fields) + "\n"
		}
		deb := debtest.Deb(t, control, p.Files)
		file := fmt.Sprintf("%s_%s_amd64.deb", p.Name, p.Version)
		write(t, filepath.Join(dir, file), deb)
		fmt.Fprintf(&list, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, file, len(deb), sha256.Sum256(deb))
	}
	write(t, filepath.Join(dir, "Packages"), []byte(list.String()))
	write(t, filepath.Join(dir, "sources.list"), []byte("deb [trusted=yes] file:"+dir+" ./\n"))
	write(t, filepath.Join(dir, "status"), nil)
	conf := filepath.Join(dir, "apt.conf")
	write(t, conf, fmt.Appendf(nil, `Dir::State "%[1]s/state"; Dir::State::status "%[1]s/status"; Dir::Cache "%[1]s/cache";
Dir::Etc::SourceList "%[1]s/sources.list"; Dir::Etc::SourceParts "/dev/null"; Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root"; APT::Architecture "amd64"; APT::Architectures "amd64"; Debug::NoLocking "true";
`, dir))
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("APT_CONFIG", conf)
	if out, err := exec.Command("apt-get", "-q", "update").CombinedOutput(); err != nil {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
