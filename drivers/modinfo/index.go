// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modinfo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/drivers/kmod"
)

// Index returns the index files for modules, by name: modules.dep,
// modules.alias and modules.softdep as depmod would write them for a directory
// that has only these, and modules.builtin and modules.builtin.modinfo as they
// are. modules need to be complete, as Closure returns them; it fails with
// kmod.ErrNoModule when one depends on a module that is not among them, and with
// kmod.ErrCycle when they depend on each other.
//
// The binary forms (modules.dep.bin and so on) of kmod's modprobe and
// modules.symbols and modules.devname are not written.
func (s *Set) Index(modules []*Module) (map[string][]byte, error) {
	order := slices.Clone(modules)
	slices.SortFunc(order, func(a, b *Module) int {
		return slices.Index(s.modules, a) - slices.Index(s.modules, b)
	})
	g, err := s.graph(order)
	if err != nil {
		return nil, err
	}
	var dep, alias, softdep bytes.Buffer
	alias.WriteString("# Aliases extracted from modules themselves.\n")
	softdep.WriteString("# Soft dependencies extracted from modules themselves.\n")
	for i, m := range order {
		fmt.Fprintf(&dep, "%s:", m.Path)
		for _, j := range g.needs(i) {
			fmt.Fprintf(&dep, " %s", order[j].Path)
		}
		dep.WriteByte('\n')
		for _, pattern := range m.info.Values("alias") {
			fmt.Fprintf(&alias, "alias %s %s\n", pattern, m.Name)
		}
		for _, soft := range m.info.Values("softdep") {
			fmt.Fprintf(&softdep, "softdep %s %s\n", m.Name, soft)
		}
	}
	files := map[string][]byte{
		"modules.dep":     dep.Bytes(),
		"modules.alias":   alias.Bytes(),
		"modules.softdep": softdep.Bytes(),
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err == nil {
			files[name] = b
		} else if !os.IsNotExist(err) {
			return nil, err
		}
	}
	return files, nil
}

// graph are the dependencies between modules, which are indices.
type graph struct {
	direct [][]int
	rank   []int // place in the topological order: users before what they use
}

// graph sorts modules as depmod does (tools/depmod.c,
// depmod_calculate_dependencies): users before what they use, which is the order
// within a line of modules.dep.
func (s *Set) graph(modules []*Module) (graph, error) {
	index := make(map[string]int, len(modules))
	for i, m := range modules {
		index[m.Name] = i
	}
	g := graph{direct: make([][]int, len(modules)), rank: make([]int, len(modules))}
	users := make([]int, len(modules))
	for i, m := range modules {
		info, err := s.Info(m.Name)
		if err != nil {
			return graph{}, err
		}
		for _, name := range info.Depends() {
			j, ok := index[strings.ReplaceAll(name, "-", "_")]
			if !ok {
				if s.Builtin(name) {
					continue
				}
				return graph{}, fmt.Errorf("%s needs %s: %w", m.Name, name, kmod.ErrNoModule)
			}
			g.direct[i] = append(g.direct[i], j)
			users[j]++
		}
	}
	var roots []int // a stack
	for i := range modules {
		if users[i] == 0 {
			roots = append(roots, i)
		}
	}
	sorted := 0
	for len(roots) > 0 {
		i := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		g.rank[i] = sorted
		sorted++
		for _, j := range g.direct[i] {
			if users[j]--; users[j] == 0 {
				roots = append(roots, j)
			}
		}
	}
	if sorted == len(modules) {
		return g, nil
	}
	var cycle []string
	for i, n := range users {
		if n > 0 {
			cycle = append(cycle, modules[i].Name)
		}
	}
	return graph{}, fmt.Errorf("%w among %s", kmod.ErrCycle, strings.Join(cycle, ", "))
}

// needs returns all that module i needs, users before what they use.
func (g graph) needs(i int) []int {
	var all []int
	seen := make(map[int]bool)
	var visit func(int)
	visit = func(i int) {
		for _, j := range g.direct[i] {
			if !seen[j] {
				seen[j] = true
				all = append(all, j)
				visit(j)
			}
		}
	}
	visit(i)
	slices.SortFunc(all, func(a, b int) int { return g.rank[a] - g.rank[b] })
	return all
}
