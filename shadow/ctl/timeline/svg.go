// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package timeline

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// A Picture shows rows on one axis of time.
type Picture struct {
	Title   string
	Verdict string // on a badge; none if empty
	Bad     bool   // of a verdict
	Summary string
	Rows    []Row
}

// Sizes in SVG user units.
const (
	width     = 1080
	left      = 150
	right     = 40
	headed    = 92 // of a picture with a summary
	untitled  = 52
	foot      = 46
	plot      = width - left - right
	barHeight = 26
	barPitch  = barHeight + 8
)

// height of a row: its head, its bars, and below them the axis, the stamps and an error.
func (r Row) height() int { return 96 + len(r.Bars)*barPitch }

// WriteSVG writes the picture as a file of its own.
func (p Picture) WriteSVG(w io.Writer) error {
	y := headed
	if p.Summary == "" {
		y = untitled
	}
	height := y + foot
	for _, r := range p.Rows {
		height += r.height()
	}
	var d drawing
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" `+
		`font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12">`, width, height, width, height)
	d.printf(`<rect width="%d" height="%d" fill="#ffffff"/>`, width, height)
	d.text(px(20), 34, `font-size="20" font-weight="bold"`, p.Title)
	summary := px(20)
	if p.Verdict != "" {
		colour := "#1e8e3e"
		if p.Bad {
			colour = "#c5221f"
		}
		d.printf(`<rect x="20" y="48" width="62" height="24" rx="4" fill="%s"/>`, colour)
		d.text(px(51), 65, `fill="#ffffff" font-weight="bold" text-anchor="middle"`, p.Verdict)
		summary = px(94)
	}
	if p.Summary != "" {
		d.text(summary, 65, `fill="#3c4043"`, p.Summary)
	}
	lo, hi := span(p.Rows)
	a := axis{lo: lo, hi: hi, ticks: 10, at: func(f float64) string { return px(left + f*plot) },
		size: func(f float64) string { return px(max(f*plot, 0.8)) }}
	for _, r := range p.Rows {
		d.row(r, y, a)
		y += r.height()
	}
	d.legend(p.Rows, height-24)
	d.printf("</svg>")
	_, err := io.WriteString(w, d.String())
	return err
}

// WriteInline writes the bars of a row for a page in HTML: as wide as the page
// lets it be, in the colour of the page's text, and without what a page says
// better itself. label says in words what is drawn.
func (r Row) WriteInline(w io.Writer, label string) error {
	lo, hi := span([]Row{r})
	pc := func(f float64) string { return fmt.Sprintf("%.2f%%", 100*f) }
	a := axis{lo: lo, hi: hi, ticks: 4, at: pc, size: func(f float64) string { return pc(max(f, 0.002)) }}
	bottom := len(r.Bars) * barPitch
	var d drawing
	d.printf(`<svg role="img" aria-label="%s" width="100%%" height="%d" font-size="12" fill="currentColor">`,
		escape(label), bottom+18)
	d.printf(`<rect width="100%%" height="%d" fill-opacity="0.07"/>`, bottom)
	d.ticks(0, bottom, a)
	for i, bar := range r.Bars {
		d.bar(bar, 4+i*barPitch, a)
	}
	d.printf("</svg>")
	_, err := io.WriteString(w, d.String())
	return err
}

// WriteSwatch writes a square in the colour of a phase, for a legend in HTML.
func (p Phase) WriteSwatch(w io.Writer) error {
	_, err := fmt.Fprintf(w, `<svg width="11" height="11" aria-hidden="true"><rect width="11" height="11" fill="%s"/></svg>`,
		escape(p.Colour))
	return err
}

// span is the time that all rows lie in.
func span(rows []Row) (lo, hi float64) {
	hi = 1
	for _, r := range rows {
		for _, b := range r.Bars {
			for _, s := range b.Segments {
				lo, hi = min(lo, s.From), max(hi, s.To)
			}
		}
	}
	return lo, hi
}

// An axis places times, in ms, in a picture: at and size say where a fraction of it is
// and how much room one takes.
type axis struct {
	lo, hi   float64
	ticks    int // at most about so many
	at, size func(fraction float64) string
}

