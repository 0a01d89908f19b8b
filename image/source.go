// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// modulePath is umbra's own module, whose init goes into every image.
const modulePath = "github.com/umbra-vm/umbra"

// ErrNoSource: the source of umbra, from which init is built, was not found.
var ErrNoSource = errors.New("the source of umbra was not found")

// FindSource returns the directory of umbra's source, from which an image's
// init is compiled. It is, in this order:
//
//  1. the directory given, if one is;
//  2. where the Go command finds the module from the working directory: a
//     checkout of umbra, or the version that a module of the user requires;
//  3. where this program was compiled, if that is still there;
//  4. above this program, which make leaves in out/ of a checkout;
//  5. the module cache, for a program installed by go install PATH@VERSION.
func FindSource(ctx context.Context, given string) (string, error) {
	if given != "" {
		dir, err := filepath.Abs(given)
		if err != nil {
			return "", err
		}
		if !isSource(dir) {
			return "", fmt.Errorf("%w: %s has no go.mod of %s", ErrNoSource, given, modulePath)
		}
		return dir, nil
	}
	if out, err := goCommand(ctx, "", "list", "-m", "-f", "{{.Dir}}", modulePath); err == nil {
		if dir := strings.TrimSpace(string(out)); isSource(dir) {
			return dir, nil
		}
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		if dir := filepath.Dir(filepath.Dir(file)); isSource(dir) {
			return dir, nil
		}
	}
	if program, err := os.Executable(); err == nil {
		if dir := filepath.Dir(filepath.Dir(program)); isSource(dir) {
			return dir, nil
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == modulePath {
		if out, err := goCommand(ctx, "", "env", "GOMODCACHE"); err == nil {
			dir := filepath.Join(strings.TrimSpace(string(out)), modulePath+"@"+info.Main.Version)
			if isSource(dir) {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("%w: name its directory, or run in a checkout", ErrNoSource)
}

var moduleLine = regexp.MustCompile(`(?m)^module\s+` + regexp.QuoteMeta(modulePath) + `\s*$`)

func isSource(dir string) bool {
	if dir == "" {
		return false
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && moduleLine.Match(text)
}

// BuildGo compiles a Go program for the guest: static, without paths, times or
// version control in it, so that the same source gives the same bytes.
func BuildGo(ctx context.Context, source, pkg, out string) error {
	_, err := goCommand(ctx, source, buildArgs(pkg, out, "-X main.version="+Version())...)
	if err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}

// buildArgs are those of the Go command for what [BuildGo] promises.
func buildArgs(pkg, out, ldflags string) []string {
	return []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid= " + ldflags, "-o", out, pkg}
}

// goCommand runs the Go command in dir with an environment that leaves nothing
// to the user's own settings.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return runGo(ctx, dir, "GOWORK=off", args...)
}

// runGo is goCommand with one more setting, which takes the place of an earlier one.
func runGo(ctx context.Context, dir, setting string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=", setting)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("go is not installed: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
