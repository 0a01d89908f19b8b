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
