// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package debian finds Debian packages with apt, downloads them into a cache and
// reads what is in them. Nothing is installed, and no script of a package is run.
//
// It must never know what a package is for.
package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Errors that a caller may want to tell apart.
var (
	// ErrUnknown: apt does not know the package, or not where it is to be had.
	ErrUnknown = errors.New("no such package")
	// ErrBroken: the package is there and is not what it should be.
	ErrBroken = errors.New("broken")
)

// Package is what apt knows of a package.
type Package struct {
	Name, Version string
	Filename      string // in the archive, pool/…
	SHA256        string // of the .deb, in hexadecimal
	Depends       string // as in its control file
}

var (
	// Debian Policy 5.6.7 and 5.6.12; apt takes "name=version" for one version.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$`)
	sha256hex   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Find asks apt for the package "name", in the version that apt would install, or
// for "name=version". Errors match [ErrUnknown].
func Find(ctx context.Context, name string) (Package, error) {
	if !packageName.MatchString(name) {
		return Package{}, fmt.Errorf("%w: %q is not a package name", ErrUnknown, name)
	}
	out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return Package{}, fmt.Errorf("%w: apt does not know it (is the list of packages there? apt-get update): %w", ErrUnknown, err)
	}
	return parseStanza(out), nil
}

// parseStanza reads the first paragraph of apt-cache's answer.
func parseStanza(text []byte) Package {
	var p Package
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "":
			return p
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Filename":
			p.Filename = value
		case "SHA256":
			p.SHA256 = value
		case "Depends":
			p.Depends = value
		}
	}
	return p
}

// Check reports whether p says what [Download] needs. Errors match [ErrUnknown].
func (p Package) Check() error {
	if !sha256hex.MatchString(p.SHA256) || p.Version == "" || p.Filename == "" {
		return fmt.Errorf("%w: apt knows %s, but not where to download it", ErrUnknown, p.Name)
	}
	return nil
}

// Download fetches the package into the directory dir, unless it is there, checks
// its hash and returns its path. progress is told before something is fetched.
// Errors match [ErrUnknown] or [ErrBroken], where they are the package's.
func Download(ctx context.Context, p Package, dir string, progress func(step string)) (string, error) {
	if err := p.Check(); err != nil {
		return "", err
	}
	file := filepath.Join(dir, path.Base(p.Filename))
	if sum, err := Hash(file); err == nil && sum == p.SHA256 {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	progress("downloading " + path.Base(p.Filename))
	// As root, apt drops to a user that may not write here, and says so; the
	// sandbox is of no use for a file whose hash is checked.
	if _, err := run(ctx, tmp, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", p.Name+"="+p.Version); err != nil {
		return "", fmt.Errorf("download: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download: apt-get left %d packages, want 1", len(debs))
	}
	sum, err := Hash(debs[0])
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("%w package: downloaded %s has SHA-256 %s, apt says %s", ErrBroken, path.Base(p.Filename), sum, p.SHA256)
	}
	if err := os.Rename(debs[0], file); err != nil {
		return "", err
	}
	return file, nil
}

// Hash returns the SHA-256 of a file in hexadecimal.
func Hash(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// run runs a program in dir and returns its output; its complaints become the
// error.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%s is not installed: name a .deb instead of a package: %w", name, err)
	}
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return nil, fmt.Errorf("%s %s: %s (%w)", name, strings.Join(args, " "), strings.ReplaceAll(text, "\n", "; "), err)
		}
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return stdout.Bytes(), nil
}
