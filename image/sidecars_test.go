// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScriptGivesQEMUTheMachine(t *testing.T) {
	dir := project(t, strings.Replace(simple, "[kernel]", "[image]\ncmdline = 'a=$HOME b;c'\n[kernel]", 1))
	b := mustBuild(t, dir, "out")
	qemu := filepath.Join(dir, "qemu")
	if err := os.WriteFile(qemu, []byte("#!/bin/sh\npwd\nfor a; do printf '%s\\n' \"$a\"; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(b.Dir, ScriptFile), "-S", "two words")
	cmd.Env = append(os.Environ(), "QEMU="+qemu, "ACCEL=kvm")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if got[0] != b.Dir {
		t.Errorf("QEMU runs in %s, want %s", got[0], b.Dir)
	}
	after := func(flag string) string {
		for i, a := range got {
			if a == flag {
				return got[i+1]
			}
		}
		return ""
	}
	for flag, want := range map[string]string{
		"-kernel": "vmlinuz",
		"-initrd": "initramfs.cpio.zst",
		"-append": "console=ttyS0 panic=-1 quiet module.sig_enforce=1 a=$HOME b;c",
		"-accel":  "kvm",
		"-netdev": "user,id=nd-direct-net0",
		"-S":      "two words",
	} {
		if after(flag) != want {
			t.Errorf("%s is followed by %q, want %q", flag, after(flag), want)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"plain-word_1.2,x=/y": "plain-word_1.2,x=/y",
		"":                    "''",
		"two words":           "'two words'",
		"it's":                `'it'\''s'`,
		"$x `y`":              "'$x `y`'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestXLConfig(t *testing.T) {
	b := mustBuild(t, project(t, simple), "out")
	text, err := os.ReadFile(filepath.Join(b.Dir, "app.xl.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	want := map[string]string{
		"name": `"app"`, "type": `"hvm"`, "kernel": `"vmlinuz"`, "ramdisk": `"initramfs.cpio.zst"`,
		"cmdline": `"console=ttyS0 panic=-1 quiet module.sig_enforce=1 xen_nopv"`, "memory": "256", "vcpus": "1", "serial": `"pty"`,
		"vga": `"none"`, "vnc": "0",
		"device_model_args_hvm": `[ "-device", "virtio-serial-pci,id=ctl0,addr=0x7", ` +
			`"-chardev", "socket,id=ctl,server=on,wait=off,path=` + XenCtl("app") + `", ` +
			`"-device", "virtserialport,bus=ctl0.0,nr=1,chardev=ctl,name=org.umbra.ctl" ]`,
		"on_reboot": `"restart"`, "on_crash": `"destroy"`,
	}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Errorf("xl.cfg (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(text), "xen-netfront") {
		t.Error("nothing says that the image lacks the driver of a vif")
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"e1000", "e1000e", "8139cp", "virtio_net", "tulip"}
	for _, tt := range []struct{ name, in, want string }{
		{"one letter wrong", "e1001", " (did you mean e1000?)"},
		{"one letter missing", "tulp", " (did you mean tulip?)"},
		{"dash and underscore are the same", "virtio-nett", " (did you mean virtio_net?)"},
		{"what is farther is left out", "e100", " (did you mean e1000?)"},
		{"nothing is near", "mlx5_core", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := suggest(tt.in, known); got != tt.want {
				t.Errorf("suggest(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}
