// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// indexed returns a directory with the modules of dir and their index: dir
// itself if depmod(8) has been there, else one of links to it in the cache.
func indexed(ctx context.Context, dir string, opts Options) (string, error) {
	if _, err := os.Stat(filepath.Join(dir, "modules.dep")); err == nil {
		return dir, nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	key, err := fingerprint(dir)
	if err != nil {
		return "", fmt.Errorf("modules %s: %w", dir, err)
	}
	cached := filepath.Join(opts.CacheDir, "modules", key)
	if _, err := os.Stat(cached); err == nil {
		return cached, nil
	}
	opts.Progress("indexing the modules in " + dir)
	err = install(cached, func(tmp string) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() == "build" || e.Name() == "source" {
				continue // links into a kernel's source
			}
			if err := os.Symlink(filepath.Join(dir, e.Name()), filepath.Join(tmp, e.Name())); err != nil {
				return err
			}
		}
		return WriteIndex(ctx, dir, tmp)
	})
	if err != nil {
		return "", fmt.Errorf("modules %s: %w", dir, err)
	}
	return cached, nil
}

// fingerprint identifies the content of a directory by names, sizes and times.
func fingerprint(dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, dir)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(h, name, info.Size(), info.ModTime().UnixNano())
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

func WriteIndex(ctx context.Context, from, dir string) error {
	b, _ := os.MkdirTemp("", "x")
	defer os.RemoveAll(b)
	os.MkdirAll(filepath.Join(b, "lib/modules"), 0o755)
	os.Symlink(dir, filepath.Join(b, "lib/modules/9.9"))
	for n := range builtinLists {
		if t, err := os.ReadFile(filepath.Join(from, n)); err == nil && n != "modules.order" {
			os.WriteFile(filepath.Join(dir, n), t, 0o644)
		}
	}
	out, err := exec.CommandContext(ctx, "depmod", "-b", b, "9.9").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w %s", err, out)
	}
	ents, _ := filepath.Glob(filepath.Join(dir, "modules.*.bin"))
	for _, e := range ents {
		os.Remove(e)
	}
	return nil
}
func checkModules(modules, release string) error { return nil }
func CopyModule(src, dst string) error {
	t, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	os.MkdirAll(filepath.Dir(dst), 0o755)
	return os.WriteFile(dst, t, 0o644)
}
