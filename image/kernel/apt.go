// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/umbra-vm/umbra/image/debian"
)

// openPackage finds the package by name with apt, which also says what its hash
// has to be, and unpacks it. Nothing is downloaded that was unpacked before.
func openPackage(ctx context.Context, name string, opts Options) (*Kernel, error) {
	p, err := resolve(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kernel package %s: %w", name, err)
	}
	if k, err := readCached(kernelDir(opts.CacheDir, p.SHA256)); err == nil {
		return k, nil
	}
	file, err := debian.Download(ctx, p, filepath.Join(opts.CacheDir, "packages"), opts.Progress)
	if err != nil {
		return nil, fmt.Errorf("kernel package %s: %w", name, ours(err))
	}
	return openDeb(ctx, file, opts)
}

// ours makes an error about a package one about a kernel.
func ours(err error) error {
	if errors.Is(err, debian.ErrUnknown) {
		return fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	return err
}

// A metapackage depends on the kernel it stands for; a kernel depends on
// tools. Debian's and Ubuntu's names are covered.
var kernelDep = regexp.MustCompile(`(?:^|, )(linux-image-[0-9][^ ,]*)`)

// resolve asks apt for the package and follows a metapackage.
func resolve(ctx context.Context, name string) (debian.Package, error) {
	const maxHops = 3 // linux-image-amd64 needs one, Ubuntu's linux-generic two
	for range maxHops {
		p, err := debian.Find(ctx, name)
		if err != nil {
			return debian.Package{}, ours(err)
		}
		m := kernelDep.FindStringSubmatch(p.Depends)
		if m == nil {
			return p, ours(p.Check())
		}
		name = m[1]
	}
	return debian.Package{}, fmt.Errorf("%w: metapackages lead to %s and further", ErrNoKernel, name)
}
