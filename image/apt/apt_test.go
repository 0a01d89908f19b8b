// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apt

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
	"github.com/umbra-vm/umbra/image/apt/apttest"
)

// archive makes an archive of packages given as "NAME VERSION" and further lines of
// a control file, and returns a client.
func archive(t *testing.T, paragraphs ...string) Client {
	t.Helper()
	var pkgs []apttest.Package
	for _, p := range paragraphs {
		first, fields, _ := strings.Cut(p, "\n")
		name, version, _ := strings.Cut(first, " ")
		pkgs = append(pkgs, apttest.Package{Name: name, Version: version, Fields: fields})
	}
	apttest.Archive(t, pkgs...)
	return Client{CacheDir: t.TempDir()}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		rule     string
		packages []string
		ask      []string
		want     []string // name=version
	}{
		{"what a package depends on comes with it", []string{
			"app 1\nDepends: lib", "lib 2\nPre-Depends: base", "base 3", "other 4",
		}, []string{"app"}, []string{"app=1", "base=3", "lib=2"}},
		{"circles end", []string{"app 1\nDepends: lib", "lib 1\nDepends: app"}, []string{"app"}, []string{"app=1", "lib=1"}},
		{"what is recommended or suggested does not", []string{
			"app 1\nRecommends: more\nSuggests: most", "more 1", "most 1",
		}, []string{"app"}, []string{"app=1"}},
		{"of alternatives the first that is there", []string{
			"app 1\nDepends: gone | second | third", "second 1", "third 1",
		}, []string{"app"}, []string{"app=1", "second=1"}},
		{"an alternative that is named is preferred", []string{
			"app 1\nDepends: first | second", "first 1", "second 1",
		}, []string{"app", "second"}, []string{"app=1", "second=1"}},
		{"an alternative whose version does not do is passed over", []string{
			"app 1\nDepends: first (>= 2) | second", "first 1.9", "second 1",
		}, []string{"app"}, []string{"app=1", "second=1"}},
		{"a virtual package is one that provides it", []string{
			"app 1\nDepends: mailer", "postman 1\nProvides: mailer",
		}, []string{"app"}, []string{"app=1", "postman=1"}},
		{"of two versions the newer", []string{"app 1:1.0", "app 2.0"}, []string{"app"}, []string{"app=1:1.0"}},
		{"unless one is asked for", []string{"app 1:1.0", "app 2.0"}, []string{"app=2.0"}, []string{"app=2.0"}},
		{"what is essential is there only if it is needed", []string{
			"app 1", "shell 1\nEssential: yes",
		}, []string{"app"}, []string{"app=1"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			pkgs, err := archive(t, tt.packages...).Resolve(context.Background(), tt.ask)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range pkgs {
				got = append(got, p.Name+"="+p.Version)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	for _, tt := range []struct {
		rule     string
		packages []string
		ask      string
		says     []string
	}{
		{"a package that is not there", []string{"app 1"}, "ap", []string{"Unable to locate package ap"}},
		{"a dependency that is not there", []string{"app 1\nDepends: lib"}, "app", []string{"app : Depends: lib but it is not installable"}},
		{"a dependency of another version", []string{"app 1\nDepends: lib (>= 2)", "lib 1"}, "app", []string{"app : Depends: lib (>= 2)"}},
		{"a conflict", []string{"app 1\nDepends: a, b", "a 1\nConflicts: b", "b 1"}, "app", []string{"app : Depends: b"}},
		{"a version that is not there", []string{"app 1"}, "app=2", []string{"Version '2' for 'app' was not found"}},
		{"a name that only others provide", []string{"postman 1\nProvides: mailer"}, "mailer", []string{"mailer is a virtual package"}},
		{"a name that would be an option", []string{"app 1"}, "-y", []string{`"-y" is not a package name`}},
		{"a name that would remove a package", []string{"app 1"}, "app-", []string{`"app-" is not a package name`}},
		{"a pattern", []string{"app 1"}, "a.p", []string{"a.p"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			pkgs, err := archive(t, tt.packages...).Resolve(context.Background(), []string{tt.ask})
			if !errors.Is(err, ErrUnavailable) {
				t.Fatalf("%v, error %v; want ErrUnavailable", pkgs, err)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestFetch(t *testing.T) {
	ctx := context.Background()
	c := archive(t, "app 1:1.0\nDepends: lib", "lib 2")
	var steps []string
	c.Progress = func(s string) { steps = append(steps, s) }
	pkgs, err := c.Resolve(ctx, []string{"app"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		files, err := c.Fetch(ctx, pkgs...)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range pkgs {
			content, err := os.ReadFile(files[i])
			if err != nil {
				t.Fatal(err)
			}
			if sum := fmt.Sprintf("%x", sha256.Sum256(content)); sum != p.SHA256 {
				t.Errorf("%s has SHA-256 %s, want %s", files[i], sum, p.SHA256)
			}
		}
	}
	if diff := cmp.Diff([]string{"downloading 2 packages"}, steps); diff != "" {
		t.Errorf("what was done in two calls (-want +got):\n%s", diff)
	}
	pkgs[1].SHA256 = strings.Repeat("0", 64)
	if _, err := c.Fetch(ctx, pkgs...); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "lib_2_amd64.deb") {
		t.Errorf("another file than what was promised: error %v", err)
	}
}

func FuzzParseURIs(f *testing.F) {
	sum := strings.Repeat("0a", 32)
	f.Add("'http://deb.debian.org/debian/pool/r/redis-tools_7.0_amd64.deb' redis-tools_5%3a7.0.15-1~deb12u1_amd64.deb 991988 SHA256:" + sum + "\n")
	f.Add("'file:/a_1_all.deb' a_1_all.deb 0 SHA256:" + sum + "\n\n'x' ../a_1_all.deb 0 SHA256:" + sum)
	f.Add("'x' a_1_all.deb 0 MD5Sum:0")
	f.Fuzz(func(t *testing.T, text string) {
		pkgs, err := parseURIs(text)
		if err != nil {
			if !errors.Is(err, errOutput) && !errors.Is(err, ErrMismatch) {
				t.Fatalf("error %v", err)
			}
			return
		}
		for _, p := range pkgs {
			if CheckName(p.Name+"="+p.Version) != nil || !sha256hex.MatchString(p.SHA256) || filepath.Base(p.File) != p.File {
				t.Fatalf("accepted %+v", p)
			}
		}
	})
}
