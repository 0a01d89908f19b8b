// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package page

import (
	"cmp"
	"fmt"
	"html/template"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/umbra-vm/umbra/init/statusd/internal/state"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/ctl/timeline"
)

// shown is how many recoveries a page shows.
const shown = 5

// view is what the page's template is filled with. Its words are fit to be shown.
type view struct {
	Host       string
	Facts      []string
	Trouble    string // why there is nothing else
	Every      int    // seconds; 0 for never
	At         string
	Versions   []version // of the image, one if there are slots
	Roles      []role
	Recoveries []recovery
	Programs   []program
}

type fact struct{ Name, Value string }

// badge is a word with a colour, which is that of a class of the style.
type badge struct{ Word, Class string }

type role struct {
	Name     string
	Badge    badge
	Message  string
	Facts    []fact
	Deferred []fact // operations, and why
}

type version struct {
	Name    string
	Badge   badge
	Message string
	Facts   []fact
}

type recovery struct {
	Title, Way string
	Took       string
	Error      string
	Picture    template.HTML
	Legend     []phase
	Stamps     []stamp
	Frames     []fact
	Deferred   []fact
}

type stamp struct {
	Swatch          template.HTML
	Name, Phase, At string
}

// phase is a stretch of the picture.
type phase struct {
	Swatch     template.HTML
	Name, Took string
}

type program struct {
	Name  string
	Badge badge
	Facts []fact
	Lines []line
}

type line struct{ At, Text string }

func newView(s *state.State, err error) *view {
	if err != nil {
		return &view{Host: "umbra", Trouble: "The agent does not answer: " + plain(err.Error())}
	}
	st := s.Status
	v := &view{
		Host: plain(cmp.Or(st.Hostname, "umbra")),
		At:   s.At.UTC().Format(time.DateTime) + " UTC",
		Facts: []string{
			"umbra " + plain(st.Version), "Linux " + plain(st.Kernel), "up " + seconds(st.Boottime), "shadow " + plain(st.Shadow),
		},
	}
	if st.Update != nil {
		v.Versions = []version{newVersion(*st.Update)}
	}
	for _, r := range st.Roles {
		v.Roles = append(v.Roles, newRole(r, st.Boottime, s.Log))
	}
	for _, t := range slices.Backward(s.Timelines) {
		if len(v.Recoveries) < shown {
			v.Recoveries = append(v.Recoveries, newRecovery(t))
		}
	}
	v.Programs = programs(s)
	return v
}

func newVersion(u ctl.Update) version {
	v := version{Name: dash(u.Version), Message: plain(u.Message), Badge: badge{plain(u.State), "warn"}}
	if u.State == ctl.UpdateConfirmed {
		v.Badge.Class = "good"
	}
	next := u.Version // which is booted again
	if u.Next != "" {
		next = u.Next
	}
	v.Facts = []fact{{"Next boot", dash(next)}}
	if u.State == ctl.UpdateOnTrial {
		v.Facts = append(v.Facts, fact{"Tries left", fmt.Sprint(u.TriesLeft)})
	}
	if u.Failed != "" {
		v.Facts = append(v.Facts, fact{"Has not proved itself", plain(u.Failed)})
	}
	return v
}

func newRole(r ctl.RoleStatus, now int64, log []ctl.LogEntry) role {
	v := role{
		Name: plain(r.Name), Message: plain(r.Message), Badge: mode(r),
		Facts: []fact{{"Device", dash(r.Device)}, {"Driver", dash(r.Driver)}},
	}
	if r.Standby != "" {
		v.Facts = append(v.Facts, fact{"Standby", plain(r.Standby)})
	}
	if r.Class == classNet {
		link := "no"
		if r.Carrier {
			link = "yes"
		}
		v.Facts = append(v.Facts, fact{"Link", link}, fact{"Proxy", dash(r.Proxy)}, fact{"Interface", dash(r.Iface)},
			fact{"MAC", dash(r.MAC)}, fact{"Frames held", fmt.Sprint(r.Held)})
	}
	v.Facts = append(v.Facts, fact{"Operations logged", fmt.Sprint(r.Log)}, fact{"Deferred", fmt.Sprint(r.Deferred)},
		fact{"In this mode for", seconds(now - r.Since)})
	if r.Shortcut != nil {
		v.Facts = append(v.Facts, fact{"Shortcut", plain(r.Shortcut.String())})
	}
	for _, e := range log {
		if e.Role == r.Name && e.Deferred != "" {
			v.Deferred = append(v.Deferred, fact{plain(e.Key + "=" + e.Value), plain(e.Deferred)})
		}
	}
	return v
}

