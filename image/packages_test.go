// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/image/apt/apttest"
	"github.com/umbra-vm/umbra/image/deb/debtest"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
)

// packaged is simple with a program of a package.
var packaged = simple + `
[packages]
names = ["daemon"]
[[service]]
name = "daemon"
exec = ["/usr/sbin/daemon"]
`

// daemon is a package as Debian has them, and lib what it depends on: a program
// that is a link, a linker in a directory that is merged with /usr, configuration.
func daemon(t *testing.T) []apttest.Package {
	t.Helper()
	elf := string(kerneltest.Module(kerneltest.Release, "name=x"))
	return []apttest.Package{
		{Name: "daemon", Version: "1:2.0", Fields: "Depends: lib", Files: []debtest.File{
			{Name: "./", Type: tar.TypeDir, Mode: 0o755},
			{Name: "./etc/daemon.conf", Content: "of the package"},
			{Name: "./usr/sbin/", Type: tar.TypeDir, Mode: 0o755},
			{Name: "./usr/sbin/daemon-2.0", Content: elf, Mode: 0o4755},
			{Name: "./usr/sbin/daemon", Type: tar.TypeSymlink, Link: "daemon-2.0"},
			{Name: "./usr/sbin/daemonctl", Type: tar.TypeLink, Link: "./usr/sbin/daemon-2.0"},
			{Name: "./usr/share/doc/daemon/copyright", Content: "BSD"},
			{Name: "./usr/share/doc/daemon/README", Content: "of no use"},
		}},
		{Name: "lib", Version: "3", Files: []debtest.File{
			{Name: "./lib/x86_64-linux-gnu/lib.so.3", Content: "library"},
			{Name: "./lib64/ld.so", Type: tar.TypeSymlink, Link: "/lib/x86_64-linux-gnu/lib.so.3"},
		}},
		{Name: "other", Version: "1"},
	}
}

func TestPackages(t *testing.T) {
	apttest.Archive(t, daemon(t)...)
	dir := project(t, packaged)
	b := mustBuild(t, dir, "out")
	files := unpack(t, filepath.Join(dir, "out", b.Initramfs))
	for name, want := range map[string]string{
		"/bin": "usr/bin", "/lib64": "usr/lib64", // as Debian has it
		"/usr/sbin/shadowd": "/init", "/usr/sbin/daemon": "daemon-2.0",
		"/usr/lib/x86_64-linux-gnu/lib.so.3": "library", "/usr/lib64/ld.so": "/lib/x86_64-linux-gnu/lib.so.3",
		"/usr/share/doc/daemon/copyright": "BSD", "/etc/daemon.conf": "of the package",
	} {
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
	if _, ok := files["/usr/share/doc/daemon/README"]; ok {
		t.Error("documentation is in the image")
	}
	if p := files["/usr/sbin/daemonctl"]; p == "" || p != files["/usr/sbin/daemon-2.0"] {
		t.Error("a hard link is not what it leads to")
	}
	if files["/usr/bin/app"] == "" || files["/usr/lib/modules/"+kerneltest.Release+"/modules.dep"] == "" {
		t.Error("the user's program or the modules are not below /usr")
	}
	var got []string
	for _, p := range b.Packages {
		got = append(got, p.Name+" "+p.Version)
		if len(p.SHA256) != 64 {
			t.Errorf("manifest has no hash of %s: %q", p.Name, p.SHA256)
		}
	}
	if diff := cmp.Diff([]string{"daemon 1:2.0", "lib 3"}, got); diff != "" {
		t.Errorf("packages of the manifest (-want +got):\n%s", diff)
	}
}

func TestPackagesGiveTheSameBytes(t *testing.T) {
	apttest.Archive(t, daemon(t)...)
	dir := project(t, packaged)
	var images [2][]byte
	for i, out := range []string{"a", "b"} {
		b := mustBuild(t, dir, out)
		var err error
		if images[i], err = os.ReadFile(filepath.Join(dir, out, b.Initramfs)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds differ")
	}
}

func TestTheUsersFilesWinOverThoseOfPackages(t *testing.T) {
	apttest.Archive(t, daemon(t)...)
	dir := project(t, packaged+"files = [\"conf:/etc/daemon.conf\", \"conf:/etc/passwd\"]\n")
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte("of the user"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := mustBuild(t, dir, "out")
	files := unpack(t, filepath.Join(dir, "out", b.Initramfs))
	for _, name := range []string{"/etc/daemon.conf", "/etc/passwd"} {
		if files[name] != "of the user" {
			t.Errorf("%s is %q", name, files[name])
		}
	}
}

func TestPackagesRefused(t *testing.T) {
	broken := func(change func(files []debtest.File) []debtest.File) []apttest.Package {
		p := daemon(t)
		p[0].Files = change(p[0].Files)
		return p
	}
	edit := func(old, new string) string { return strings.Replace(packaged, old, new, 1) }
	for _, tt := range []struct {
		name, description string
		packages          []apttest.Package
		want              []string
	}{
		{"a package that is not there", edit(`["daemon"]`, `["demon"]`), daemon(t), []string{"app.toml:15: packages.names: ", "demon"}},
		{"a dependency that is not there", packaged, daemon(t)[:1], []string{"packages.names: ", "daemon : Depends: lib"}},
		{"what is no name", edit(`"daemon"]`, `"daemon", "Lib"]`), daemon(t), []string{`app.toml:15: packages.names[1]: `, `"Lib"`}},
		{"a path to leave out that is none", edit(`["daemon"]`, "[\"daemon\"]\nexclude = [\"usr\"]"), daemon(t), []string{`app.toml:16: packages.exclude[0]: "usr"`}},
		{"a program that is left out", edit(`["daemon"]`, "[\"daemon\"]\nexclude = [\"/usr/sbin\"]"), daemon(t),
			[]string{"service[1].exec: /usr/sbin/daemon is not in the image"}},
		{"a device in a package", packaged, broken(func(f []debtest.File) []debtest.File {
			return append(f, debtest.File{Name: "./dev/x", Type: tar.TypeChar})
		}), []string{"package daemon 1:2.0: ", "/dev/x"}},
		{"a link to what is not in the package", packaged, broken(func(f []debtest.File) []debtest.File {
			return append(f, debtest.File{Name: "./x", Type: tar.TypeLink, Link: "./etc/shadow"})
		}), []string{"package daemon 1:2.0: ", "/x: a link to ./etc/shadow"}},
		{"a file of two packages", packaged, broken(func(f []debtest.File) []debtest.File {
			return append(f, debtest.File{Name: "./usr/lib/x86_64-linux-gnu/lib.so.3"})
		}), []string{"/lib/x86_64-linux-gnu/lib.so.3 is in package daemon and in lib"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			apttest.Archive(t, tt.packages...)
			_, err := build(t, project(t, tt.description), "out")
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("error %v, want ErrConfig", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}
