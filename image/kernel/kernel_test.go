// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kernel_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/umbra-vm/umbra/image/kernel"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
)

func writeTree(t *testing.T, dir string, files []kerneltest.File) {
	t.Helper()
	for _, f := range files {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// tree lists the files below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		names = append(names, rel)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

func TestOpenDeb(t *testing.T) {
	dir := t.TempDir()
	content := kerneltest.Deb(t, "linux-image-test", kerneltest.New())
	deb := writeFile(t, filepath.Join(dir, "k.deb"), content)
	cache := filepath.Join(dir, "cache")
	steps := 0
	opts := kernel.Options{CacheDir: cache, Progress: func(string) { steps++ }}
	k, err := kernel.Open(context.Background(), kernel.Source{Deb: deb}, opts)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	want := &kernel.Kernel{
		Release: kerneltest.Release,
		Image:   filepath.Join(cache, "kernels", sum, "vmlinuz"),
		Modules: filepath.Join(cache, "kernels", sum, "modules"),
		Origin:  kernel.Origin{Package: "linux-image-test", Version: "1.2-3", SHA256: sum},
	}
	if diff := cmp.Diff(want, k); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
	for _, name := range tree(t, k.Modules) {
		if !strings.HasSuffix(name, ".ko") && name != "modules.builtin" && name != "modules.order" {
			t.Errorf("unpacked what is of no use: %s", name)
		}
	}
	again, err := kernel.Open(context.Background(), kernel.Source{Deb: deb}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(k, again); diff != "" {
		t.Errorf("from the cache (-first +second):\n%s", diff)
	}
	if steps != 1 {
		t.Errorf("unpacked %d times, want once", steps)
	}
}

func TestOpenDebRefuses(t *testing.T) {
	good := kerneltest.Deb(t, "linux-image-test", kerneltest.New())
	without := func(part string) []byte {
		files := slices.DeleteFunc(kerneltest.New(), func(f kerneltest.File) bool { return strings.Contains(f.Name, part) })
		return kerneltest.Deb(t, "linux-image-test", files)
	}
	with := func(more ...kerneltest.File) []byte {
		return kerneltest.Deb(t, "linux-image-test", append(kerneltest.New(), more...))
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)*3/4] ^= 0x40
	for _, tt := range []struct {
		name string
		deb  []byte
		want error
		says string
	}{
		{"an empty file", nil, kernel.ErrBroken, ""},
		{"what is no package at all", []byte("<html>404 not found</html>"), kernel.ErrBroken, ""},
		{"a package cut off in its data", good[:len(good)-500], kernel.ErrBroken, "cut off: data.tar.gz"},
		{"a member of negative size", bytes.Replace(good, []byte("4         `"), []byte("-60       `"), 1), kernel.ErrBroken, "no size"},
		{"a package cut off in its control part", good[:150], kernel.ErrBroken, ""},
		{"a package with a flipped bit", flipped, kernel.ErrBroken, ""},
		{"a package without a kernel", without("vmlinuz"), kernel.ErrBroken, "no kernel"},
		{"a package without modules", without("/modules/"), kernel.ErrBroken, "no modules"},
		{"a package with two kernels", with(kerneltest.File{Name: "./boot/vmlinuz-2", Content: kerneltest.BzImage("2")}), kernel.ErrBroken, "two kernels"},
		{"modules of two kernels", with(kerneltest.File{Name: "./lib/modules/2/a.ko"}), kernel.ErrBroken, "two kernels"},
		{"a module that is none", kerneltest.Deb(t, "x", []kerneltest.File{
			{Name: "./boot/vmlinuz-a", Content: kerneltest.BzImage("a")},
			{Name: "./lib/modules/a/kernel/m.ko", Content: []byte("x")},
		}), kernel.ErrBroken, "m.ko"},
		{"modules for another kernel", kerneltest.Deb(t, "x", []kerneltest.File{
			{Name: "./boot/vmlinuz-a", Content: kerneltest.BzImage("a")},
			{Name: "./lib/modules/b/kernel/m.ko", Content: kerneltest.Module("b", "name=m")},
		}), kernel.ErrMismatch, "kernel is a"},
		{"a kernel that is no bzImage", kerneltest.Deb(t, "x", []kerneltest.File{
			{Name: "./boot/vmlinuz-a", Content: []byte("x")},
			{Name: "./lib/modules/a/kernel/m.ko", Content: kerneltest.Module("a", "name=m")},
		}), kernel.ErrBroken, "not a bzImage"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			deb := writeFile(t, filepath.Join(dir, "k.deb"), tt.deb)
			cache := filepath.Join(dir, "cache")
			k, err := kernel.Open(context.Background(), kernel.Source{Deb: deb}, kernel.Options{CacheDir: cache})
			if !errors.Is(err, tt.want) {
				t.Fatalf("kernel %v, error %v; want error %v", k, err, tt.want)
			}
			if !strings.Contains(err.Error(), deb) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q does not name the file and say %q", err, tt.says)
			}
			if left := tree(t, cache); len(left) > 0 {
				t.Errorf("left behind in the cache: %q", left)
			}
		})
	}
}

