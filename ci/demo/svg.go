// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package demo

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Sizes of the picture in SVG user units.
const (
	svgWidth  = 1080
	svgLeft   = 150
	svgRight  = 40
	svgHead   = 92
	svgMove   = 164
	svgFoot   = 46
	svgPlot   = svgWidth - svgLeft - svgRight
	barHeight = 26
)

// The colours of the phases of a move, by the stamp that ends the phase.
var phases = []struct{ stamp, colour, label string }{
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
	{ctl.StampReleased, "#34a853", "release"},
	{ctl.StampPassive, "#1e8e3e", "announce, passive"},
}

// segment is one coloured stretch of a recovery bar, in ms since resumed.
type segment struct {
	from, to float64
	phase    int
}

// segments turns a timeline into the stretches between its stamps, in the
// order of time. Each stretch is named after the stamp that ends it; stamps
// after passive (an unload off the critical path) are left out.
func segments(m Move) []segment {
	type point struct {
		at    float64
		phase int
	}
	end, ok := m.Timeline[ctl.StampPassive]
	if !ok {
		end = math.Inf(1)
	}
	var pts []point
	for i, p := range phases {
		if at, ok := m.Timeline[p.stamp]; ok && p.stamp != ctl.StampResumed && at <= end {
			pts = append(pts, point{at, i})
		}
	}
	slices.SortStableFunc(pts, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	out := []segment{{-m.DowntimeMS, 0, 0}}
	last := 0.0
	for _, p := range pts {
		if p.at > last {
			out = append(out, segment{last, p.at, p.phase})
			last = p.at
		}
	}
	return out
}

// WriteSVG draws the report: for each move the recovery's phases on the time
// axis, and below them the pause that the TCP stream saw.
func WriteSVG(w io.Writer, r Report) error {
	var b strings.Builder
	height := svgHead + len(r.Moves)*svgMove + svgFoot
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12">`+"\n", svgWidth, height, svgWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", svgWidth, height)

	title := "umbra: one guest, one TCP connection, four different NICs"
	if r.Control {
		title = "control: the same moves without the shadow"
	}
	colour := "#1e8e3e"
	if r.Verdict != "pass" {
		colour = "#c5221f"
	}
	text(&b, 20, 34, `font-size="20" font-weight="bold"`, title)
	fmt.Fprintf(&b, `<rect x="20" y="48" width="62" height="24" rx="4" fill="%s"/>`+"\n", colour)
	text(&b, 51, 65, `fill="#ffffff" font-weight="bold" text-anchor="middle"`, r.Verdict)
	text(&b, 94, 65, `fill="#3c4043"`, fmt.Sprintf(
		"TCP: %s both ways, %d lost, %d corrupt, %d resets · UDP out: %d sent, %d missing, %d duplicated · frames: %d held, %d harvested, %d re-sent, %d dropped",
		size(r.TCP.BytesSent), r.TCP.BytesLost, r.TCP.BytesCorrupt, r.TCP.Resets,
		r.UDPOut.Sent, r.UDPOut.Missing, r.UDPOut.Duplicated,
		r.Frames.Held, r.Frames.Harvested, r.Frames.Resent, r.Frames.Dropped))

	lo, hi := 0.0, 1.0
	for _, m := range r.Moves {
		lo = min(lo, -m.DowntimeMS-m.Parts.Before)
		hi = max(hi, m.StallMS-m.DowntimeMS-m.Parts.Before)
		for _, s := range segments(m) {
			hi = max(hi, s.to)
		}
	}
	x := func(ms float64) float64 { return svgLeft + (ms-lo)/(hi-lo)*svgPlot }
	for i, m := range r.Moves {
		drawMove(&b, m, i, svgHead+i*svgMove, x, lo, hi)
	}
	drawLegend(&b, r, height-24)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func drawMove(b *strings.Builder, m Move, i, y int, x func(float64) float64, lo, hi float64) {
	text(b, 20, y+18, `font-size="15" font-weight="bold"`, fmt.Sprintf("%d. %s → %s", i+1, m.From, m.To))
	text(b, svgWidth-svgRight, y+18, `text-anchor="end" fill="#3c4043"`, fmt.Sprintf(
		"stopped %.0f ms · stall %.0f ms · held %d, harvested %d, re-sent %d, dropped %d",
		m.DowntimeMS, m.StallMS, m.Frames.Held, m.Frames.Harvested, m.Frames.Resent, m.Frames.Dropped))

	top, bottom := y+30, y+30+2*barHeight+14
	step := tick(hi - lo)
	for t := math.Ceil(lo/step) * step; t <= hi; t += step {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#e0e0e0"/>`+"\n", x(t), top, x(t), bottom)
		text(b, int(x(t)), bottom+14, `text-anchor="middle" fill="#5f6368" font-size="11"`, fmt.Sprintf("%.0f ms", t))
	}
	text(b, svgLeft-10, top+17, `text-anchor="end"`, "recovery")
	for _, s := range segments(m) {
		p := phases[s.phase]
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s: %.1f ms</title></rect>`+"\n",
			x(s.from), top, max(x(s.to)-x(s.from), 0.8), barHeight, p.colour, escape(p.label), s.to-s.from)
	}
	text(b, svgLeft-10, top+barHeight+8+17, `text-anchor="end"`, "TCP stream")
	from := -m.DowntimeMS - m.Parts.Before
	sy := top + barHeight + 8
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#ceead6"/>`+"\n", svgLeft, sy, svgPlot, barHeight)
	fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#fad2cf" stroke="#c5221f"><title>no record arrived for %.0f ms</title></rect>`+"\n",
		x(from), sy, max(x(from+m.StallMS)-x(from), 1), barHeight, m.StallMS)
	text(b, int(x(from+m.StallMS/2)), sy+17, `text-anchor="middle" fill="#a50e0e" font-size="11"`, fmt.Sprintf("%.0f ms", m.StallMS))

	var names []string
	for _, p := range phases {
		if _, ok := m.Timeline[p.stamp]; ok {
			names = append(names, p.stamp)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(m.Timeline[a], m.Timeline[b]) })
	var stamps []string
	for _, n := range names {
		stamps = append(stamps, fmt.Sprintf("%s %.0f", n, m.Timeline[n]))
	}
	text(b, svgLeft, bottom+34, `fill="#3c4043" font-size="11"`, strings.Join(stamps, " · "))
	if m.Error != "" {
		text(b, svgLeft, bottom+50, `fill="#c5221f" font-size="12"`, m.Error)
	}
}

func drawLegend(b *strings.Builder, r Report, y int) {
	used := make([]bool, len(phases))
	for _, m := range r.Moves {
		for _, s := range segments(m) {
			used[s.phase] = true
		}
	}
	x := 20
	for i, p := range phases {
		if !used[i] {
			continue
		}
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="11" height="11" fill="%s"/>`+"\n", x, y-10, p.colour)
		text(b, x+15, y, `font-size="11" fill="#3c4043"`, p.label)
		x += 26 + 6*len(p.label)
	}
}

func text(b *strings.Builder, x, y int, attrs, s string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, attrs, escape(s))
}

func escape(s string) string {
	var b strings.Builder
	// EscapeText fails only if its writer does.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// tick returns a round distance in ms between about 6 and 12 of which fit
// the span.
func tick(span float64) float64 {
	raw := span / 10
	mag := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5} {
		if f*mag >= raw {
			return f * mag
		}
	}
	return 10 * mag
}

func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
