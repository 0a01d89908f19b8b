// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// root is the top of the tree, seen from this package.
const root = "../.."

// module is umbra's own path.
const module = "github.com/umbra-vm/umbra"

// A source is one parsed Go file.
type source struct {
	path string // from the top of the tree, with slashes
	text string
	file *ast.File
}

func (s source) dir() string     { return path.Dir(s.path) }
func (s source) isTest() bool    { return strings.HasSuffix(s.path, "_test.go") }
func (s source) generated() bool { return ast.IsGenerated(s.file) }

// imports returns the paths that s imports, by the name they have in it.
func (s source) imports() map[string]string {
	out := make(map[string]string)
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // it was parsed
		}
		name := path.Base(p)
		if spec.Name != nil && spec.Name.Name != "_" {
			name = spec.Name.Name
		}
		out[name] = p
	}
	return out
}

// sources returns every Go file of the tree, whatever its build tags.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	walk(t, func(name string) {
		if path.Ext(name) != ".go" {
			return
		}
		text := read(t, name)
		f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		out = append(out, source{name, text, f})
	})
	if len(out) < 100 {
		t.Fatalf("only %d Go files found: is %s still the top of the tree?", len(out), root)
	}
	return out
}

// walk calls f for every file that belongs to the tree; what a build leaves
// behind, and data of tests, does not.
func walk(t *testing.T, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && name != "."
			if hidden || d.Name() == "testdata" || name == "out" {
				return filepath.SkipDir
			}
			return nil
		}
		f(filepath.ToSlash(name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documents are the texts for people, from the top of the tree.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	walk(t, func(name string) {
		if path.Ext(name) == ".md" && (path.Dir(name) == "." || strings.HasPrefix(name, "docs/")) {
			out = append(out, name)
		}
	})
	if len(out) == 0 {
		t.Fatal("no documents found")
	}
	return out
}

// unique returns the first group of every match, each once, in order.
func unique(re *regexp.Regexp, text string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		if !seen[m[1]] {
			seen[m[1]] = true
			out = append(out, m[1])
		}
	}
	return out
}
