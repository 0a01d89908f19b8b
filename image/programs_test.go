// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// withGo is the project of a description whose service is a Go package, and of the
// files of an archive in txtar's form.
func withGo(t *testing.T, service, files string) string {
	t.Helper()
	base, _, _ := strings.Cut(simple, "[[service]]")
	dir := project(t, base+"[[service]]\n"+service)
	if err := txtar.Write(txtar.Parse([]byte(files)), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// hello is a program of a module that has nothing to do with umbra's.
const hello = `
-- hello/go.mod --
module example.org/hello

go 1.26
-- hello/cmd/hello/main.go --
package main

import "example.org/hello/greeting"

func main() { println(greeting.Text) }
-- hello/greeting/greeting.go --
package greeting

const Text = "hello"
`

func TestAGoPackageBecomesAProgram(t *testing.T) {
	for _, tt := range []struct{ name, service, files, at string }{
		{"named after its service", "name = 'web'\ngo = 'hello/cmd/hello'\n", hello, "/bin/web"},
		{"where exec says, with arguments", "name = 'web'\ngo = './hello/cmd/hello/'\nexec = ['/opt/web', '-v']\n", hello, "/opt/web"},
		{"of a module that only a workspace joins to another", "name = 'web'\ngo = 'web'\n", hello + `
-- web/go.mod --
module example.org/web

go 1.26
-- web/main.go --
package main

import "example.org/hello/greeting"

func main() { println(greeting.Text) }
-- go.work --
go 1.26

use (
	./hello
	./web
)
`, "/bin/web"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var programs [2]string
			for i := range programs {
				dir := withGo(t, tt.service, tt.files)
				b := mustBuild(t, dir, "out")
				programs[i] = unpack(t, filepath.Join(dir, "out", b.Initramfs))[tt.at]
				if strings.Contains(programs[i], dir) {
					t.Errorf("the program holds a path of the builder's machine")
				}
			}
			info, err := buildinfo.Read(bytes.NewReader([]byte(programs[0])))
			if err != nil {
				t.Fatalf("%s is no Go program: %v", tt.at, err)
			}
			if !strings.HasPrefix(info.Path, "example.org/") {
				t.Errorf("%s was made of package %s", tt.at, info.Path)
			}
			if programs[0] != programs[1] {
				t.Error("built in another directory it has other bytes")
			}
		})
	}
}

func TestAGoPackageIsRefused(t *testing.T) {
	const service = "name = 'web'\ngo = 'web'\n"
	const module = "-- web/go.mod --\nmodule example.org/web\n\ngo 1.26\n"
	for _, tt := range []struct {
		name, service, files string
		reason               error
		says                 []string
	}{
		{"that does not compile, with the place that the compiler names", service,
			module + "-- web/main.go --\npackage main\n\nfunc main() { undefined() }\n", nil, []string{"./main.go:3:15: undefined: undefined"}},
		{"that is not Go", service, module + "-- web/main.go --\nmain\n", nil, []string{"main.go:1:1: expected 'package'"}},
		{"that is no main package", service, module + "-- web/web.go --\npackage web\n", errNotMain, []string{"package web"}},
		{"without Go files", service, module, nil, []string{"no Go files"}},
		{"of no module", service, "-- web/main.go --\npackage main\n\nfunc main() {}\n", nil, []string{"go.mod"}},
		{"that is not there", service, "", errNoDirectory, []string{"no such file"}},
		{"named by one of its files", "name = 'web'\ngo = 'web/main.go'\n",
			module + "-- web/main.go --\npackage main\n\nfunc main() {}\n", errNoDirectory, nil},
		{"all of which uses cgo", service,
			module + "-- web/main.go --\npackage main\n\nimport \"C\"\n\nfunc main() {}\n", errCgo, []string{"see package example.org/web"}},
		{"with a dependency that uses cgo", service,
			module + "-- web/main.go --\npackage main\n\nimport \"example.org/web/c\"\n\nfunc main() { c.F() }\n" +
				"-- web/c/c.go --\npackage c\n\nimport \"C\"\n\nfunc F() {}\n", errCgo, []string{"see package example.org/web/c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := withGo(t, tt.service, tt.files)
			_, err := build(t, dir, "out")
			if !errors.Is(err, ErrConfig) || tt.reason != nil && !errors.Is(err, tt.reason) {
				t.Fatalf("error %v, want ErrConfig and %v", err, tt.reason)
			}
			for _, want := range append(tt.says, "app.toml:10: service[0].go: web") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q\ndoes not say %q", err, want)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

func TestAProgramTakesNoOthersPlace(t *testing.T) {
	dir := withGo(t, "name = 'web'\ngo = 'hello/cmd/hello'\nfiles = ['app:/bin/web']\n", hello)
	_, err := build(t, dir, "out")
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "app.toml:10: service[0].go: add /bin/web") {
		t.Errorf("error %v", err)
	}
}

func TestADescriptionNamedUmbraIsNamedAfterItsDirectory(t *testing.T) {
	for file, want := range map[string]string{"/srv/box/umbra.toml": "box", "/srv/box/app.toml": "app"} {
		c, err := Parse(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.Image.Name != want {
			t.Errorf("the image of %s is %q, want %q", file, c.Image.Name, want)
		}
	}
}
