// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/image/apt"
	"github.com/umbra-vm/umbra/image/deb"
	"github.com/umbra-vm/umbra/image/initramfs"
	"golang.org/x/sync/errgroup"
)

// Packages are Debian packages whose files are in the image.
type Packages struct {
	// Names are those of packages, which may have "=" and a version behind
	// them. What they depend on comes with them.
	Names []string `toml:"names"`

	// Exclude are paths that are left out, with all below them. Default:
	// /usr/share/doc, but for each package's copyright file, and
	// /usr/share/info, /usr/share/locale and /usr/share/man.
	Exclude []string `toml:"exclude"`
}

// excluded is the default of Packages.Exclude: what Debian leaves out of its own
// images for containers.
var excluded = []string{"/usr/share/doc", "/usr/share/info", "/usr/share/locale", "/usr/share/man"}

// PackageManifest identifies a package of the image.
type PackageManifest struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the .deb
}

func (c *Config) validatePackages() (errs []error) {
	for i, name := range c.Packages.Names {
		if err := apt.CheckName(name); err != nil {
			errs = append(errs, c.fail(fmt.Sprintf("packages.names[%d]", i), "%w", err))
		}
	}
	for i, name := range c.Packages.Exclude {
		if !path.IsAbs(name) || path.Clean(name) == "/" {
			errs = append(errs, c.fail(fmt.Sprintf("packages.exclude[%d]", i), "%q: want an absolute path in the guest", name))
		}
	}
	return errs
}

// unpacked is a package whose files lie on this machine.
type unpacked struct {
	apt.Package
	entries []initramfs.Entry
}

// unpackPackages downloads the packages of the description and all that they
// depend on, and unpacks them below dir.
func (c *Config) unpackPackages(ctx context.Context, dir string, opts Options) ([]unpacked, error) {
	if len(c.Packages.Names) == 0 {
		return nil, nil
	}
	client := apt.Client{CacheDir: opts.CacheDir, Progress: opts.Progress}
	pkgs, err := client.Resolve(ctx, c.Packages.Names)
	if err != nil {
		return nil, c.packageError(err)
	}
	files, err := client.Fetch(ctx, pkgs...)
	if err != nil {
		return nil, c.packageError(err)
	}
	opts.Progress(fmt.Sprintf("unpacking %d packages", len(pkgs)))
	out := make([]unpacked, len(pkgs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // each has a goroutine that decompresses, and one that writes
	for i, p := range pkgs {
		g.Go(func() error {
			u := unpacker{dir: filepath.Join(dir, p.Name), exclude: c.Packages.Exclude, files: make(map[string]initramfs.Entry)}
			if err := os.MkdirAll(u.dir, 0o755); err != nil {
				return err
			}
			if _, err := deb.Read(ctx, files[i], u.member); err != nil {
				return c.fail("packages.names", "package %s %s: %w", p.Name, p.Version, err)
			}
			out[i] = unpacked{p, u.entries}
			return nil
		})
	}
	return out, g.Wait()
}

// packageError says that the description is to blame for what apt cannot do.
func (c *Config) packageError(err error) error {
	if errors.Is(err, apt.ErrUnavailable) || errors.Is(err, apt.ErrMismatch) {
		return c.fail("packages.names", "%w", err)
	}
	return err
}

// unpacker puts the files of a package into a directory of this machine, under
// numbers: a path of the package leads nowhere here.
type unpacker struct {
	dir     string
	exclude []string
	entries []initramfs.Entry
	files   map[string]initramfs.Entry // regular files by their path, also those left out
}

var errMember = errors.New("neither file nor directory nor link")

func (u *unpacker) member(h *tar.Header, content io.Reader) error {
	name := path.Clean("/" + h.Name)
	e := initramfs.Entry{Name: name, Mode: h.FileInfo().Mode(), UID: h.Uid, GID: h.Gid, Target: h.Linkname}
	switch h.Typeflag {
	case tar.TypeDir:
		if name == "/" {
			return nil
		}
	case tar.TypeSymlink:
	case tar.TypeLink:
		// The image has a copy: its files do not change together.
		to, ok := u.files[path.Clean("/"+h.Linkname)]
		if !ok {
			return fmt.Errorf("%s: a link to %s, which does not come before it", name, h.Linkname)
		}
		e.Mode, e.Source = to.Mode, to.Source
	case tar.TypeReg:
		e.Source = filepath.Join(u.dir, fmt.Sprint(len(u.files)))
		if err := writeContent(e, content); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: %w", name, errMember)
	}
	if e.Mode.IsRegular() {
		u.files[name] = e
	}
	if !u.excludes(name) {
		u.entries = append(u.entries, e)
	}
	return nil
}

// writeContent writes the content of a file. Of its mode only counts here whether
// it is a program.
func writeContent(e initramfs.Entry, content io.Reader) error {
	f, err := os.OpenFile(e.Source, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600|e.Mode.Perm()&0o100)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// excludes reports whether a path is left out. The terms of a package's licence go
// where its files go.
func (u *unpacker) excludes(name string) bool {
	if ok, _ := path.Match("/usr/share/doc/*/copyright", name); ok {
		return false
	}
	return slices.ContainsFunc(u.exclude, func(p string) bool {
		p = path.Clean(p)
		return name == p || strings.HasPrefix(name, p+"/")
	})
}

// addPackages adds the files of packages to the archive, and records the packages.
// What is in the archive already stays: the user's files and umbra's own.
func (c *Config) addPackages(a *initramfs.Archive, pkgs []unpacked) ([]PackageManifest, error) {
	var record []PackageManifest
	owners := make(map[string]string) // of files, by path
	given := make(map[string]bool)
	for _, name := range a.Paths() {
		given[name] = true
	}
	for _, p := range pkgs {
		record = append(record, PackageManifest{Name: p.Name, Version: p.Version, SHA256: p.SHA256})
		for _, e := range p.entries {
			at := a.Place(e.Name)
			switch {
			case given[at], e.Mode.IsDir() && a.Contains(at):
				continue
			case owners[at] != "":
				return nil, c.fail("packages.names", "%s is in package %s and in %s", e.Name, owners[at], p.Name)
			}
			if err := a.Add(e); err != nil {
				return nil, c.fail("packages.names", "package %s: %w", p.Name, err)
			}
			if !e.Mode.IsDir() {
				owners[at] = p.Name
			}
		}
	}
	return record, nil
}
