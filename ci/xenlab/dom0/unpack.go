// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dom0

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

	"github.com/umbra-vm/umbra/image/apt"
	"github.com/umbra-vm/umbra/image/deb"
)

// unpackPackage downloads the package of that name=version, whose file has that
// SHA-256, into the cache, unpacks it beside that, and returns the directory that has
// its files. What is there already is not asked for again. Errors match
// [apt.ErrUnavailable] and [apt.ErrMismatch].
func unpackPackage(ctx context.Context, client apt.Client, name, sum string) (dir string, err error) {
	dir = filepath.Join(client.CacheDir, "unpacked", sum)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	p, err := client.Show(ctx, name)
	if err != nil {
		return "", err
	}
	if p.SHA256 != sum {
		return "", fmt.Errorf("%w: apt says that its SHA-256 is %s, want %s", apt.ErrMismatch, p.SHA256, sum)
	}
	files, err := client.Fetch(ctx, p)
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
	if err := unpackInto(ctx, files[0], tmp); err != nil {
		return "", fmt.Errorf("%s: %w", files[0], err)
	}
	// Whoever was faster has the same content.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// unpackInto unpacks the directories, files and links of a package below dir. Nothing is
// written outside of it, whatever names and links the package has.
func unpackInto(ctx context.Context, file, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = deb.Read(ctx, file, func(h *tar.Header, content io.Reader) error {
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
