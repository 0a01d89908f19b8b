// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// barWidth is the width in characters of the bar chart of a timeline; with its
// other columns a row fits in 80.
const barWidth = 44

// RenderStatus writes s for a person to read.
func RenderStatus(w io.Writer, s Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "umbra %s", dash(s.Version))
	if s.Hostname != "" {
		fmt.Fprintf(&b, " on %s", clean(s.Hostname))
	}
	if s.Kernel != "" {
		fmt.Fprintf(&b, ", Linux %s", clean(s.Kernel))
	}
	fmt.Fprintf(&b, ", up %s, shadow %s, %s\n",
		seconds(s.Boottime), dash(s.Shadow), count(s.Recoveries, "recovery", "recoveries"))

	for _, f := range s.Faults {
		fmt.Fprintf(&b, "CONFIGURATION REFUSED, no service is started: %s\n", clean(f))
	}
	if s.Data != nil {
		renderData(&b, *s.Data)
	}
	if s.Update != nil {
		renderUpdate(&b, *s.Update)
	}
	if len(s.Roles) == 0 {
		b.WriteString("no roles\n")
	} else {
		b.WriteByte('\n')
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "ROLE\tMODE\tSINCE\tPROXY\tDEVICE\tDRIVER\tIFACE\tMAC\tCARRIER\tLOG\tHELD\tDEFERRED")
		for _, r := range s.Roles {
			carrier := "no"
			if r.Carrier {
				carrier = "yes"
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n",
				dash(r.Name), dash(r.Mode), seconds(s.Boottime-r.Since), dash(r.Proxy), dash(r.Device),
				dash(r.Driver), dash(r.Iface), dash(r.MAC), carrier, r.Log, r.Held, r.Deferred)
		}
		tw.Flush()
		for _, r := range s.Roles {
			switch {
			case r.OnStandby:
				fmt.Fprintf(&b, "%s: what is sent goes over the standby at %s\n", clean(r.Name), clean(r.Standby))
			case r.Standby != "":
				fmt.Fprintf(&b, "%s: a standby is at %s\n", clean(r.Name), clean(r.Standby))
			}
			if r.Shortcut != nil {
				fmt.Fprintf(&b, "%s: %s\n", clean(r.Name), clean(r.Shortcut.String()))
			}
			if r.Message != "" {
				fmt.Fprintf(&b, "%s: %s\n", clean(r.Name), clean(r.Message))
			}
		}
	}
	if s.LastTimeline != nil {
		b.WriteString("\nlast recovery: ")
		renderTimeline(&b, *s.LastTimeline)
	}
	return write(w, b.String())
}

func renderData(b *strings.Builder, d Data) {
	const mib = 1 << 20
	fmt.Fprintf(b, "%s: %s", dash(d.Path), dash(d.State))
	if d.Device != "" {
		fmt.Fprintf(b, ", %s", clean(d.Device))
	}
	if d.Size > 0 {
		fmt.Fprintf(b, ", %d of %d MiB free", d.Free/mib, d.Size/mib)
	}
	if d.Errors > 0 {
		b.WriteString(", " + count(d.Errors, "error", "errors"))
	}
	if d.Message != "" {
		b.WriteString(": " + clean(d.Message))
	}
	b.WriteByte('\n')
}

func renderUpdate(b *strings.Builder, u Update) {
	fmt.Fprintf(b, "version %s: %s", dash(u.Version), dash(u.State))
	if u.TriesLeft > 0 {
		b.WriteString(", " + count(u.TriesLeft, "try", "tries") + " left")
	}
	if u.Next != "" {
		fmt.Fprintf(b, ", %s is booted next", clean(u.Next))
	}
	if u.Message != "" {
		b.WriteString(": " + clean(u.Message))
	}
	b.WriteByte('\n')
}

// RenderTimeline writes t for a person to read: a row per stamp in the order
// of time, with its distance from the origin (see [Timeline.Origin]) and from
// the stamp before it in ms, and a bar that shows the latter on the scale of
// the whole.
func RenderTimeline(w io.Writer, t Timeline) error {
	var b strings.Builder
	renderTimeline(&b, t)
	return write(w, b.String())
}