// classNet is the class of roles that have a proxy.
const classNet = "net"

func mode(r ctl.RoleStatus) badge {
	switch {
	case r.OnStandby:
		return badge{"over the standby", "warn"}
	case r.Mode == ctl.ModePassive:
		return badge{"passive mode", "good"}
	}
	return badge{plain(r.Mode) + " mode", "warn"}
}

func newRecovery(t ctl.Timeline) recovery {
	end, over := t.Since(ctl.StampPassive)
	took := "under way"
	if over {
		took = ms(end)
	}
	v := recovery{
		Title: plain(fmt.Sprintf("%s #%d: %s", t.Role, t.Recovery, t.Cause)),
		Way:   plain(cmp.Or(t.From, "no device") + " → " + cmp.Or(t.To, "no device")),
		Took:  took, Error: plain(t.Error),
		Frames: []fact{
			{"held", fmt.Sprint(t.Frames.Held)}, {"harvested", fmt.Sprint(t.Frames.Harvested)},
			{"re-sent", fmt.Sprint(t.Frames.Resent)}, {"dropped", fmt.Sprint(t.Frames.Dropped)},
		},
	}
	for _, s := range slices.SortedStableFunc(slices.Values(t.Stamps), ctl.CompareStamps) {
		p, at := timeline.PhaseOf(s.Name), time.Duration(s.At-t.Origin())
		v.Stamps = append(v.Stamps, stamp{Swatch: drawn(p.WriteSwatch), Name: plain(s.Name), Phase: plain(p.Label), At: ms(at)})
	}
	row := timeline.Recovery(t)
	for _, b := range row.Bars {
		for _, s := range b.Segments {
			v.Legend = append(v.Legend, phase{drawn(s.WriteSwatch), plain(s.Label), fmt.Sprintf("%.1f ms", s.To-s.From)})
		}
	}
	label := plain(fmt.Sprintf("Recovery %d of %s, %s: %s", t.Recovery, t.Role, took, row.Foot))
	v.Picture = drawn(func(w io.Writer) error { return row.WriteInline(w, label) })
	for _, d := range t.Deferred {
		v.Deferred = append(v.Deferred, fact{plain(d.Op), plain(d.Reason)})
	}
	return v
}

// drawn is a picture, whose text package timeline has escaped.
func drawn(write func(io.Writer) error) template.HTML {
	var b strings.Builder
	_ = write(&b) // a Builder takes everything
	return template.HTML(b.String())
}

// programs are the services and, before them, PID 1 with its log.
func programs(s *state.State) []program {
	out := []program{{Name: "init", Badge: badge{"process 1", "good"}, Lines: lines(s.Tails["init"])}}
	for _, svc := range s.Services {
		p := program{Name: plain(svc.Name), Badge: badge{plain(svc.State), "warn"}, Lines: lines(s.Tails[svc.Name])}
		if svc.State == running {
			p.Badge.Class = "good"
		}
		if svc.PID != 0 {
			p.Facts = append(p.Facts, fact{"Process", fmt.Sprint(svc.PID)})
		}
		p.Facts = append(p.Facts, fact{"For", seconds(int64(svc.For))}, fact{"Starts", fmt.Sprint(svc.Starts)})
		if svc.LastExit != "" {
			p.Facts = append(p.Facts, fact{"Last end", plain(svc.LastExit)})
		}
		out = append(out, p)
	}
	return out
}

// running is the state of a service that is as it should be.
const running = "running"

func lines(tail []ctl.Line) (out []line) {
	for _, l := range tail {
		out = append(out, line{l.At.UTC().Format(time.TimeOnly), plain(l.Text)})
	}
	return out
}

// escapes are the sequences by which programs colour a terminal.
var escapes = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]`)

// plain makes a string fit to be read: what is no character (controls, and what
// changes the direction of the text around it) is shown as U+FFFD.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return unicode.ReplacementChar
		}
		return r
	}, escapes.ReplaceAllString(strings.ToValidUTF8(s, "\ufffd"), ""))
}

func dash(s string) string { return cmp.Or(plain(s), "–") }

func seconds(ns int64) string { return time.Duration(ns).Round(time.Second).String() }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }
