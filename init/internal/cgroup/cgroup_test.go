// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// files stand in for those that the kernel makes: what is written last is in them.
func files(t *testing.T, names ...string) (root string) {
	t.Helper()
	root = t.TempDir()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    Limits
		want []setting
	}{
		{"no limit sets nothing", Limits{}, nil},
		{"memory is in bytes, and all of the group goes", Limits{Memory: 1 << 20},
			[]setting{{"memory", "memory.max", "1048576"}, {"memory", "memory.oom.group", "1"}}},
		{"a processor and a half", Limits{CPUPercent: 150}, []setting{{"cpu", "cpu.max", "150000 100000"}}},
		{"one percent", Limits{CPUPercent: 1}, []setting{{"cpu", "cpu.max", "1000 100000"}}},
		{"weight and processes", Limits{CPUWeight: 50, PIDs: 7}, []setting{{"cpu", "cpu.weight", "50"}, {"pids", "pids.max", "7"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.l.settings(), cmp.AllowUnexported(setting{})); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMakeSwitchesControllersOnFromTheRoot(t *testing.T) {
	root := files(t, "cgroup.subtree_control", "services/cgroup.subtree_control", "services/app/pids.max")
	if _, err := NewTree(root, "services").Make("app", Limits{PIDs: 7}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"cgroup.subtree_control": "+pids", "services/cgroup.subtree_control": "+pids", "services/app/pids.max": "7",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestALimitThatTheKernelDoesNotHaveIsAnError(t *testing.T) {
	root := files(t, "cgroup.subtree_control", "services/cgroup.subtree_control")
	tree := NewTree(root, "services")
	if _, err := tree.Make("app", Limits{}); err != nil {
		t.Errorf("without limits: %v", err)
	}
	if _, err := tree.Make("app", Limits{PIDs: 7}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that there is no pids.max", err)
	}
}

func TestOOMKills(t *testing.T) {
	root := files(t, "services/app/x")
	g, err := NewTree(root, "services").Make("app", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Errorf("%d, %v of a group without a limit", n, err)
	}
	for text, want := range map[string]int{"low 0\nmax 5\noom 2\noom_kill 3\noom_group_kill 1\n": 3, "oom_kill 0\n": 0} {
		if n, err := oomKills(text); n != want || err != nil {
			t.Errorf("%d, %v of %q", n, err, text)
		}
	}
	for _, text := range []string{"", "oom 2\n", "oom_kill x\n"} {
		if n, err := oomKills(text); err == nil {
			t.Errorf("%d of %q", n, text)
		}
	}
}
