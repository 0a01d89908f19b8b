// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package timeline_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/ctl/timeline"
)

func TestPhases(t *testing.T) {
	for _, tc := range []struct {
		rule   string
		stamps map[string]float64
		want   string // from-to stamp
	}{
		{"a phase ends with its stamp and follows the one before",
			map[string]float64{"resumed": 0, "detected": 10, "active": 50, "probed": 300, "harvested": 400, "passive": 720},
			"0-10 detected, 10-50 active, 50-300 probed, 300-400 harvested, 400-720 passive"},
		{"what comes after passive is left out",
			map[string]float64{"resumed": 0, "active": 50, "passive": 60, "unloaded": 900}, "0-50 active, 50-60 passive"},
		{"a recovery that is not over ends with its last stamp",
			map[string]float64{"detected": 0, "active": 50, "unloaded": 90}, "0-50 active, 50-90 unloaded"},
		{"of stamps of one time the first in the order of phases has it",
			map[string]float64{"resumed": 0, "released": 7, "link": 7}, "0-7 link"},
		{"what was seen before the guest was known to have resumed is no phase",
			map[string]float64{"detected": -1, "resumed": 0, "passive": 3}, "0-3 passive"},
		{"a stamp that is not known has a phase too",
			map[string]float64{"resumed": 0, "vetted": 2, "passive": 3}, "0-2 vetted, 2-3 passive"},
		{"no stamps, no phases", nil, ""},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			var got []string
			for _, s := range timeline.Phases(tc.stamps) {
				got = append(got, fmt.Sprintf("%.0f-%.0f %s", s.From, s.To, s.Stamp))
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("phases (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryStampHasAPhase(t *testing.T) {
	colours := make(map[string]string)
	for _, name := range ctl.StampNames() {
		p := timeline.PhaseOf(name)
		if p.Label == name || p.Stamp != name {
			t.Errorf("stamp %s has no phase of its own", name)
		}
		if other, taken := colours[p.Colour]; taken {
			t.Errorf("%s and %s have the same colour", name, other)
		}
		colours[p.Colour] = name
	}
}

func TestPictures(t *testing.T) {
	hostile := ctl.Timeline{
		Recovery: 3, Role: `"><script>`, Cause: "<&", From: "e1000\x1b[2J", Error: `<&"hostile">`,
		Stamps: []ctl.Stamp{{Name: "resumed", At: 5e9}, {Name: `x" onload="`, At: 6e9}, {Name: "passive", At: 7e9}},
	}
	row := timeline.Recovery(hostile)
	for _, tc := range []struct {
		name  string
		write func(io.Writer) error
		holds []string
	}{
		{"a file", timeline.Picture{Title: "</svg>", Verdict: "pass", Rows: []timeline.Row{row}}.WriteSVG,
			[]string{"2000 ms · held 0", "resumed 0 ·", "passive 2000", "&lt;&amp;&#34;hostile"}},
		{"a file without recoveries", timeline.Picture{}.WriteSVG, nil},
		{"a part of a page", func(w io.Writer) error { return row.WriteInline(w, `"><script>`) }, []string{`width="50.00%"`}},
		{"a part of a page without stamps", func(w io.Writer) error { return timeline.Row{Bars: []timeline.Bar{{}}}.WriteInline(w, "") }, nil},
		{"a swatch", timeline.PhaseOf(`"><script>`).WriteSwatch, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			if err := tc.write(&b); err != nil {
				t.Fatal(err)
			}
			wellFormed(t, b.String())
			for _, want := range tc.holds {
				if !strings.Contains(b.String(), want) {
					t.Errorf("lacks %q:\n%s", want, b.String())
				}
			}
		})
	}
}

// wellFormed fails the test if text is no XML, or has an element or attribute that no
// picture has.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	for dec := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if e, ok := token.(xml.StartElement); ok {
			if !strings.Contains(" svg rect line text title ", " "+e.Name.Local+" ") {
				t.Errorf("element %s", e.Name.Local)
			}
			for _, a := range e.Attr {
				if strings.HasPrefix(a.Name.Local, "on") {
					t.Errorf("attribute %s", a.Name.Local)
				}
			}
		}
	}
}
