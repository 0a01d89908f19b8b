// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// stanza is what apt knows of a package and we want to know.
type stanza struct {
	name, version, filename, sha256, depends string
}

// openPackage finds the package by name with apt, which also says what its hash
// has to be, and unpacks it. Nothing is downloaded that was unpacked before.
func openPackage(ctx context.Context, name string, opts Options) (*Kernel, error) {
	s, err := resolve(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kernel package %s: %w", name, err)
	}
	if k, err := readCached(kernelDir(opts.CacheDir, s.sha256)); err == nil {
		return k, nil
	}
	file, err := download(ctx, s, opts)
	if err != nil {
		return nil, fmt.Errorf("kernel package %s: %w", name, err)
	}
	return openDeb(ctx, file, opts)
}

var (
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?$`) // Debian Policy 5.6.7
	// A metapackage depends on the kernel it stands for; a kernel depends on
	// tools. Debian's and Ubuntu's names are covered.
	kernelDep = regexp.MustCompile(`(?:^|, )(linux-image-[0-9][^ ,]*)`)
	sha256hex = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// resolve asks apt for the package and follows a metapackage.
func resolve(ctx context.Context, name string) (stanza, error) {
	const maxHops = 3 // linux-image-amd64 needs one, Ubuntu's linux-generic two
	for range maxHops {
		if !packageName.MatchString(name) {
			return stanza{}, fmt.Errorf("%w: %q is not a package name", ErrNoKernel, name)
		}
		out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
		if err != nil {
			return stanza{}, fmt.Errorf("%w: apt does not know it (is the list of packages there? apt-get update): %w", ErrNoKernel, err)
		}
		s := parseStanza(out)
		m := kernelDep.FindStringSubmatch(s.depends)
		if m == nil {
			if !sha256hex.MatchString(s.sha256) || s.version == "" || s.filename == "" {
				return stanza{}, fmt.Errorf("%w: apt knows %s, but not where to download it", ErrNoKernel, name)
			}
			return s, nil
		}
		name = m[1]
	}
	return stanza{}, fmt.Errorf("%w: metapackages lead to %s and further", ErrNoKernel, name)
}

// parseStanza reads the first paragraph of apt-cache's answer.
func parseStanza(text []byte) stanza {
	var s stanza
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "":
			return s
		case "Package":
			s.name = value
		case "Version":
			s.version = value
		case "Filename":
			s.filename = value
		case "SHA256":
			s.sha256 = value
		case "Depends":
			s.depends = value
		}
	}
	return s
}

// download fetches the package into the cache, unless it is there, and checks
// its hash.
func download(ctx context.Context, s stanza, opts Options) (string, error) {
	dir := filepath.Join(opts.CacheDir, "packages")
	file := filepath.Join(dir, path.Base(s.filename))
	if sum, err := hashFile(file); err == nil && sum == s.sha256 {
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
	opts.Progress("downloading " + path.Base(s.filename))
	// As root, apt drops to a user that may not write here, and says so; the
	// sandbox is of no use for a file whose hash is checked.
	if _, err := run(ctx, tmp, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", s.name+"="+s.version); err != nil {
		return "", fmt.Errorf("download: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download: apt-get left %d packages, want 1", len(debs))
	}
	sum, err := hashFile(debs[0])
	if err != nil {
		return "", err
	}
	if sum != s.sha256 {
		return "", fmt.Errorf("%w package: downloaded %s has SHA-256 %s, apt says %s", ErrBroken, path.Base(s.filename), sum, s.sha256)
	}
	if err := os.Rename(debs[0], file); err != nil {
		return "", err
	}
	return file, nil
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
