// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmod

import (
	"fmt"
	"strings"
)

// A Plan is an order in which modules can be loaded: every step stands behind
// those it waits for.
type Plan struct {
	Steps   []Step
	Targets []int // indices of the steps that load what was asked for
}

// A Step loads one module. Its edges are indices of earlier steps.
type Step struct {
	Module *Module
	Needs  []int // must have succeeded
	After  []int // must have ended, either way: soft dependencies
}

// Plan resolves names and returns the steps that load them with everything they
// need. Built-in modules take no step.
//
// Soft dependencies are followed for each module, those of dependencies
// included. One that cannot be resolved or would close a cycle is left out, as
// libkmod does. A cycle of hard dependencies is ErrCycle and names its members.
func (x *Index) Plan(names ...string) (Plan, error) {
	p := planner{index: x, done: make(map[*Module]int)}
	for _, name := range names {
		modules, err := x.Resolve(name)
		if err != nil {
			return Plan{}, err
		}
		for _, m := range modules {
			i, err := p.visit(m)
			if err != nil {
				return Plan{}, err
			}
			if i != builtin {
				p.plan.Targets = append(p.plan.Targets, i)
			}
		}
	}
	return p.plan, nil
}

// builtin stands for the step that a built-in module does not need.
const builtin = -1

type planner struct {
	index *Index
	plan  Plan
	path  []*Module // from the target down to the module being visited
	done  map[*Module]int
}

// visit adds the steps for m and returns the index of its own.
func (p *planner) visit(m *Module) (int, error) {
	if m.Builtin {
		return builtin, nil
	}
	if i, ok := p.done[m]; ok {
		return i, nil
	}
	if p.onPath(m) {
		return 0, &OpError{"resolve", m.Name, fmt.Errorf("%w: %s", ErrCycle, p.cycle(m))}
	}
	p.path = append(p.path, m)
	step := Step{Module: m}
	soft := p.index.soft[m.Name]
	step.After = p.visitSoft(soft.Pre)
	for i := len(m.Needs) - 1; i >= 0; i-- {
		need, ok := p.index.modules[m.Needs[i]]
		if !ok {
			return 0, &OpError{"resolve", m.Name, fmt.Errorf("it needs %s: %w", m.Needs[i], ErrNoModule)}
		}
		j, err := p.visit(need)
		if err != nil {
			return 0, err
		}
		if j != builtin {
			step.Needs = append(step.Needs, j)
		}
	}
	p.path = p.path[:len(p.path)-1]

	self := len(p.plan.Steps)
	p.plan.Steps = append(p.plan.Steps, step)
	p.done[m] = self
	first := len(p.plan.Steps)
	p.visitSoft(soft.Post)
	for i := first; i < len(p.plan.Steps); i++ {
		p.plan.Steps[i].After = append(p.plan.Steps[i].After, self)
	}
	return self, nil
}

// visitSoft adds the steps of soft dependencies and returns the indices of
// those that could be planned.
func (p *planner) visitSoft(names []string) []int {
	var steps []int
	for _, name := range names {
		modules, err := p.index.Resolve(name)
		if err != nil {
			continue
		}
		for _, m := range modules {
			depth := len(p.path)
			i, err := p.visit(m)
			p.path = p.path[:depth]
			if err == nil && i != builtin {
				steps = append(steps, i)
			}
		}
	}
	return steps
}

func (p *planner) onPath(m *Module) bool {
	for _, q := range p.path {
		if q == m {
			return true
		}
	}
	return false
}

// cycle names the modules from the first visit of m to the second.
func (p *planner) cycle(m *Module) string {
	var names []string
	for _, q := range p.path {
		if q == m || len(names) > 0 {
			names = append(names, q.Name)
		}
	}
	return strings.Join(append(names, m.Name), " -> ")
}
