// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dom0

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/umbra-vm/umbra/image"
)

// The packages are downloaded, once: a test with a network.
func TestBuildIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	ctx := context.Background()
	src, err := image.FindSource(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	var sums [2][3][sha256.Size]byte
	for i := range sums {
		d, err := Build(ctx, Options{
			CacheDir: filepath.Join(cache, "umbra"), Source: src, Dir: t.TempDir(), Progress: func(s string) { t.Log(s) },
		})
		if err != nil {
			t.Fatal(err)
		}
		for j, file := range []string{d.Xen, d.Kernel, d.Initramfs} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sums[i][j] = sha256.Sum256(b)
		}
		if f, err := elf.Open(d.Xen); err != nil || f.Machine != elf.EM_386 {
			t.Errorf("the hypervisor is nothing that multiboot loads: %v", err)
		}
	}
	if sums[0] != sums[1] {
		t.Error("two builds differ")
	}
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libx.so.1", "bin/a", "etc/b"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("no ELF file, so that it needs nothing\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := make(tree)
	if err := all.add(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{libDir + "libc.so.6", libDir + "libx.so.1", "/usr/bin/a", "/etc/b"} {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is not in the tree: %v", name, all)
		}
	}
	over := t.TempDir()
	if err := all.replace(over); !errors.Is(err, ErrNoFile) {
		t.Errorf("an empty directory over the packages: %v", err)
	}
	if err := os.Mkdir(filepath.Join(over, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		is   error
	}{{"a", nil}, {"none", ErrNoFile}} {
		file := filepath.Join(over, "bin", tt.name)
		if err := os.WriteFile(file, []byte("no ELF file either, and longer than the header of one would be......\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := all.replace(over); !errors.Is(err, tt.is) {
			t.Errorf("%s over the packages: %v, want %v", tt.name, err, tt.is)
		}
		if tt.is == nil && all["/usr/bin/a"] != file {
			t.Errorf("%s is still %s", tt.name, all["/usr/bin/a"])
		}
	}
	if got, err := all.libraries([]string{"/usr/bin/a"}, []string{"libx.so.1"}); err != nil || len(got) != 1 || got[0] != libDir+"libx.so.1" {
		t.Errorf("libraries: %v, %v", got, err)
	}
	if _, err := all.libraries(nil, []string{"libnone.so"}); !errors.Is(err, ErrNoFile) {
		t.Errorf("a library that is nowhere: %v", err)
	}
}