func TestOpenDebIgnoresPathsOutsideItsPlace(t *testing.T) {
	dir := t.TempDir()
	deb := writeFile(t, filepath.Join(dir, "k.deb"), kerneltest.Deb(t, "x", append(kerneltest.New(),
		kerneltest.File{Name: "./lib/modules/" + kerneltest.Release + "/../../../../../../evil.ko", Content: []byte("x")},
		kerneltest.File{Name: "/lib/modules/../evil.ko", Content: []byte("x")})))
	cache := filepath.Join(dir, "a", "b", "c")
	if _, err := kernel.Open(context.Background(), kernel.Source{Deb: deb}, kernel.Options{CacheDir: cache}); err != nil {
		t.Fatal(err)
	}
	for _, name := range tree(t, dir) {
		if strings.Contains(name, "evil") {
			t.Errorf("wrote %s", name)
		}
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	deb := writeFile(t, filepath.Join(dir, "k.deb"), kerneltest.Deb(t, "x", kerneltest.New()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := kernel.Open(ctx, kernel.Source{Deb: deb}, kernel.Options{CacheDir: filepath.Join(dir, "cache")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// files lays a kernel out as it is on an installed system.
func files(t *testing.T) (vmlinuz, modules string) {
	dir := t.TempDir()
	writeTree(t, dir, kerneltest.New())
	return filepath.Join(dir, "boot", "vmlinuz-"+kerneltest.Release), filepath.Join(dir, "lib/modules", kerneltest.Release)
}

func TestOpenFiles(t *testing.T) {
	vmlinuz, modules := files(t)
	k, err := kernel.Open(context.Background(), kernel.Source{Vmlinuz: vmlinuz, Modules: modules}, kernel.Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != kerneltest.Release || k.Image != vmlinuz || k.Modules != modules || k.Origin.SHA256 == "" {
		t.Errorf("got %+v", k)
	}
}

func TestOpenFilesRefuses(t *testing.T) {
	vmlinuz, modules := files(t)
	empty := t.TempDir()
	text := writeFile(t, filepath.Join(empty, "text"), []byte(strings.Repeat("no kernel ", 100)))
	other := writeFile(t, filepath.Join(empty, "other"), kerneltest.BzImage("5.10.0"))
	for _, tt := range []struct {
		name string
		src  kernel.Source
		want error
	}{
		{"nothing named", kernel.Source{}, kernel.ErrNoKernel},
		{"a package file that is not there", kernel.Source{Deb: filepath.Join(empty, "none.deb")}, kernel.ErrNoKernel},
		{"a kernel that is not there", kernel.Source{Vmlinuz: filepath.Join(empty, "none"), Modules: modules}, kernel.ErrNoKernel},
		{"modules that are not there", kernel.Source{Vmlinuz: vmlinuz, Modules: filepath.Join(empty, "none")}, kernel.ErrNoKernel},
		{"a directory without modules", kernel.Source{Vmlinuz: vmlinuz, Modules: t.TempDir()}, kernel.ErrNoKernel},
		{"a kernel that is a text", kernel.Source{Vmlinuz: text, Modules: modules}, kernel.ErrBroken},
		{"modules of another kernel", kernel.Source{Vmlinuz: other, Modules: modules}, kernel.ErrMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := kernel.Open(context.Background(), tt.src, kernel.Options{CacheDir: t.TempDir()})
			if !errors.Is(err, tt.want) {
				t.Errorf("kernel %v, error %v; want error %v", k, err, tt.want)
			}
		})
	}
}

func TestCopyModulesUnpacks(t *testing.T) {
	vmlinuz, modules := files(t)
	plain := kerneltest.Module(kerneltest.Release, "name=packed")
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(modules, "kernel", "packed.ko.zst"), enc.EncodeAll(plain, nil))
	k, err := kernel.Open(context.Background(), kernel.Source{Vmlinuz: vmlinuz, Modules: modules}, kernel.Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := k.CopyModules(dir, []string{"kernel/packed.ko.zst", "kernel/drivers/net/tun.ko"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"kernel/drivers/net/tun.ko", "kernel/packed.ko", "modules.builtin", "modules.order"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("copied (-want +got):\n%s", diff)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "kernel/packed.ko")); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unpacked module is not what was packed (%v)", err)
	}
}

// fakeApt puts an apt in front of PATH that knows the metapackage
// linux-image-test and the package it depends on, whose .deb it delivers.
func fakeApt(t *testing.T, deb []byte, sum string) {
	t.Helper()
	bin := t.TempDir()
	source := writeFile(t, filepath.Join(bin, "source"), deb)
	for name, script := range map[string]string{
		"apt-cache": `case "$3" in
linux-image-test) printf 'Package: linux-image-test\nVersion: 9\nDepends: linux-image-6.1.0-test (= 1.2-3)\nFilename: pool/meta.deb\nSHA256: 00\n' ;;
linux-image-6.1.0-test) printf 'Package: linux-image-6.1.0-test\nVersion: 1.2-3\nDepends: kmod, linux-base\nFilename: pool/linux-image-6.1.0-test_1.2-3_amd64.deb\nSHA256: ` + sum + `\n\nPackage: linux-image-6.1.0-test\nVersion: 0.9\n' ;;
*) echo 'E: No packages found' >&2; exit 100 ;;
esac`,
		"apt-get": `for last; do :; done
[ "$last" = linux-image-6.1.0-test=1.2-3 ] || { echo "E: asked for $last" >&2; exit 100; }
cp '` + source + `' linux-image-6.1.0-test_1.2-3_amd64.deb`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

func TestOpenPackage(t *testing.T) {
	deb := kerneltest.Deb(t, "linux-image-6.1.0-test", kerneltest.New())
	fakeApt(t, deb, fmt.Sprintf("%x", sha256.Sum256(deb)))
	var steps []string
	opts := kernel.Options{CacheDir: t.TempDir(), Progress: func(s string) { steps = append(steps, s) }}
	for range 2 {
		k, err := kernel.Open(context.Background(), kernel.Source{Package: "linux-image-test"}, opts)
		if err != nil {
			t.Fatal(err)
		}
		if k.Release != kerneltest.Release || k.Origin.Package != "linux-image-6.1.0-test" {
			t.Errorf("got %+v", k)
		}
	}
	want := []string{"downloading linux-image-6.1.0-test_1.2-3_amd64.deb", "unpacking linux-image-6.1.0-test_1.2-3_amd64.deb"}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("what was done in two calls (-want +got):\n%s", diff)
	}
}

func TestOpenPackageRefuses(t *testing.T) {
	deb := kerneltest.Deb(t, "linux-image-6.1.0-test", kerneltest.New())
	for _, tt := range []struct {
		name, pkg, sum string
		want           error
	}{
		{"a package apt does not know", "linux-image-none", "", kernel.ErrNoKernel},
		{"a name that would be an option", "-o=x", "", kernel.ErrNoKernel},
		{"a download that is not what apt promised", "linux-image-test", strings.Repeat("0", 64), kernel.ErrBroken},
		{"a package without a hash", "linux-image-test", "", kernel.ErrNoKernel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakeApt(t, deb, tt.sum)
			cache := t.TempDir()
			k, err := kernel.Open(context.Background(), kernel.Source{Package: tt.pkg}, kernel.Options{CacheDir: cache})
			if !errors.Is(err, tt.want) {
				t.Errorf("kernel %v, error %v; want error %v", k, err, tt.want)
			}
			if left := tree(t, cache); len(left) > 0 {
				t.Errorf("left behind in the cache: %q", left)
			}
		})
	}
	t.Run("a machine without apt", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := kernel.Open(context.Background(), kernel.Source{Package: "linux-image-test"}, kernel.Options{CacheDir: t.TempDir()})
		if !errors.Is(err, kernel.ErrNoKernel) || !strings.Contains(err.Error(), "apt-cache is not installed") {
			t.Errorf("error %v", err)
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add(kerneltest.BzImage("6.1.0-56-amd64"))
	f.Add([]byte("MZ"))
	f.Add(make([]byte, 0x210))
	f.Fuzz(func(t *testing.T, image []byte) {
		name := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), image)
		release, err := kernel.Release(name)
		if err != nil && !errors.Is(err, kernel.ErrBroken) {
			t.Fatalf("error %v is not ErrBroken", err)
		}
		if err == nil && (release == "" || strings.ContainsAny(release, "/ \n\x00")) {
			t.Fatalf("release %q", release)
		}
	})
}

func FuzzOpenDeb(f *testing.F) {
	f.Add(kerneltest.Deb(f, "linux-image-test", kerneltest.New()[:3]))
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		deb := writeFile(t, filepath.Join(dir, "k.deb"), content)
		cache := filepath.Join(dir, "cache")
		_, err := kernel.Open(context.Background(), kernel.Source{Deb: deb}, kernel.Options{CacheDir: cache})
		if err != nil && len(tree(t, cache)) > 0 {
			t.Fatalf("failed with %v and left files behind", err)
		}
	})
}

func TestBuilt(t *testing.T) {
	for _, tt := range []struct{ name, version, want string }{
		{"Debian's have a day", "6.1.0-56-amd64 (x@y) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)", "2026-11-16"},
		{"others have none", "6.1.0", ""},
		{"a day that is none", "6.1.0 (2026-99-16)", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "vmlinuz")
			if err := os.WriteFile(name, kerneltest.BzImage(tt.version), 0o644); err != nil {
				t.Fatal(err)
			}
			day, ok := kernel.Built(name)
			if ok != (tt.want != "") || ok && day.Format(time.DateOnly) != tt.want {
				t.Errorf("%v, %t", day, ok)
			}
		})
	}
	if _, ok := kernel.Built(filepath.Join(t.TempDir(), "none")); ok {
		t.Error("a file that is not there has a day")
	}
}
