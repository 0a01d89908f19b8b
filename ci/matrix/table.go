// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/ci/rig"
)

// A Result is what one move cost. Times are in ms, the rest in frames, datagrams
// or bytes.
type Result struct {
	Pair
	Build     string   `json:"build"`           // hash of the guest's initramfs
	Error     string   `json:"error,omitempty"` // the move failed, or harmed the guest
	StoppedMS float64  `json:"stopped_ms"`      // the guest stood still
	StallMS   float64  `json:"stall_ms"`        // the longest pause of the TCP stream
	Held      int      `json:"held"`
	Harvested int      `json:"harvested"`
	Resent    int      `json:"resent"`
	Dropped   int      `json:"dropped"` // known to be lost, and counted
	Deferred  []string `json:"deferred,omitempty"`

	// Datagrams of the guest.
	Missing    int64 `json:"missing"`
	Duplicated int64 `json:"duplicated"`
	Reordered  int64 `json:"reordered"`
	// BulkBytes is what the bulk stream had carried, both ways, when the move
	// was over, since the last one.
	BulkBytes int64 `json:"bulk_bytes"`
}

// Harm tells what a move must not cost, "" if it did not. A driver that copies
// frames on transmission may lose what was in its ring, and so may one that forgets
// them in a recovery that takes too long.
func (r Result) Harm() string {
	from := model(r.From)
	switch {
	case r.Error != "":
		return r.Error
	case r.Missing > 0 && !from.Copies && !(from.Forgets && r.StallMS > forgetful):
		return fmt.Sprintf("%d datagrams missing", r.Missing)
	}
	return ""
}

// A Table is results, of one build of the guest unless its user wants it otherwise.
type Table struct {
	Kernel  string   // the guest's
	Results []Result // as comparePairs orders them
}

// Load reads a table, without the results of other builds; with "" of all. One that
// does not exist is empty.
func Load(file, build string) (*Table, error) {
	t := new(Table)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("table %s: %w", file, err)
	}
	if build != "" {
		t.Results = slices.DeleteFunc(t.Results, func(r Result) bool { return r.Build != build })
	}
	return t, nil
}

// Save writes the table, all or nothing. Each result has a line of its own, so that
// two tables can be compared by eye.
func (t *Table) Save(file string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n \"kernel\": %q,\n \"results\": [", t.Kernel)
	for i, r := range t.Results {
		line, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("result of %v: %w", r.Pair, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n  %s", line)
	}
	b.WriteString("\n ]\n}\n")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	part := file + ".part"
	if err := os.WriteFile(part, b.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(part, file)
}

// Drop forgets the result of a pair.
func (t *Table) Drop(p Pair) {
	t.Results = slices.DeleteFunc(t.Results, func(r Result) bool { return r.Pair == p })
}

// Add takes a result in place of an older one of the same pair.
func (t *Table) Add(r Result) {
	t.Drop(r.Pair)
	t.Results = append(t.Results, r)
	slices.SortFunc(t.Results, func(a, b Result) int { return comparePairs(a.Pair, b.Pair) })
}

// Left returns the pairs that have no result yet.
func (t *Table) Left(pairs []Pair) []Pair {
	return slices.DeleteFunc(slices.Clone(pairs), func(p Pair) bool {
		return slices.ContainsFunc(t.Results, func(r Result) bool { return r.Pair == p })
	})
}

// Harmed returns the results that must not be.
func (t *Table) Harmed() []Result {
	return slices.DeleteFunc(slices.Clone(t.Results), func(r Result) bool { return r.Harm() == "" })
}

// The files that a table is published as.
const (
	DataFile     = "matrix.json"
	MarkdownFile = "matrix.md"
)

// Publish writes the table, and the one for people, into a directory.
func (t *Table) Publish(dir string) error {
	if err := t.Save(filepath.Join(dir, DataFile)); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Markdown(&b); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, MarkdownFile), b.Bytes(), 0o644)
}

// Markdown writes the table for people.
func (t *Table) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Every NIC to every NIC

Made by ` + "`make matrix`" + ` of [matrix.json](matrix.json). Each cell is one move of a running guest from the NIC of its row to that of its
column, under TCP both ways, UDP both ways and a bulk transfer:

    stall of the TCP stream in ms; frames held + harvested; *n missing* datagrams of the guest and *n deferred* operations, if any

