// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modalias

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A Table maps patterns to modules and answers which modules match a modalias.
//
// Patterns are filed under the text before their first wildcard: the bus and as
// many ids as are written out. A lookup therefore compares only with patterns
// whose literal beginning is the beginning of the modalias, a few dozen of the
// 26,000 of a distribution kernel. The zero Table is empty and ready to use. A
// Table may be read by many goroutines once nothing is added any more.
type Table struct {
	entries  []entry
	byPrefix map[string][]int32 // literal prefix to indices into entries
	lengths  []int              // of the keys of byPrefix, sorted, each once
}

type entry struct {
	pattern, module string // both normalized
}

// maxLine bounds a line of modules.alias, in bytes. The longest of a Debian 6.1
// kernel has 189.
const maxLine = 64 << 10

// Parse reads the text form of modules.alias: lines "alias PATTERN MODULE",
// empty lines and lines that start with '#'. Lines of other keywords are
// skipped as kmod does, so that configuration files can be read too; an alias
// line that does not have its two words is an error that names the line number.
func Parse(r io.Reader) (*Table, error) {
	t := new(Table)
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	line := 0
	for s.Scan() {
		line++
		keyword, rest, _ := strings.Cut(strings.TrimSpace(s.Text()), " ")
		if keyword != "alias" {
			continue
		}
		f := strings.Fields(rest)
		if len(f) != 2 {
			return nil, fmt.Errorf("modalias: line %d: an alias line has a pattern and a module, got %q", line, s.Text())
		}
		t.Add(f[0], f[1])
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("modalias: line %d: %w", line+1, err)
	}
	return t, nil
}

// Add appends one pattern. Earlier patterns come first in the answers.
func (t *Table) Add(pattern, module string) {
	pattern = Normalize(pattern)
	prefix := pattern
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		prefix = pattern[:i]
	}
	if t.byPrefix == nil {
		t.byPrefix = make(map[string][]int32)
	}
	if i, found := slices.BinarySearch(t.lengths, len(prefix)); !found {
		t.lengths = slices.Insert(t.lengths, i, len(prefix))
	}
	t.byPrefix[prefix] = append(t.byPrefix[prefix], int32(len(t.entries)))
	t.entries = append(t.entries, entry{pattern, Normalize(module)})
}

// OfDevices reports whether a module has a pattern that a device can match.
func (t *Table) OfDevices(module string) bool {
	module = Normalize(module)
	return slices.ContainsFunc(t.entries, func(e entry) bool { return e.module == module && OfDevice(e.pattern) })
}

// Len returns the number of patterns.
func (t *Table) Len() int { return len(t.entries) }

// Lookup returns the modules with a pattern that matches modalias, in the order
// of their first such pattern, each once, with underscores. It is nil when no
// module matches.
func (t *Table) Lookup(modalias string) []string {
	name := Normalize(modalias)
	var hits []int32
	for _, n := range t.lengths {
		if n > len(name) {
			break
		}
		for _, i := range t.byPrefix[name[:n]] {
			if Match(t.entries[i].pattern[n:], name[n:]) {
				hits = append(hits, i)
			}
		}
	}
	slices.Sort(hits)
	var modules []string
	for _, i := range hits {
		if m := t.entries[i].module; !slices.Contains(modules, m) {
			modules = append(modules, m)
		}
	}
	return modules
}
