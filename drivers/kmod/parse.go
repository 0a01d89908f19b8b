// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmod

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/umbra-vm/umbra/drivers/internal/ko"
	"github.com/umbra-vm/umbra/drivers/modalias"
)

// maxLine bounds a line of an index file, in bytes. The longest line of a
// Debian 6.1 modules.dep has 1,900.
const maxLine = 1 << 20

// A Dep is one line of modules.dep.
type Dep struct {
	Path string // of the module file, relative to the modules directory
	// Needs are the paths of all modules it needs, directly or not. depmod
	// writes them so that each stands left of what it needs itself: the load
	// order is from right to left.
	Needs []string
}

// ParseDep reads the text form of modules.dep: "PATH: PATH PATH...".
func ParseDep(r io.Reader) ([]Dep, error) {
	var deps []Dep
	for line, err := range lines(r) {
		if err != nil {
			return nil, fmt.Errorf("modules.dep: %w", err)
		}
		path, needs, ok := strings.Cut(line.text, ":")
		d := Dep{strings.TrimSpace(path), strings.Fields(needs)}
		if !ok {
			return nil, fmt.Errorf("modules.dep: line %d: no ':' in %q", line.number, line.text)
		}
		for _, p := range append([]string{d.Path}, d.Needs...) {
			if _, ok := ko.Name(p); !ok {
				return nil, fmt.Errorf("modules.dep: line %d: %q is not a module file", line.number, p)
			}
		}
		deps = append(deps, d)
	}
	return deps, nil
}

// Soft are the soft dependencies of a module: names of modules, or aliases of
// modules, that should be loaded before or after it when they are there, and
// whose absence or failure is no error (modprobe.d(5)).
type Soft struct{ Pre, Post []string }

// ParseSoftdep reads the text form of modules.softdep: lines
// "softdep MODULE pre: NAME... post: NAME...". Names before the first of the two
// words are ignored as libkmod does; ten modules of Linux 6.1 have such lines.
// Several lines for one module add up.
func ParseSoftdep(r io.Reader) (map[string]Soft, error) {
	all := make(map[string]Soft)
	for line, err := range lines(r) {
		if err != nil {
			return nil, fmt.Errorf("modules.softdep: %w", err)
		}
		f := strings.Fields(line.text)
		if f[0] != "softdep" {
			continue
		}
		if len(f) < 2 {
			return nil, fmt.Errorf("modules.softdep: line %d: no module in %q", line.number, line.text)
		}
		name := modalias.Normalize(f[1])
		s, more := all[name], parseSoft(f[2:])
		s.Pre = append(s.Pre, more.Pre...)
		s.Post = append(s.Post, more.Post...)
		all[name] = s
	}
	return all, nil
}

// ParseSoft reads the soft dependencies as a module states them in its "softdep"
// field: "pre: NAME... post: NAME...".
func ParseSoft(text string) Soft { return parseSoft(strings.Fields(text)) }

func parseSoft(words []string) Soft {
	var s Soft
	var into *[]string
	for _, w := range words {
		switch {
		case w == "pre:":
			into = &s.Pre
		case w == "post:":
			into = &s.Post
		case into != nil:
			*into = append(*into, modalias.Normalize(w))
		}
	}
	return s
}

// ParseBuiltin reads modules.builtin, one path a line, and returns the names of
// the modules that are part of the kernel image.
func ParseBuiltin(r io.Reader) ([]string, error) {
	var names []string
	for line, err := range lines(r) {
		if err != nil {
			return nil, fmt.Errorf("modules.builtin: %w", err)
		}
		name, ok := ko.Name(line.text)
		if !ok {
			return nil, fmt.Errorf("modules.builtin: line %d: %q is not a module file", line.number, line.text)
		}
		names = append(names, name)
	}
	return names, nil
}

// ParseBuiltinModinfo reads modules.builtin.modinfo, records "MODULE.KEY=VALUE"
// that each end in a zero byte, and calls alias for every one whose key is
// "alias". Linux writes the file since 5.2 (scripts/link-vmlinux.sh); it is the
// only place that tells which devices a built-in driver serves.
func ParseBuiltinModinfo(r io.Reader, alias func(pattern, module string)) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	s.Split(splitZero)
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), "=")
		if !ok {
			return fmt.Errorf("modules.builtin.modinfo: no '=' in %q", s.Text())
		}
		if module, isAlias := strings.CutSuffix(key, ".alias"); isAlias {
			alias(value, module)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("modules.builtin.modinfo: %w", err)
	}
	return nil
}

func splitZero(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

type textLine struct {
	number int // from 1
	text   string
}

// lines yields the lines of r that are neither empty nor comments, trimmed.
func lines(r io.Reader) iter.Seq2[textLine, error] {
	return func(yield func(textLine, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxLine)
		n := 0
		for s.Scan() {
			n++
			text := strings.TrimSpace(s.Text())
			if text == "" || text[0] == '#' {
				continue
			}
			if !yield(textLine{n, text}, nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(textLine{}, fmt.Errorf("line %d: %w", n+1, err))
		}
	}
}
