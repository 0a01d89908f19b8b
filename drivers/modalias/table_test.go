// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modalias

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// debian returns the cut of a real modules.alias; see testdata/README.md.
func debian(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile("testdata/modules.alias")
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestLookupAgreesWithModprobe(t *testing.T) {
	table, err := Parse(bytes.NewReader(debian(t)))
	if err != nil {
		t.Fatal(err)
	}
	if table.Len() != 1686 {
		t.Errorf("%d patterns, want 1686", table.Len())
	}
	golden, err := os.ReadFile("testdata/lookups")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(golden)) {
		alias, modules, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if got, want := table.Lookup(alias), strings.Fields(modules); !slices.Equal(got, want) {
			t.Errorf("Lookup(%q) = %q, modprobe says %q", alias, got, want)
		}
	}
}

func TestLookup(t *testing.T) {
	table, err := Parse(strings.NewReader(strings.Join([]string{
		"# a comment",
		"",
		"alias pci:v*d*sv*sd*bc02* second-by-class",
		"alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000",
		"alias pci:v00008086d*sv*sd*bc*sc*i* e1000",
		"options e1000 debug=1",
		"alias pci:v00008086d0000100Esv*sd*bc*sc*i* last",
		"alias * everything",
		"\talias  net-pf-17\taf_packet ",
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rule, alias string
		want        []string
	}{
		{"modules come in file order, each once", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00",
			[]string{"second_by_class", "e1000", "last", "everything"}},
		{"an alias without wildcards is found by dash", "net-pf-17", []string{"everything", "af_packet"}},
		{"an alias without wildcards is found by underscore", "net_pf_17", []string{"everything", "af_packet"}},
		{"a pattern without a bus serves all buses", "usb:v1", []string{"everything"}},
		{"a modalias shorter than the prefixes", "", []string{"everything"}},
	} {
		if got := table.Lookup(tt.alias); !slices.Equal(got, tt.want) {
			t.Errorf("%s: Lookup(%q) = %q, want %q", tt.rule, tt.alias, got, tt.want)
		}
	}
	if got := new(Table).Lookup("pci:v1"); got != nil {
		t.Errorf("the zero Table knows %q", got)
	}
}

func TestParseNamesTheBadLine(t *testing.T) {
	for _, tt := range []struct{ rule, text, want string }{
		{"an alias needs a module", "\nalias pci:v1\n", "line 2"},
		{"an alias has no third word", "alias pci:v1 a b", "line 1"},
		{"a line has an end", "alias a b\nalias " + strings.Repeat("x", maxLine), "line 2"},
	} {
		if _, err := Parse(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want it to name %s", tt.rule, err, tt.want)
		}
	}
}

// lookupAll is Lookup without an index.
func lookupAll(t *Table, alias string) []string {
	var found []string
	for _, e := range t.entries {
		if Match(e.pattern, Normalize(alias)) && !slices.Contains(found, e.module) {
			found = append(found, e.module)
		}
	}
	return found
}

func FuzzParse(f *testing.F) {
	f.Add(debian(f)[:2000], "pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00")
	f.Add([]byte("alias a[b c\nalias a\\*b d\nalias a?b e"), "a*b")
	f.Add([]byte("alias"), "")
	f.Fuzz(func(t *testing.T, text []byte, alias string) {
		table, err := Parse(bytes.NewReader(text))
		if err != nil {
			return
		}
		if got, want := table.Lookup(alias), lookupAll(table, alias); !slices.Equal(got, want) {
			t.Errorf("Lookup(%q) = %q, comparing with every pattern gives %q", alias, got, want)
		}
	})
}

// distribution returns an alias file of the size and mix of a distribution
// kernel's: the real cut, and 24,500 more lines for other vendors and buses.
func distribution(tb testing.TB) []byte {
	b := bytes.NewBuffer(debian(tb))
	for i := range 7000 {
		fmt.Fprintf(b, "alias pci:v%08Xd%08Xsv*sd*bc*sc*i* pci_%d\n", 0x8000+i%300, i, i/10)
		fmt.Fprintf(b, "alias usb:v%04Xp%04Xd*dc*dsc*dp*ic*isc*ip*in* usb_%d\n", i%500, i, i/10)
		fmt.Fprintf(b, "alias of:N*T*Cvendor%d,part%d of_%d\n", i%200, i, i/10)
		if i%2 == 0 {
			fmt.Fprintf(b, "alias hid:b0003g*v%08Xp%08X hid_%d\n", i%400, i, i/10)
		}
	}
	return b.Bytes()
}

func BenchmarkLookup(b *testing.B) {
	table, err := Parse(bytes.NewReader(distribution(b)))
	if err != nil {
		b.Fatal(err)
	}
	for _, alias := range []string{
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00",
		"virtio:d00000001v00001AF4",
	} {
		bus, _, _ := strings.Cut(alias, ":")
		b.Run(bus, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(table.Lookup(alias)) == 0 {
					b.Fatal("not found")
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	text := distribution(b)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := Parse(bytes.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}
