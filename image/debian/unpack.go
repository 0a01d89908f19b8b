// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Unpack downloads the package that [Find] finds by name, whose .deb has that
// SHA-256, into cache, unpacks it beside that, and returns the directory that has its
// files. What is there already is not asked for again. Of what is in a package only
// directories, files and links are unpacked. Errors are those of [Find],
// [Download] and [Walk].
func Unpack(ctx context.Context, name, sum, cache string, progress func(step string)) (dir string, err error) {
	dir = filepath.Join(cache, "unpacked", sum)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	p, err := Find(ctx, name)
	if err != nil {
		return "", err
	}
	if p.SHA256 != sum {
		return "", fmt.Errorf("%w package: apt says that its SHA-256 is %s, want %s", ErrBroken, p.SHA256, sum)
	}
	file, err := Download(ctx, p, filepath.Join(cache, "packages"), progress)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	progress("unpacking " + filepath.Base(file))
	if err := unpackInto(ctx, file, tmp); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	// Whoever was faster has the same content.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// unpackInto unpacks the package below dir. Nothing is written outside of it,
// whatever names and links the package has.
func unpackInto(ctx context.Context, file, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = Walk(ctx, file, func(h *tar.Header, content io.Reader) error {
		name := path.Clean(h.Name)
		if name == "." {
			return nil
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			return root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			return root.Symlink(h.Linkname, name)
		case tar.TypeLink:
			return root.Link(path.Clean(h.Linkname), name)
		case tar.TypeReg:
			return writeTo(root, name, h.FileInfo().Mode().Perm(), content)
		}
		return nil
	})
	return err
}

func writeTo(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
