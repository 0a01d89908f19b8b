// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/init/config"
)

// These tests use Debian's kernel, which is downloaded into the user's cache
// when it is not there, and QEMU without acceleration.

func buildReal(t *testing.T, description, init string) *Bundle {
	t.Helper()
	dir := project(t, description)
	c, err := Load(filepath.Join(dir, "app.toml"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Build(t.Context(), c, filepath.Join(dir, "out"), Options{Source: "..", Init: init})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestImageBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("a VM test")
	}
	for _, compression := range []Compression{Zstd, XZ} {
		t.Run(string(compression), func(t *testing.T) {
			b := buildReal(t, `
[image]
compression = "`+string(compression)+`"
files = ["app:/bin/app"]
[drivers]
modules = ["e1000"]
`, "./image/testdata/init")
			m := b.VM()
			console := filepath.Join(b.Dir, "console")
			m.Console = machine.Chardev{Kind: machine.ToFile, Path: console}
			m.NICs = []machine.NIC{{ID: "nic0", Model: "e1000", Netdev: "user"}}
			args, err := m.Args()
			if err != nil {
				t.Fatal(err)
			}
			// The machine ends by itself; the limit is for one that hangs.
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, machine.Program, args...).CombinedOutput()
			text, readErr := os.ReadFile(console)
			if err != nil || readErr != nil {
				t.Fatalf("QEMU: %v, %s\nconsole (%v):\n%s", err, out, readErr, text)
			}
			lines := strings.ReplaceAll(string(text), "\r", "")
			for _, want := range []string{
				"reached /init\n",
				"/etc/umbra/config.json -rw-r--r--\n",
				"/sbin/shadowd -rwxr-xr-x\n",
				"/bin/app -rwxr-xr-x\n",
			} {
				if !strings.Contains(lines, want) {
					t.Errorf("the console does not say %q", want)
				}
			}
			if t.Failed() {
				t.Logf("console:\n%s", text)
			}
		})
	}
}

// The bounds are promises: what an image costs before the user's program is
// added.
func TestImageStaysSmall(t *testing.T) {
	const (
		maxInitramfs = 16 << 20 // with the drivers of every NIC of QEMU
		maxInit      = 12 << 20
	)
	b := buildReal(t, "[drivers]\nclasses = ['qemu-net']\n[[role]]\nname = 'net0'\nclass = 'net'\n", "")
	if size := b.Files[b.Initramfs].Size; size > maxInitramfs {
		t.Errorf("initramfs has %d bytes, want at most %d", size, maxInitramfs)
	}
	program := unpack(t, filepath.Join(b.Dir, b.Initramfs))["/init"]
	if size := len(program); size > maxInit {
		t.Errorf("init has %d bytes, want at most %d", size, maxInit)
	}
	f, err := elf.NewFile(bytes.NewReader([]byte(program)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("init is not static")
		}
	}
	t.Logf("initramfs %.1f MiB, init %.1f MiB", float64(b.Files[b.Initramfs].Size)/(1<<20), float64(len(program))/(1<<20))
}

// What can do harm in an image is there only if it was asked for.
func TestShellAndStatusPageAreOnlyWhereAskedFor(t *testing.T) {
	const plain = "[drivers]\nmodules = ['e1000']\n[[role]]\nname = 'net0'\nclass = 'net'\n"
	asked := []string{"/bin/bb", "/bin/sh", "/bin/gosh", "/bin/ls", "/bin/ip", "/sbin/statusd"}
	b := buildReal(t, plain, "./image/testdata/init")
	files := unpack(t, filepath.Join(b.Dir, b.Initramfs))
	for _, name := range append(asked, "/bbin/gosh", "/bbin/elvish", "/bin/busybox", "/bin/bash") {
		if _, ok := files[name]; ok {
			t.Errorf("%s is in an image without a word of it", name)
		}
	}

	b = buildReal(t, "[image]\ndebug = true\n"+plain+"[status]\nrole = 'net0'\n", "./image/testdata/init")
	files = unpack(t, filepath.Join(b.Dir, b.Initramfs))
	for _, name := range []string{"/bin/bb", "/sbin/statusd"} {
		if !strings.HasPrefix(files[name], "\x7fELF") {
			t.Errorf("%s is no program", name)
		}
	}
	for link, want := range map[string]string{"/bin/sh": "gosh", "/bin/gosh": "bb", "/bin/ls": "bb", "/bin/ip": "bb"} {
		if files[link] != want {
			t.Errorf("%s leads to %q, want %q", link, files[link], want)
		}
	}
	if !strings.Contains(files[config.Path], `"role": "net0"`) {
		t.Errorf("init is not told of the page:\n%s", files[config.Path])
	}
	t.Logf("the status page's program %.1f MiB", float64(len(files["/sbin/statusd"]))/(1<<20))
}
