// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apt

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Resolve returns the packages named and all that they depend on, sorted by
// name: what apt would install on an amd64 machine that has no package yet, and
// without what is only recommended. Alternatives, virtual packages, versions and
// conflicts are decided by apt itself. A name may be followed by "=" and a
// version.
//
// Packages marked as essential (dash, coreutils and others) are among them only if
// somebody depends on them or they are named.
func (c Client) Resolve(ctx context.Context, names []string) ([]Package, error) {
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(c.CacheDir, "apt")
	if err := os.MkdirAll(filepath.Join(dir, "archives", "partial"), 0o755); err != nil {
		return nil, err
	}
	// The record of what is installed: nothing.
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	args := []string{"install", "-q", "--print-uris", "--no-install-recommends",
		"-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache=" + dir,
		"-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64",
		"-o", "Acquire::ForceHash=SHA256",
		"-o", "Debug::NoLocking=true", // nothing is installed, and no privilege needed
		"--"}
	out, err := run(ctx, "", "apt-get", append(args, names...)...)
	if err != nil {
		if strings.Contains(err.Error(), "Unable to locate") {
			return nil, fmt.Errorf("%w%s: %w", ErrUnavailable, hint, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	pkgs, err := parseURIs(string(out))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		name, _, _ := strings.Cut(name, "=")
		name, _, _ = strings.Cut(name, ":")
		if !slices.ContainsFunc(pkgs, func(p Package) bool { return p.Name == name }) {
			return nil, fmt.Errorf("%w: %s is a virtual package: name one that provides it", ErrUnavailable, name)
		}
	}
	return pkgs, nil
}

var errOutput = errors.New("apt-get printed what is not understood")

// parseURIs reads what apt-get --print-uris prints: after what it says of its
// work, a line for each package, with URI in quotes, file name, size and hash.
func parseURIs(text string) ([]Package, error) {
	var pkgs []Package
	for line := range strings.Lines(text) {
		quoted, ok := strings.CutPrefix(line, "'")
		if !ok {
			continue
		}
		_, rest, _ := strings.Cut(quoted, "' ")
		fields := strings.Fields(rest)
		if len(fields) != 3 {
			return nil, fmt.Errorf("%w: %q", errOutput, line)
		}
		// name_version_architecture.deb, in which apt writes ":" and "_" as an
		// URI does (apt-pkg, QuoteString).
		parts := strings.Split(strings.TrimSuffix(fields[0], ".deb"), "_")
		sum, hashed := strings.CutPrefix(fields[2], "SHA256:")
		if len(parts) != 3 || !strings.HasSuffix(fields[0], ".deb") || strings.Contains(fields[0], "/") {
			return nil, fmt.Errorf("%w: %q is no file of a package", errOutput, fields[0])
		}
		version, err := url.PathUnescape(parts[1])
		if err != nil || version == "" || CheckName(parts[0]+"="+version) != nil {
			return nil, fmt.Errorf("%w: %q is no file of a package", errOutput, fields[0])
		}
		if !hashed || !sha256hex.MatchString(sum) {
			return nil, fmt.Errorf("%w: apt has no SHA-256 of %s", ErrMismatch, parts[0])
		}
		pkgs = append(pkgs, Package{Name: parts[0], Version: version, File: fields[0], SHA256: sum})
	}
	slices.SortFunc(pkgs, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return pkgs, nil
}