The guests changed no setting of their NICs, so nothing is deferred; what can be is in [operations.md](operations.md). Stalls
were measured without KVM on a shared machine, and the driver's own time is in them (e1000 waits 2 s for its link). A cell in
**bold** is a move that must not be: the connection or a byte was lost, or a datagram of a driver that keeps its frames.
`)
	fmt.Fprintf(&b, "The guest ran Linux %s; its initramfs (SHA-256) was %s.\n", t.Kernel, t.builds())
	for _, s := range Setups {
		rows := slices.DeleteFunc(slices.Clone(t.Results), func(r Result) bool { return r.Setup != s || r.First })
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| from \\ to |", s)
		for _, m := range Models {
			fmt.Fprintf(&b, " %s |", m.Driver)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(Models)) + "\n")
		for _, from := range Models {
			fmt.Fprintf(&b, "| **%s** |", from.Driver)
			for _, to := range Models {
				i := slices.IndexFunc(rows, func(r Result) bool { return r.From == from.Device && r.To == to.Device })
				switch {
				case from == to:
					b.WriteString(" – |")
				case i < 0:
					b.WriteString(" |")
				default:
					b.WriteString(" " + cell(rows[i]) + " |")
				}
			}
			b.WriteString("\n")
		}
	}
	b.WriteString(t.firstMoves())
	b.WriteString(t.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

// firstMoves is the table of the guests that made one move, "" if there are none.
func (t *Table) firstMoves() string {
	var b strings.Builder
	for _, r := range t.Results {
		if !r.First {
			continue
		}
		if b.Len() == 0 {
			b.WriteString(`
## First moves

A guest of the tables above is booted once and makes many moves. Each of these was booted on the NIC that it then left, and moved
once, as soon as it was ready (` + "`" + rig.Settled + "`" + ` on its console).

| from | to | on | cost |
|---|---|---|---|
`)
		}
		fmt.Fprintf(&b, "| **%s** | %s | %s | %s |\n", model(r.From).Driver, model(r.To).Driver, r.Setup, cell(r))
	}
	return b.String()
}

// builds names the builds, with the number of moves if there are several.
func (t *Table) builds() string {
	moves := make(map[string]int)
	for _, r := range t.Results {
		moves[r.Build]++
	}
	var words []string
	for _, b := range sortedKeys(moves) {
		word := fmt.Sprintf("%.12s", b)
		if len(moves) > 1 {
			word += fmt.Sprintf(" in %d moves", moves[b])
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func cell(r Result) string {
	if r.Error != "" {
		return "**" + strings.ReplaceAll(r.Error, "|", "/") + "**"
	}
	text := fmt.Sprintf("%.0f; %d + %d", r.StallMS, r.Held, r.Harvested)
	if r.Missing > 0 {
		text += fmt.Sprintf("; *%d missing*", r.Missing)
	}
	if n := len(r.Deferred); n > 0 {
		text += fmt.Sprintf("; *%d deferred*", n)
	}
	if r.Harm() != "" {
		text = "**" + text + "**"
	}
	return text
}

// summary tells what drivers that copy have lost, and what was deferred.
func (t *Table) summary() string {
	var b strings.Builder
	for _, m := range Models {
		if !m.Copies {
			continue
		}
		moves, lost, most := 0, int64(0), int64(0)
		for _, r := range t.Results {
			if r.From == m.Device && r.Error == "" {
				moves++
				lost += r.Missing
				most = max(most, r.Missing)
			}
		}
		if moves > 0 {
			fmt.Fprintf(&b, "\n%s copies a frame on transmission, so what is in its ring cannot be harvested: in %d moves it lost %d datagrams, at most %d in one.\n",
				m.Driver, moves, lost, most)
		}
	}
	deferred := make(map[string]int)
	for _, r := range t.Results {
		for _, d := range r.Deferred {
			deferred[d]++
		}
	}
	if len(deferred) > 0 {
		b.WriteString("\nDeferred operations, by the number of moves:\n\n")
		for _, d := range sortedKeys(deferred) {
			fmt.Fprintf(&b, "- %s: %d\n", d, deferred[d])
		}
	}
	return b.String()
}

func sortedKeys(m map[string]int) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
