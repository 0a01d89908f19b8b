// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package examples holds appliances to read, to try and to start from: a Go program,
// Debian's nginx before such a program, and a router. Each is a directory with a
// description and what goes into the image; package ci/examples boots and uses them.
//
// The package itself gives the first one away. It must know nothing of how an image is
// built.
package examples

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// ErrExists: what was to be made is there already.
var ErrExists = errors.New("exists already")

//go:embed hello
var hello embed.FS

// New makes the directory dir with an appliance to start from: the example hello, as a
// Go module of its own that is named after the directory. It returns the paths of what
// it has written. What exists is left alone, and is an error that matches [ErrExists];
// whatever fails, nothing is left behind but directories above dir.
func New(ctx context.Context, dir string) (written []string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(abs); err == nil {
		return nil, fmt.Errorf("%s %w", dir, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Beside its final place, and there with one rename.
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(abs), ".umbra-new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	files, err := fs.Glob(hello, "hello/*")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := hello.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(tmp, path.Base(name)), withoutLicence(text), 0o644); err != nil {
			return nil, err
		}
		written = append(written, filepath.Join(dir, path.Base(name)))
	}
	if err := goModule(ctx, tmp, filepath.Base(abs)); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, abs); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s %w", dir, ErrExists)
	} else if err != nil {
		return nil, err
	}
	return append(written, filepath.Join(dir, "go.mod")), nil
}

// withoutLicence returns a text without umbra's licence at its top: what grows from
// the example is its user's.
func withoutLicence(text []byte) []byte {
	if head, rest, ok := bytes.Cut(text, []byte("\n\n")); ok && bytes.HasPrefix(head, []byte("// Copyright")) {
		return rest
	}
	return text
}

// goModule makes the directory a Go module for the Go that is installed.
func goModule(ctx context.Context, dir, name string) error {
	cmd := exec.CommandContext(ctx, "go", "mod", "init", name)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go mod init %s: %w\n%s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
