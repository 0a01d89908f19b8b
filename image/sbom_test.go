// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
	"github.com/umbra-vm/umbra/image/sbom/sbomtest"
)

// bom is what is read of an SBOM here.
type bom struct {
	CreationInfo struct{ Created string }
	Packages     []struct {
		Name, VersionInfo string
		Checksums         []struct{ ChecksumValue string }
	}
	Files []struct {
		FileName  string
		Checksums []struct{ Algorithm, ChecksumValue string }
	}
}

func readSBOM(t *testing.T, b *Bundle) (out bom) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.Dir, b.Name+".spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sbomtest.Check(text); err != nil {
		t.Errorf("the SBOM is no document of SPDX: %v", err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSBOM(t *testing.T) {
	stubArchive(t)
	dir := project(t, withImage(`outputs = ["uki"]`))
	b := mustBuild(t, dir, "out")
	if _, listed := b.Files["app.spdx.json"]; !listed {
		t.Error("it is not in the manifest")
	}
	got := readSBOM(t, b)
	sums := make(map[string]string) // of components that have one
	for _, p := range got.Packages {
		for _, c := range p.Checksums {
			sums[p.Name+" "+p.VersionInfo] = c.ChecksumValue
		}
	}
	want := map[string]string{
		b.Kernel.Package + " " + b.Kernel.Version: b.Kernel.SHA256,
		b.Stub.Name + " " + b.Stub.Version:        b.Stub.SHA256,
	}
	if diff := cmp.Diff(want, sums); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	app, err := describe(filepath.Join(dir, "app"))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range got.Files {
		files[strings.TrimPrefix(f.FileName, ".")] = f.Checksums[len(f.Checksums)-1].ChecksumValue
	}
	if files["/bin/app"] != app.SHA256 {
		t.Errorf("the user's program has SHA-256 %q, want %s", files["/bin/app"], app.SHA256)
	}
	if e1000 := "/lib/modules/" + kerneltest.Release + "/kernel/drivers/net/ethernet/intel/e1000/e1000.ko"; files["/init"] == "" || files[e1000] == "" {
		t.Errorf("init or a driver is missing: %v", files)
	}
	if got.CreationInfo.Created != "1970-01-01T00:00:00Z" {
		t.Errorf("made at %s, of a kernel without a date", got.CreationInfo.Created)
	}
}

func TestSBOMTimeIsTheUsers(t *testing.T) {
	t.Setenv(epochVariable, "1700000000")
	dir := project(t, simple)
	if got := readSBOM(t, mustBuild(t, dir, "out")).CreationInfo.Created; got != "2023-11-14T22:13:20Z" {
		t.Errorf("made at %s", got)
	}
	t.Setenv(epochVariable, "now")
	if _, err := build(t, dir, "out"); err == nil || !strings.Contains(err.Error(), `SOURCE_DATE_EPOCH="now"`) {
		t.Errorf("error %v", err)
	}
}

func TestModulesHaveSignatures(t *testing.T) {
	dir := project(t, simple+"[security]\nmodules = \"signed\"\n")
	files := kerneltest.New()
	for i, f := range files {
		if strings.HasSuffix(f.Name, "/tun.ko") {
			files[i].Content = f.Content[:len(f.Content)-1] // of its signature
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "linux.deb"), kerneltest.Deb(t, "linux-image-test", files), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := build(t, dir, "out")
	if err == nil || !strings.Contains(err.Error(), "security.modules: module tun has no signature") {
		t.Errorf("error %v", err)
	}
	description := strings.Replace(simple, "[kernel]", "[security]\nmodules = \"any\"\n[kernel]", 1)
	if err := os.WriteFile(filepath.Join(dir, "app.toml"), []byte(description), 0o644); err != nil {
		t.Fatal(err)
	}
	if b := mustBuild(t, dir, "out"); strings.Contains(b.Cmdline, "sig_enforce") {
		t.Errorf("command line %q", b.Cmdline)
	}
}

func TestLockdownIsOnTheCommandLine(t *testing.T) {
	c, err := Parse("app.toml", []byte("[security]\nlockdown = \"integrity\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.cmdline(); !strings.HasSuffix(got, " module.sig_enforce=1 lockdown=integrity") {
		t.Errorf("command line %q", got)
	}
}