func (a axis) fraction(ms float64) float64 { return (ms - a.lo) / (a.hi - a.lo) }
func (a axis) x(ms float64) string         { return a.at(a.fraction(ms)) }

// step returns a round distance in ms between ticks.
func (a axis) step() float64 {
	raw := (a.hi - a.lo) / float64(a.ticks)
	mag := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5} {
		if f*mag >= raw {
			return f * mag
		}
	}
	return 10 * mag
}

// px is a length in user units.
func px(v float64) string { return fmt.Sprintf("%.1f", v) }

type drawing struct{ strings.Builder }

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) text(x string, y int, attrs, s string) {
	d.printf(`<text x="%s" y="%d" %s>%s</text>`, x, y, attrs, escape(s))
}

func (d *drawing) row(r Row, y int, a axis) {
	d.text(px(20), y+18, `font-size="15" font-weight="bold"`, r.Head)
	d.text(px(width-right), y+18, `text-anchor="end" fill="#3c4043"`, r.Facts)
	top := y + 30
	bottom := top + len(r.Bars)*barPitch - 2
	d.ticks(top, bottom, a)
	for i, bar := range r.Bars {
		d.text(px(left-10), top+i*barPitch+17, `text-anchor="end"`, bar.Label)
		d.bar(bar, top+i*barPitch, a)
	}
	d.text(px(20), bottom+34, `fill="#3c4043" font-size="11"`, r.Foot) // wider than the bars, with every stamp
	if r.Error != "" {
		d.text(px(left), bottom+50, `fill="#c5221f" font-size="12"`, r.Error)
	}
}

// ticks draws the axis behind bars between top and bottom. Labels at its ends stay
// within it.
func (d *drawing) ticks(top, bottom int, a axis) {
	step := a.step()
	for t := math.Ceil(a.lo/step) * step; t <= a.hi; t += step {
		x, anchor := a.x(t), "middle"
		switch f := a.fraction(t); {
		case f < 0.03:
			anchor = "start"
		case f > 0.95:
			anchor = "end"
		}
		d.printf(`<line x1="%s" y1="%d" x2="%s" y2="%d" stroke="#9aa0a6" stroke-opacity="0.4"/>`, x, top, x, bottom)
		d.text(x, bottom+14, `text-anchor="`+anchor+`" fill-opacity="0.75" font-size="11"`, fmt.Sprintf("%.4g ms", t))
	}
}

func (d *drawing) bar(b Bar, y int, a axis) {
	if b.Ground != "" {
		d.printf(`<rect x="%s" y="%d" width="%s" height="%d" fill="%s"/>`, a.at(0), y, a.size(1), barHeight, escape(b.Ground))
	}
	for _, s := range b.Segments {
		stroke := ""
		if s.Stroke != "" {
			stroke = ` stroke="` + escape(s.Stroke) + `"`
		}
		d.printf(`<rect x="%s" y="%d" width="%s" height="%d" fill="%s"%s><title>%s: %.1f ms</title></rect>`,
			a.x(s.From), y, a.size((s.To-s.From)/(a.hi-a.lo)), barHeight, escape(s.Colour), stroke, escape(s.Label), s.To-s.From)
		if s.Text != "" {
			d.text(a.x((s.From+s.To)/2), y+17, `text-anchor="middle" fill="#a50e0e" font-size="11"`, s.Text)
		}
	}
}

// legend names the phases that occur.
func (d *drawing) legend(rows []Row, y int) {
	used := make(map[Phase]bool)
	for _, r := range rows {
		for _, b := range r.Bars {
			for _, s := range b.Segments {
				used[s.Phase] = true
			}
		}
	}
	x := 20
	for _, p := range phases {
		if !used[p] {
			continue
		}
		d.printf(`<rect x="%d" y="%d" width="11" height="11" fill="%s"/>`, x, y-10, p.Colour)
		d.text(fmt.Sprint(x+15), y, `font-size="11" fill="#3c4043"`, p.Label)
		x += 26 + 6*len(p.Label)
	}
}

// escape makes text fit for an element or an attribute. What XML cannot hold becomes U+FFFD.
func escape(s string) string {
	var b strings.Builder
	// EscapeText fails only if its writer does.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
