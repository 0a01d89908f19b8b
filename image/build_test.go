// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	"github.com/umbra-vm/umbra/image/kernel/kerneltest"
	"github.com/umbra-vm/umbra/init/config"
)

// project is a directory with a description, a kernel package and a program.
func project(t *testing.T, description string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"app.toml":  []byte(description),
		"linux.deb": kerneltest.Deb(t, "linux-image-test", kerneltest.New()),
		"app":       kerneltest.Module("", "a static ELF file, as far as anybody looks"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

const simple = `[kernel]
deb = "linux.deb"
[drivers]
modules = ["e1000", "virtio-net"]
[[role]]
name = "net0"
class = "net"
[[service]]
name = "app"
exec = ["/bin/app"]
files = ["app:/bin/"]
needs = ["net0"]
`

// build builds dir/app.toml with a trivial init into dir/out.
func build(t *testing.T, dir, out string) (*Bundle, error) {
	t.Helper()
	c, err := Load(filepath.Join(dir, "app.toml"))
	if err != nil {
		return nil, err
	}
	return Build(context.Background(), c, filepath.Join(dir, out), Options{
		CacheDir: filepath.Join(dir, "cache"), Source: "..", Init: "./image/testdata/init",
	})
}

func mustBuild(t *testing.T, dir, out string) *Bundle {
	t.Helper()
	b, err := build(t, dir, out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpack returns the content of an initramfs by path.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	archive, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	err = cpio.ForEachRecord(&cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(archive))}, func(r cpio.Record) error {
		var content []byte
		if r.FileSize > 0 {
			content = make([]byte, r.FileSize)
			if _, err := r.ReadAt(content, 0); err != nil && err != io.EOF {
				return err
			}
		}
		files["/"+r.Name] = string(content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What a guest can be told at deploy time needs modules, and defaults that wait for it.
func TestBuildForDeployTime(t *testing.T) {
	dir := project(t, `[kernel]
deb = "linux.deb"
[drivers]
classes = ["config-drive"]
[[role]]
name = "net0"
class = "net"
[[role.vlan]]
id = 5
`)
	b := mustBuild(t, dir, "out")
	files := unpack(t, filepath.Join(dir, "out", b.Initramfs))
	guest, err := config.Load(strings.NewReader(files[config.Path]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"virtio_pci", "isofs", "vfat"}, guest.Drive); diff != "" {
		t.Errorf("modules of a drive that the kernel has (-want +got):\n%s", diff)
	}
	if !slices.Contains(guest.Modules, "8021q") {
		t.Errorf("modules %q are not enough for a VLAN", guest.Modules)
	}
	if _, ok := files["/lib/modules/"+kerneltest.Release+"/kernel/fs/isofs/isofs.ko"]; !ok {
		t.Error("isofs is not in the image")
	}
	if strings.Contains(files[config.Path], "dhcp") {
		t.Error("a default is written down: a document that says static would meet it")
	}
}

func TestBuild(t *testing.T) {
	dir := project(t, simple)
	b := mustBuild(t, dir, "out")
	files := unpack(t, filepath.Join(dir, "out", b.Initramfs))

	for _, link := range []string{"/sbin/shadowd", "/sbin/netcfgd", "/bin/shadowctl"} {
		if files[link] != "/init" {
			t.Errorf("%s leads to %q, want /init", link, files[link])
		}
	}
	if !strings.HasPrefix(files["/init"], "\x7fELF") || !strings.HasPrefix(files["/bin/app"], "\x7fELF") {
		t.Error("/init or /bin/app is not a program")
	}
	guest, err := config.Load(strings.NewReader(files[config.Path]))
	if err != nil {
		t.Fatalf("the guest refuses its configuration: %v", err)
	}
	if diff := cmp.Diff([]string{"virtio_pci", "virtio_console", "bonding", "tun", "sch_plug"}, guest.Modules); diff != "" {
		t.Errorf("modules at boot (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"e1000", "virtio_net"}, guest.Prefetch); diff != "" {
		t.Errorf("prefetched (-want +got):\n%s", diff)
	}
	modules := "/lib/modules/" + kerneltest.Release + "/"
	for name, want := range map[string]bool{
		"kernel/drivers/net/ethernet/intel/e1000/e1000.ko": true,
		"kernel/drivers/net/virtio_net.ko":                 true,
		"kernel/net/core/failover.ko":                      true, // needed by net_failover, needed by virtio_net
		"kernel/net/tls/tls.ko":                            true, // needed by bonding
		"kernel/drivers/firmware/qemu_fw_cfg.ko":           true, // for configuration at deploy time
		"kernel/fs/isofs/isofs.ko":                         false,
		"kernel/sound/beep.ko":                             false,
		"modules.dep":                                      true,
		"modules.alias":                                    true,
		"modules.builtin":                                  true,
	} {
		if _, ok := files[modules+name]; ok != want {
			t.Errorf("%s in the image: %t, want %t", name, ok, want)
		}
	}
	if !strings.Contains(files[modules+"modules.alias"], " e1000\n") || strings.Contains(files[modules+"modules.dep"], "beep") {
		t.Error("the index is not that of the modules in the image")
	}
	names, err := os.ReadDir(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range names {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff([]string{"app.libvirt.xml", "app.pv.xl.cfg", "app.pvh.xl.cfg", "app.spdx.json", "app.xl.cfg", "initramfs.cpio.zst", "manifest.json", "run-qemu.sh", "vmlinuz"}, got); diff != "" {
		t.Errorf("bundle (-want +got):\n%s", diff)
	}
	again, err := Open(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, again); diff != "" {
		t.Errorf("manifest read back (-built +read):\n%s", diff)
	}
}

func TestBuildTwiceGivesTheSameBytes(t *testing.T) {
	first := project(t, simple)
	second := project(t, simple)
	b := mustBuild(t, first, "out")
	mustBuild(t, second, "another/place")
	mustBuild(t, first, "out") // over an earlier build
	for _, name := range b.names() {
		x, err := os.ReadFile(filepath.Join(first, "out", name))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(second, "another/place", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("%s differs", name)
		}
		if bytes.Contains(x, []byte(first)) {
			t.Errorf("%s holds a path of the builder's machine", name)
		}
	}
}

func TestBuildNeedsOnlyTheUsersProgramToChangeTheImage(t *testing.T) {
	dir := project(t, simple)
	before := mustBuild(t, dir, "out").Files
	if err := os.WriteFile(filepath.Join(dir, "app"), kerneltest.Module("", "another program"), 0o755); err != nil {
		t.Fatal(err)
	}
	after := mustBuild(t, dir, "out").Files
	if before[KernelFile] != after[KernelFile] || before[ScriptFile] != after[ScriptFile] {
		t.Error("kernel or script changed")
	}
	if before["initramfs.cpio.zst"] == after["initramfs.cpio.zst"] {
		t.Error("the new program is not in the image")
	}
}

func TestBuildRefuses(t *testing.T) {
	edit := func(old, new string) string {
		if !strings.Contains(simple, old) {
			t.Fatalf("no %q in the description", old)
		}
		return strings.Replace(simple, old, new, 1)
	}
	for _, tt := range []struct {
		name, description string
		spoil             func(dir string) error
		want              []string
	}{
		{"a module the kernel has not, with a hint", edit(`"e1000"`, `"e1001"`), nil,
			[]string{`app.toml:4: drivers.modules[0]: "e1001": no such module in kernel 6.1.0-test (did you mean e1000?)`}},
		{"a class whose modules the kernel has not", edit(`modules = ["e1000", "virtio-net"]`, `classes = ["qemu-net"]`), nil,
			[]string{`app.toml:4: drivers.classes[0]: "8139cp": no such module`}},
		{"a kernel package that is not there", edit("linux.deb", "none.deb"), nil,
			[]string{"app.toml:2: kernel.deb: no such kernel", "none.deb"}},
		{"a kernel package that is broken", simple, func(dir string) error { return os.Truncate(filepath.Join(dir, "linux.deb"), 900) },
			[]string{"app.toml:2: kernel.deb: ", "linux.deb: broken package: cut off"}},
		{"a program that is not there", simple, func(dir string) error { return os.Remove(filepath.Join(dir, "app")) },
			[]string{"app.toml:11: service[0].files[0]: "}},
		{"a program that is not executable", simple, func(dir string) error { return os.Chmod(filepath.Join(dir, "app"), 0o644) },
			[]string{"app.toml:10: service[0].exec: /bin/app: ", "not executable"}},
		{"a program whose interpreter is not in the image", simple, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "app"), []byte("#!/usr/bin/python3 -u\n"), 0o755)
		}, []string{"app.toml:10: service[0].exec: /bin/app needs /usr/bin/python3"}},
		{"a program that is none", simple, func(dir string) error { return os.WriteFile(filepath.Join(dir, "app"), []byte("text"), 0o755) },
			[]string{"app.toml:10: service[0].exec: /bin/app: neither a program nor a script"}},
		{"a service that starts what is not in the image", edit(`"/bin/app"]`, `"/bin/ap"]`), nil,
			[]string{"app.toml:10: service[0].exec: /bin/ap is not in the image"}},
		{"a file in place of one of ours", edit("app:/bin/", "app:/init"), nil,
			[]string{"app.toml:11: service[0].files[0]: ", "/init"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := project(t, tt.description)
			if tt.spoil != nil {
				if err := tt.spoil(dir); err != nil {
					t.Fatal(err)
				}
			}
			_, err := build(t, dir, "out")
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("error %v, want ErrConfig", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q\ndoes not say %q", err, want)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

func TestAFailedBuildLeavesTheEarlierOne(t *testing.T) {
	dir := project(t, simple)
	mustBuild(t, dir, "out")
	list := func() (state []string) {
		entries, err := os.ReadDir(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			state = append(state, fmt.Sprint(e.Name(), info.Size(), info.ModTime()))
		}
		return state
	}
	before := list()
	if err := os.Remove(filepath.Join(dir, "app")); err != nil {
		t.Fatal(err)
	}
	if _, err := build(t, dir, "out"); err == nil {
		t.Fatal("built without the program")
	}
	if diff := cmp.Diff(before, list()); diff != "" {
		t.Errorf("output directory (-before +after):\n%s", diff)
	}
}

func TestBuildWithAnInitThatDoesNotCompile(t *testing.T) {
	dir := project(t, simple)
	c, err := Load(filepath.Join(dir, "app.toml"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Build(context.Background(), c, filepath.Join(dir, "out"), Options{
		CacheDir: filepath.Join(dir, "cache"), Source: "..", Init: "./image/testdata/nothing",
	})
	if err == nil || !strings.Contains(err.Error(), "build ./image/testdata/nothing: go build") {
		t.Errorf("error %v", err)
	}
}

func TestClassNetSweepsPCIDrivers(t *testing.T) {
	b := mustBuild(t, project(t, strings.Replace(simple, `modules = ["e1000", "virtio-net"]`, `classes = ["net"]`, 1)), "out")
	if !slices.Contains(b.Modules, "e1000") {
		t.Error("no e1000")
	}
	for _, name := range []string{"soc_nic", "virtio_net"} {
		if slices.Contains(b.Modules, name) {
			t.Errorf("%s is in the image, which is no PCI Ethernet driver", name)
		}
	}
	if len(b.Prefetch) != 0 {
		t.Errorf("a sweep is prefetched: %q", b.Prefetch)
	}
}

func TestModulesThatNoDeviceAsksForAreLoadedAtBoot(t *testing.T) {
	b := mustBuild(t, project(t, strings.Replace(simple, `"virtio-net"`, `"8021q", "tun", "8021q"`, 1)), "out")
	if diff := cmp.Diff([]string{"virtio_pci", "virtio_console", "bonding", "tun", "sch_plug", "8021q"}, b.Boot); diff != "" {
		t.Errorf("at boot (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"e1000"}, b.Prefetch); diff != "" {
		t.Errorf("prefetched (-want +got):\n%s", diff)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(dir string, m *Manifest) error
	}{
		{"an empty directory", func(dir string, _ *Manifest) error { return os.Remove(filepath.Join(dir, ManifestFile)) }},
		{"an image without kernel", func(dir string, _ *Manifest) error { return os.Remove(filepath.Join(dir, KernelFile)) }},
		{"an initramfs cut short", func(dir string, m *Manifest) error { return os.Truncate(filepath.Join(dir, m.Initramfs), 100) }},
		{"a manifest that is none", func(dir string, _ *Manifest) error {
			return os.WriteFile(filepath.Join(dir, ManifestFile), []byte("{"), 0o644)
		}},
		{"a manifest that names a file elsewhere", func(dir string, m *Manifest) error {
			m.Files["../x"] = FileManifest{}
			text, err := json.Marshal(m)
			return errors.Join(err, os.WriteFile(filepath.Join(dir, ManifestFile), text, 0o644))
		}},
		{"a manifest that names no initramfs", func(dir string, m *Manifest) error {
			m.Initramfs = "other"
			text, err := json.Marshal(m)
			return errors.Join(err, os.WriteFile(filepath.Join(dir, ManifestFile), text, 0o644))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, project(t, simple), "out")
			if err := tt.spoil(b.Dir, &b.Manifest); err != nil {
				t.Fatal(err)
			}
			if got, err := Open(b.Dir); !errors.Is(err, ErrNoBundle) {
				t.Errorf("opened %+v, error %v; want ErrNoBundle", got, err)
			}
		})
	}
}

func TestFindSource(t *testing.T) {
	given, err := FindSource(context.Background(), "..")
	if err != nil {
		t.Fatal(err)
	}
	found, err := FindSource(context.Background(), "") // the tests run in the module
	if err != nil {
		t.Fatal(err)
	}
	if given != found {
		t.Errorf("given %s, found %s", given, found)
	}
	if _, err := FindSource(context.Background(), t.TempDir()); !errors.Is(err, ErrNoSource) {
		t.Errorf("a directory without go.mod: %v, want ErrNoSource", err)
	}
	t.Chdir(t.TempDir())
	if dir, err := FindSource(context.Background(), ""); err != nil || dir != found {
		t.Errorf("from elsewhere: %s, %v; want where this was compiled", dir, err)
	}
}
