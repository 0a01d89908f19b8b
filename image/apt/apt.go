// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package apt asks apt for Debian packages: where one is, which others it
// needs, what its hash has to be. It downloads them into a cache and checks the
// hash.
//
// What apt knows is what the machine's sources and lists say; a package's place
// in the archive, signatures and versions are apt's business. The package must
// never know what is in a package, nor what it is for.
package apt

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

	"github.com/umbra-vm/umbra/image/internal/digest"
)

// Package is what apt knows of a Debian package and we want to know.
type Package struct {
	Name    string
	Version string
	File    string // name of its file
	SHA256  string // of the file, in hex
	Depends string // as the package has it; of [Client.Show] only
}

// Client asks the apt of this machine.
type Client struct {
	CacheDir string            // holds packages/ and apt/
	Progress func(step string) // told what takes time
}

// Errors that a caller may want to tell apart. All come wrapped with what apt
// says.
var (
	// ErrUnavailable: apt does not know the package, or cannot give it all that
	// it needs.
	ErrUnavailable = errors.New("package not available")
	// ErrMismatch: the download is not what apt's lists promise.
	ErrMismatch = errors.New("wrong download")
)

var (
	// Debian Policy 5.6.7 and 5.6.12. To apt a "-" behind the name means to
	// remove the package.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*[a-z0-9.+](:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$`)
	sha256hex   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// CheckName says whether apt can be asked for a package of that name, which may
// be followed by "=" and a version.
func CheckName(name string) error {
	if !packageName.MatchString(name) {
		return fmt.Errorf("%w: %q is not a package name", ErrUnavailable, name)
	}
	return nil
}

// Show returns the package of that name, in the version that apt would install.
func (c Client) Show(ctx context.Context, name string) (Package, error) {
	if err := CheckName(name); err != nil {
		return Package{}, err
	}
	out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return Package{}, fmt.Errorf("%w: apt does not know it%s: %w", ErrUnavailable, hint, err)
	}
	p := parseStanza(out)
	if p.Name == "" { // apt-cache takes that for a success
		return Package{}, fmt.Errorf("%w: apt does not know this version", ErrUnavailable)
	}
	return p, nil
}

// hint is for machines made from container images, which have no lists.
const hint = " (is the list of packages there? apt-get update)"

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
			p.File = path.Base(value)
		case "SHA256":
			p.SHA256 = value
		case "Depends":
			p.Depends = value
		}
	}
	return p
}

// Fetch returns the files of packages, in their order, which it downloads into
// the cache unless they are there. Every one has the hash that apt's lists say.
func (c Client) Fetch(ctx context.Context, pkgs ...Package) ([]string, error) {
	dir := filepath.Join(c.CacheDir, "packages")
	files := make([]string, len(pkgs))
	var missing []Package
	for i, p := range pkgs {
		if !sha256hex.MatchString(p.SHA256) || p.Version == "" || p.File == "" {
			return nil, fmt.Errorf("%w: apt knows %s, but not where to download it", ErrUnavailable, p.Name)
		}
		files[i] = filepath.Join(dir, p.File)
		if sum, _, err := digest.SHA256(files[i]); err != nil || sum != p.SHA256 {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return files, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if len(missing) == 1 {
		c.progress("downloading " + missing[0].File)
	} else {
		c.progress(fmt.Sprintf("downloading %d packages", len(missing)))
	}
	// As root, apt drops to a user that may not write here, and says so; the
	// sandbox is of no use for a file whose hash is checked.
	args := []string{"-q", "-o", "APT::Sandbox::User=root", "download"}
	for _, p := range missing {
		args = append(args, p.Name+"="+p.Version)
	}
	if _, err := run(ctx, tmp, "apt-get", args...); err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	for _, p := range missing {
		if err := accept(p, tmp, filepath.Join(dir, p.File)); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func (c Client) progress(step string) {
	if c.Progress != nil {
		c.Progress(step)
	}
}

// accept moves the file of a package from where it was downloaded to its place,
// if it is what it should be.
func accept(p Package, from, file string) error {
	debs, err := filepath.Glob(filepath.Join(from, p.Name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("%w: apt-get left %d files of %s, want 1", ErrMismatch, len(debs), p.Name)
	}
	sum, _, err := digest.SHA256(debs[0])
	if err != nil {
		return err
	}
	if sum != p.SHA256 {
		return fmt.Errorf("%w: %s has SHA-256 %s, apt says %s", ErrMismatch, p.File, sum, p.SHA256)
	}
	return os.Rename(debs[0], file)
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
		return nil, fmt.Errorf("%s is not installed: %w", name, err)
	}
	if err != nil {
		if text := complaints(stdout.String(), stderr.String()); text != "" {
			return nil, fmt.Errorf("%s %s: %s (%w)", name, args[0], text, err)
		}
		return nil, fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return stdout.Bytes(), nil
}

// unmet is the heading under which apt-get explains, on its standard output, what
// cannot be installed.
const unmet = "The following packages have unmet dependencies:\n"

// complaints puts what apt says is wrong into one line.
func complaints(stdout, stderr string) string {
	_, why, _ := strings.Cut(stdout, unmet)
	var said []string
	for line := range strings.Lines(why + stderr) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			said = append(said, line)
		}
	}
	return strings.Join(said, "; ")
}
