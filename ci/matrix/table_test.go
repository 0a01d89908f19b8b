// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package matrix

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/image/machine"
)

var (
	pc      = Setup{machine.PC, false}
	there   = Pair{pc, "e1000", "tulip"}
	back    = Pair{pc, "tulip", "e1000"}
	copying = Pair{pc, "ne2k_pci", "e1000"}
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
	table.Add(Result{Pair: back, StallMS: 1})
	table.Add(Result{Pair: there, StallMS: 2})
	table.Add(Result{Pair: back, StallMS: 3}) // once more
	if err := table.Save(file); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		rule, build string
		want        []Pair
	}{
		{"what has been moved is not moved again", "one", []Pair{copying}},
		{"another build begins anew", "two", []Pair{there, back, copying}},
		{"to be looked at, every build will do", "", []Pair{copying}},
	} {
		got, err := Load(file, tc.build)
		if err != nil {
			t.Fatal(err)
		}
		if left := got.Left([]Pair{there, back, copying}); !slices.Equal(left, tc.want) {
			t.Errorf("%s: left are %v, want %v", tc.rule, left, tc.want)
		}
	}
	if r := table.Results; len(r) != 2 || r[0].Pair != there || r[1].StallMS != 3 {
		t.Errorf("the table is %+v, want each pair's newest, by NIC", r)
	}
}

func TestMarkdown(t *testing.T) {
	table := &Table{Build: "0123456789abcdef", Kernel: "6.1.0", Results: []Result{
		{Pair: there, StallMS: 1234.5, Held: 7, Harvested: 8, Deferred: []string{"net.ring.rx=512: no such ring"}},
		{Pair: back, StallMS: 5, Missing: 2},
		{Pair: copying, Missing: 3},
	}}
	var b strings.Builder
	if err := table.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ran Linux 6.1.0; its initramfs was 0123456789ab (", "## pc, same slot", "| 1234; 7 + 8; *1 deferred* |", "| **5; 0 + 0; *2 missing*** |", "in 1 moves it lost 3 datagrams, at most 3 in one",
		"- net.ring.rx=512: no such ring: 1",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table does not have %q:\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "q35") {
		t.Error("a setup without results is shown")
	}
}
