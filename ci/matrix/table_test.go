// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package matrix

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/image/machine"
)

var (
	pc      = Setup{machine.PC, false}
	there   = Pair{Setup: pc, From: "e1000", To: "tulip"}
	back    = Pair{Setup: pc, From: "tulip", To: "e1000"}
	copying = Pair{Setup: pc, From: "ne2k_pci", To: "e1000"}
	first   = Pair{Setup: pc, From: "e1000", To: "tulip", First: true}
)

func TestHarm(t *testing.T) {
	for _, tc := range []struct {
		rule string
		r    Result
		want bool
	}{
		{"a move that costs time alone does none", Result{Pair: there, StallMS: 9000, Held: 3, Dropped: 0, Reordered: 5}, false},
		{"a move that failed does", Result{Pair: there, Error: "no recovery in time"}, true},
		{"a datagram that is missing does", Result{Pair: there, Missing: 1}, true},
		{"but not if the driver had copied it", Result{Pair: copying, Missing: 1}, false},
		{"it does in a first move as in any other", Result{Pair: first, Missing: 1}, true},
	} {
		if got := tc.r.Harm() != ""; got != tc.want {
			t.Errorf("%s: harm %q", tc.rule, tc.r.Harm())
		}
	}
}

func TestTableGoesOnWhereItStopped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deep", "matrix.json")
	table, err := Load(file, "one")
	if err != nil {
		t.Fatal(err)
	}
	table.Add(Result{Pair: back, Build: "one", StallMS: 1})
	table.Add(Result{Pair: there, Build: "one", StallMS: 2})
	table.Add(Result{Pair: back, Build: "one", StallMS: 3}) // once more
	if err := table.Save(file); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		rule, build string
		want        []Pair
	}{
		{"what has been moved is not moved again, but for a first move of the same pair", "one", []Pair{copying, first}},
		{"another build begins anew", "two", []Pair{there, back, copying, first}},
		{"to be looked at, every build will do", "", []Pair{copying, first}},
	} {
		got, err := Load(file, tc.build)
		if err != nil {
			t.Fatal(err)
		}
		if left := got.Left([]Pair{there, back, copying, first}); !slices.Equal(left, tc.want) {
			t.Errorf("%s: left are %v, want %v", tc.rule, left, tc.want)
		}
	}
	if r := table.Results; len(r) != 2 || r[0].Pair != there || r[1].StallMS != 3 {
		t.Errorf("the table is %+v, want each pair's newest, by NIC", r)
	}
}

func TestMarkdown(t *testing.T) {
	table := &Table{Kernel: "6.1.0", Results: []Result{
		{Pair: there, Build: "0123456789abcdef", StallMS: 1234.5, Held: 7, Harvested: 8, Deferred: []string{"net.ring.rx=512: no such ring"}},
		{Pair: back, Build: "fedcba9876543210", StallMS: 5, Missing: 2},
		{Pair: copying, Build: "fedcba9876543210", Missing: 3},
		{Pair: first, Build: "fedcba9876543210", StallMS: 77, Missing: 1},
	}}
	var b strings.Builder
	if err := table.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ran Linux 6.1.0; its initramfs (SHA-256) was 0123456789ab in 1 moves, fedcba987654 in 3 moves.", "## pc, same slot", "| 1234; 7 + 8; *1 deferred* |", "| **5; 0 + 0; *2 missing*** |",
		"## First moves", "| **e1000** | tulip | pc, same slot | **77; 0 + 0; *1 missing*** |", "in 1 moves it lost 3 datagrams, at most 3 in one",
		"- net.ring.rx=512: no such ring: 1",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table does not have %q:\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "q35") {
		t.Error("a setup without results is shown")
	}
	table.Drop(first)
	b.Reset()
	if err := table.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "First moves") {
		t.Error("first moves are shown, and none was made")
	}
}

// TestDocument holds what docs say about the matrix: that it is what the results
// there are, and that they are of every pair and without harm.
func TestDocument(t *testing.T) {
	const docs = "../../docs"
	table, err := Load(filepath.Join(docs, DataFile), "")
	if err != nil {
		t.Fatal(err)
	}
	if left := table.Left(AllPairs()); len(left) > 0 {
		t.Errorf("%d pairs have no result, %v is one", len(left), left[0])
	}
	for _, r := range table.Harmed() {
		t.Errorf("%v: %s", r.Pair, r.Harm())
	}
	var want strings.Builder
	if err := table.Markdown(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(docs, MarkdownFile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("%s is not what %s says; make generate writes it (-want +got)\n%s", MarkdownFile, DataFile, diff)
	}
}