// RenderTimelines writes timelines for a person to read, in their order.
func RenderTimelines(w io.Writer, all []Timeline) error {
	var b strings.Builder
	for i, t := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		renderTimeline(&b, t)
	}
	if len(all) == 0 {
		b.WriteString("no recovery yet\n")
	}
	return write(w, b.String())
}

func renderTimeline(b *strings.Builder, t Timeline) {
	stamps, origin := t.sorted(), t.Origin()
	var end int64
	if len(stamps) > 0 {
		end = stamps[len(stamps)-1].At
	}
	fmt.Fprintf(b, "%s #%d (%s): %s -> %s, %s\n",
		dash(t.Role), t.Recovery, dash(t.Cause), dash(t.From), dash(t.To), ms(end-origin)+" ms")

	if len(stamps) > 0 {
		first := min(stamps[0].At, origin)
		prev := first
		fmt.Fprintf(b, "  %-10s %9s %10s\n", "stamp", "ms", "+ms")
		for _, s := range stamps {
			line := fmt.Sprintf("  %-10s %9s %10s  |%s",
				clean(s.Name), ms(s.At-origin), ms(s.At-prev), bar(prev-first, s.At-first, end-first))
			b.WriteString(strings.TrimRight(line, " "))
			b.WriteByte('\n')
			prev = s.At
		}
	}
	fmt.Fprintf(b, "  frames: %d held, %d harvested, %d re-sent, %d dropped\n",
		t.Frames.Held, t.Frames.Harvested, t.Frames.Resent, t.Frames.Dropped)
	for _, d := range t.Deferred {
		fmt.Fprintf(b, "  deferred: %s (%s)\n", clean(d.Op), clean(d.Reason))
	}
	if t.Error != "" {
		fmt.Fprintf(b, "  error: %s\n", clean(t.Error))
	}
}

// bar draws the interval [from, to] of a scale of [0, whole]. An interval
// shorter than a character is drawn as a dot, so that none vanishes.
func bar(from, to, whole int64) string {
	if whole <= 0 || to <= from {
		return ""
	}
	cell := func(ns int64) int {
		return min(barWidth, max(0, int(float64(ns)/float64(whole)*barWidth+0.5)))
	}
	a, z := cell(from), cell(to)
	if a == z {
		return strings.Repeat(" ", min(a, barWidth-1)) + "."
	}
	return strings.Repeat(" ", a) + strings.Repeat("#", z-a)
}

// RenderLog writes the operations of entries for a person to read, by role.
func RenderLog(w io.Writer, entries []LogEntry) error {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b LogEntry) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Key, b.Key))
	})
	var b strings.Builder
	for i, e := range entries {
		if i == 0 || e.Role != entries[i-1].Role {
			if i > 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "%s\n", dash(e.Role))
		}
		fmt.Fprintf(&b, "  %s=%s", clean(e.Key), clean(e.Value))
		if e.Deferred != "" {
			fmt.Fprintf(&b, "  (deferred: %s)", clean(e.Deferred))
		}
		b.WriteByte('\n')
	}
	if len(entries) == 0 {
		b.WriteString("the log is empty\n")
	}
	return write(w, b.String())
}

// RenderServices writes services for a person to read, in their order.
func RenderServices(w io.Writer, services []Service) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SERVICE\tSTATE\tPID\tFOR\tSTARTS\tLAST END")
	for _, s := range services {
		pid, since := "-", "-"
		if s.PID != 0 {
			pid = strconv.Itoa(s.PID)
		}
		if s.For != 0 {
			since = seconds(int64(s.For))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\n", dash(s.Name), dash(s.State), pid, since, s.Starts, dash(s.LastExit))
	}
	tw.Flush()
	return write(w, b.String())
}

// RenderLines writes lines of programs for a person to read.
func RenderLines(w io.Writer, lines []Line) error {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %s: %s\n", l.At.UTC().Format(time.RFC3339), clean(l.From), clean(l.Text))
	}
	return write(w, b.String())
}

func write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// clean makes a string that came from a guest fit for a terminal: what is not
// printable is escaped, so that no guest can send control sequences to the
// terminal of its host's administrator.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToGraphic(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// dash is clean for a field that must not leave a hole in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

func ms(ns int64) string { return strconv.FormatFloat(float64(ns)/1e6, 'f', 1, 64) }

func seconds(ns int64) string { return time.Duration(ns).Round(time.Second).String() }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
