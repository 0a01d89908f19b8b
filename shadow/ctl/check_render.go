// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"fmt"
	"io"
	"strings"
)

// RenderCheck writes what a check has found for a person to read.
func RenderCheck(w io.Writer, r CheckReport) error {
	var b strings.Builder
	for _, f := range r.Roles {
		fmt.Fprintf(&b, "%s: %s\n", dash(f.Role), f.headline())
		for _, l := range f.lines() {
			fmt.Fprintf(&b, "  %-9s %s\n", l.name, l.text)
		}
	}
	if len(r.Roles) == 0 {
		b.WriteString("no roles\n")
	}
	return write(w, b.String())
}

// String is a refusal in one line, fit for a terminal.
func (f Forecast) String() string { return clean(f.Role) + ": " + clean(f.Reason) }

// headline is the verdict in one line.
func (f Forecast) headline() string {
	switch {
	case f.Refused():
		return "REFUSED: " + clean(f.Reason)
	case f.Verdict == VerdictStays:
		return f.drivers() + " at " + dash(f.Device) + " is moved with the guest"
	case f.Verdict == VerdictStandby:
		return "goes over its standby, " + f.drivers() + " at " + dash(f.Device)
	case f.Verdict == VerdictLater:
		return "waits for a device that is plugged in later"
	}
	if f.IDs == "" {
		return f.drivers() + " at " + dash(f.Device)
	}
	return f.drivers() + " at " + dash(f.Device) + " (" + clean(f.IDs) + ")"
}

func (f Forecast) drivers() string {
	return dash(strings.Join(f.Drivers, " or "))
}

type forecastLine struct{ name, text string }

// lines are what is known beside the verdict.
func (f Forecast) lines() (out []forecastLine) {
	add := func(name, text string) { out = append(out, forecastLine{name, text}) }
	if f.From != "" {
		add("now", clean(f.From))
	}
	if f.Reason != "" && !f.Refused() {
		add("note", clean(f.Reason))
	}
	if f.Verdict == VerdictTaken && !f.Driven {
		add("driver", "in the image; it has not driven such a device in this guest")
	}
	if f.Standby != "" {
		add("standby", "at "+clean(f.Standby))
	}
	if len(f.Ways) > 0 {
		add("way", clean(strings.Join(f.Ways, ", or ")))
	}
	switch f.MAC {
	case MACOwn:
		add("MAC", "the device has the role's")
	case MACGiven:
		add("MAC", "the role's; the driver takes it")
	case MACRefused:
		add("MAC", "the device's own: the driver takes no other")
	case MACUnknown:
		add("MAC", "unknown until the driver is asked to take the role's")
	}
	for _, d := range f.Deferred {
		add("deferred", fmt.Sprintf("%s (%s)", clean(d.Op), clean(d.Reason)))
	}
	if len(f.Unknown) > 0 {
		add("unknown", "until probed: "+clean(strings.Join(f.Unknown, ", ")))
	}
	if g := f.Gap; g != nil {
		add("gap", g.text())
	}
	return out
}

func (g Gap) text() string {
	span := fmt.Sprintf("%.1f s", g.MaxMS/1e3)
	if g.MinMS != g.MaxMS {
		span = fmt.Sprintf("%.1f to %s", g.MinMS/1e3, span)
	}
	if g.Source == GapMeasured {
		return span + ", measured by this guest in " + count(g.Recoveries, "recovery", "recoveries")
	}
	return span + " in umbra's README (emulated NICs, without KVM); this guest has not measured it"
}
