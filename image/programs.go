// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Why a Go package cannot be a program of an image.
var (
	errNoDirectory = errors.New("not the directory of a Go package")
	errNotMain     = errors.New("not a main package")
	errCgo         = errors.New("it needs cgo, and a program of an image is static")
)

// workspace has the Go command look for a go.work above the package, whatever the
// user's own settings are.
const workspace = "GOWORK="

// compilePrograms compiles the Go packages of the description, each to a program of
// its own below dir. The user's module decides on versions, as with go build, and so
// does a workspace of his.
func (c *Config) compilePrograms(ctx context.Context, dir string, opts Options) ([]fileSpec, error) {
	var programs []fileSpec
	var errs []error
	for i, s := range c.Services {
		if s.Go == "" {
			continue
		}
		opts.Progress("compiling " + s.Name)
		p := fileSpec{key: fmt.Sprintf("service[%d].go", i), source: filepath.Join(dir, fmt.Sprint(i)), dest: s.Exec[0]}
		err := compileProgram(ctx, c.path(s.Go), p.source)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, exec.ErrNotFound):
			return nil, err // it is this machine that lacks Go
		case err != nil:
			errs = append(errs, c.fail(p.key, "%s: %w", s.Go, err))
		}
		programs = append(programs, p)
	}
	return programs, errors.Join(errs...)
}

// compileProgram compiles the main package in dir to a program for the guest.
func compileProgram(ctx context.Context, dir, out string) error {
	switch info, err := os.Stat(dir); {
	case err != nil:
		return fmt.Errorf("%w: %w", errNoDirectory, err)
	case !info.IsDir():
		return errNoDirectory
	}
	name, err := runGo(ctx, dir, workspace, "list", "-f", "{{.Name}}", ".")
	if err == nil && strings.TrimSpace(string(name)) != "main" {
		return fmt.Errorf("%w, but package %s", errNotMain, strings.TrimSpace(string(name)))
	}
	if err == nil {
		_, err = runGo(ctx, dir, workspace, buildArgs(".", out, "")...)
	}
	if err == nil {
		return nil
	}
	if pkgs := needCgo(ctx, dir); len(pkgs) > 0 {
		return fmt.Errorf("%w: see package %s: %w", errCgo, strings.Join(pkgs, ", "), err)
	}
	return err
}

// needCgo returns the packages that a program is made of and that have files for cgo.
// Whether such a package can do without is known only when it is compiled.
func needCgo(ctx context.Context, dir string) []string {
	out, err := runGo(ctx, dir, "CGO_ENABLED=1", "list", "-e", "-deps", "-f", "{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}", ".")
	if err != nil {
		return nil // what the compiler has said has to do
	}
	return strings.Fields(string(out))
}
