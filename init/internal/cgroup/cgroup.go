// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package cgroup keeps a service and all its children together, within limits, by the
// kernel's control groups (Documentation/admin-guide/cgroup-v2.rst).
//
// What it does are a few writes to a few files; container runtimes' libraries for the
// same are larger than PID 1. It must never know what runs in a group.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Root is where the hierarchy is mounted.
const Root = "/sys/fs/cgroup"

// Limits of a group. Zero is no limit.
type Limits struct {
	Memory     int64 // bytes
	CPUPercent int   // of one processor
	CPUWeight  int   // 1 to 10000; a group without has 100
	PIDs       int   // processes and threads
}

// A Tree is a group whose children are the groups of services. Processes are in it only
// by being in a child.
type Tree struct{ root, dir string }

// NewTree returns the tree of that name below root.
func NewTree(root, name string) *Tree { return &Tree{root, filepath.Join(root, name)} }

// A Group is one service's.
type Group struct{ dir string }

// cpuPeriod is the kernel's default, in microseconds.
const cpuPeriod = 100_000

// Make makes the group of that name, unless it is there, and sets its limits. A
// controller costs all services a little, and is switched on by the first that has a
// limit for it.
func (t *Tree) Make(name string, l Limits) (*Group, error) {
	g := &Group{filepath.Join(t.dir, name)}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	for _, s := range l.settings() {
		for _, dir := range []string{t.root, t.dir} {
			if err := write(dir, "cgroup.subtree_control", "+"+s.controller); err != nil {
				return nil, fmt.Errorf("control group: controller %s: %w", s.controller, err)
			}
		}
		if err := write(g.dir, s.file, s.value); err != nil {
			return nil, fmt.Errorf("control group: %w", err)
		}
	}
	return g, nil
}

// A setting is what is written to a file of a group.
type setting struct{ controller, file, value string }

func (l Limits) settings() []setting {
	var s []setting
	if l.Memory > 0 {
		s = append(s, setting{"memory", "memory.max", strconv.FormatInt(l.Memory, 10)},
			// Half a service would be nobody's to start again.
			setting{"memory", "memory.oom.group", "1"})
	}
	if l.CPUPercent > 0 {
		s = append(s, setting{"cpu", "cpu.max", fmt.Sprintf("%d %d", l.CPUPercent*cpuPeriod/100, cpuPeriod)})
	}
	if l.CPUWeight > 0 {
		s = append(s, setting{"cpu", "cpu.weight", strconv.Itoa(l.CPUWeight)})
	}
	if l.PIDs > 0 {
		s = append(s, setting{"pids", "pids.max", strconv.Itoa(l.PIDs)})
	}
	return s
}

// write writes to a file that the kernel has made: it makes none.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Open returns the group's directory, into which clone3(2) can put a process.
func (g *Group) Open() (*os.File, error) { return os.Open(g.dir) }

// Kill kills every process in the group.
func (g *Group) Kill() error {
	if err := write(g.dir, "cgroup.kill", "1"); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	return nil
}

// OOMKills returns how many processes were killed because the group had reached its limit
// of memory, 0 if it has none.
func (g *Group) OOMKills() (int, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("control group: %w", err)
	}
	return oomKills(string(text))
}

func oomKills(events string) (int, error) {
	for line := range strings.Lines(events) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, errors.New("control group: memory.events does not count oom_kill")
}
