// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package timeline draws what recoveries took: each a bar on the axis of time,
// with a stretch for every phase. The demo, the host's command and the guest's
// status page draw the same with it.
//
// It knows the stamps of package ctl and SVG. It must never know where a
// timeline comes from, nor what a page around a picture looks like.
package timeline

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// A Phase is what a recovery does until it reaches a stamp.
type Phase struct {
	Stamp  string
	Colour string // of CSS
	Label  string // for people
}

// phases are in the order of the legend.
var phases = []Phase{
	{ctl.StampResumed, "#9aa0a6", "guest stopped"},
	{ctl.StampDetected, "#e8710a", "not yet noticed"},
	{ctl.StampActive, "#f9ab00", "enter active mode"},
	{ctl.StampHarvested, "#c5221f", "harvest"},
	{ctl.StampUnloaded, "#8d6e63", "old driver out"},
	{ctl.StampScanned, "#7b1fa2", "bus scan"},
	{ctl.StampProbed, "#3949ab", "probe"},
	{ctl.StampOpened, "#1a73e8", "open"},
	{ctl.StampLink, "#00838f", "wait for link"},
	{ctl.StampReplayed, "#00acc1", "replay"},
	{ctl.StampStandby, "#ad1457", "over to the standby"},
	{ctl.StampReleased, "#34a853", "release"},
	{ctl.StampPassive, "#1e8e3e", "announce, passive"},
}

// PhaseOf returns the phase that ends with a stamp. One that is not known, as
// of a newer guest, is grey and bears the stamp's name.
func PhaseOf(stamp string) Phase {
	if i := slices.IndexFunc(phases, func(p Phase) bool { return p.Stamp == stamp }); i >= 0 {
		return phases[i]
	}
	return Phase{Stamp: stamp, Colour: "#9aa0a6", Label: stamp}
}

// A Segment is a stretch of a bar.
type Segment struct {
	From, To float64 // ms
	Phase
	Stroke string // colour of its border; none if empty
	Text   string // in its middle
}

// A Bar is a line of the picture.
type Bar struct {
	Label    string
	Ground   string // colour of what no segment covers; none if empty
	Segments []Segment
}

// A Row is one recovery.
type Row struct {
	Head, Facts string
	Bars        []Bar
	Foot        string
	Error       string
}

// Phases turns stamps, in ms, into the stretches between them, in the order of
// time and from 0 on. Each is the phase of the stamp that ends it. Stamps after
// "passive" (an unload off the critical path) are left out.
func Phases(stamps map[string]float64) []Segment {
	end, ok := stamps[ctl.StampPassive]
	if !ok {
		end = math.Inf(1)
	}
	var out []Segment
	last := 0.0
	for _, name := range inOrder(stamps) {
		if at := stamps[name]; name != ctl.StampResumed && at > last && at <= end {
			out = append(out, Segment{From: last, To: at, Phase: PhaseOf(name)})
			last = at
		}
	}
	return out
}

// inOrder returns the names of stamps in the order of time, and those of the
// same time in that of the phases.
func inOrder(stamps map[string]float64) []string {
	rank := func(name string) int {
		return slices.IndexFunc(phases, func(p Phase) bool { return p.Stamp == name })
	}
	names := make([]string, 0, len(stamps))
	for name := range stamps {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(stamps[a], stamps[b]), cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	return names
}

// Stamps writes stamps, in ms, as a line of text.
func Stamps(stamps map[string]float64) string {
	var words []string
	for _, name := range inOrder(stamps) {
		words = append(words, fmt.Sprintf("%s %.0f", name, stamps[name]))
	}
	return strings.Join(words, " · ")
}

// Recovery is the row of one recovery.
func Recovery(t ctl.Timeline) Row {
	stamps := t.Milliseconds()
	took := "not over"
	if ms, ok := stamps[ctl.StampPassive]; ok {
		took = fmt.Sprintf("%.0f ms", ms)
	}
	from, to := cmp.Or(t.From, "no device"), cmp.Or(t.To, "no device")
	f := t.Frames
	return Row{
		Head: fmt.Sprintf("%s #%d (%s): %s → %s", t.Role, t.Recovery, t.Cause, from, to),
		Facts: fmt.Sprintf("%s · held %d, harvested %d, re-sent %d, dropped %d",
			took, f.Held, f.Harvested, f.Resent, f.Dropped),
		Bars:  []Bar{{Label: "recovery", Segments: Phases(stamps)}},
		Foot:  Stamps(stamps),
		Error: t.Error,
	}
}
