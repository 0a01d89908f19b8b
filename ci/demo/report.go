// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package demo

import (
	"fmt"
	"slices"
	"time"
)

// Report is what a demo leaves in report.json.
type Report struct {
	Verdict string   `json:"verdict"` // "pass" or "fail"
	Reasons []string `json:"reasons"` // why it failed; empty if it did not
	Control bool     `json:"control"` // the shadow was left out

	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // of the whole run
	Kernel  string    `json:"kernel"`  // the guest's release
	QEMU    string    `json:"qemu"`    // version

	Moves  []Move `json:"moves"`
	TCP    TCP    `json:"tcp"`
	UDPOut UDPOut `json:"udp_out"`
	Frames Frames `json:"frames"` // of all moves
}

// Move is one live migration and the recovery that followed. All times are in
// milliseconds.
type Move struct {
	From string `json:"from"` // e.g. "e1000 at 02.0"
	To   string `json:"to"`

	// StallMS is the longest pause that either end of the TCP stream saw
	// around the move; Parts add up to it.
	StallMS float64 `json:"stall_ms"`
	Parts   Parts   `json:"stall_parts_ms"`

	// Timeline maps each stamp of the recovery to its distance from the
	// moment in which the guest was resumed.
	Timeline map[string]float64 `json:"timeline"`
	Frames   Frames             `json:"frames"`
	Deferred []string           `json:"deferred,omitempty"` // operations that the new device cannot do

	MigrationMS float64 `json:"migration_ms"` // from the command to the destination's RESUME
	DowntimeMS  float64 `json:"downtime_ms"`  // source's STOP to destination's RESUME
	StreamBytes int64   `json:"stream_bytes"`
	Dropped     string  `json:"dropped_section"` // the direct-access device's section
	Repaired    int     `json:"repaired_lines"`  // interrupt lines left asserted by it
	Error       string  `json:"error,omitempty"`
}

// Parts are the parts of a stall, in ms, in the order of time.
type Parts struct {
	Before   float64 `json:"before"`   // last record until the source stopped
	Stopped  float64 `json:"stopped"`  // the guest's CPUs stood still
	Detect   float64 `json:"detect"`   // resumed until the shadow knew
	Recover  float64 `json:"recover"`  // until what was held was released
	BackToIt float64 `json:"back_off"` // until the stream moved again: TCP's own back-off
}

// TCP is the verdict on the TCP streams of both directions.
type TCP struct {
	Resets       int   `json:"resets"`
	BytesSent    int64 `json:"bytes_sent"`
	BytesLost    int64 `json:"bytes_lost"`
	BytesCorrupt int64 `json:"bytes_corrupt"`
}

// UDPOut is the verdict on the datagrams that the guest sent.
type UDPOut struct {
	Sent       int `json:"sent"`
	Received   int `json:"received"`
	Missing    int `json:"missing"`
	Duplicated int `json:"duplicated"`
	Reordered  int `json:"reordered"`
}

// Frames counts what became of the frames sent during a recovery.
type Frames struct {
	Held      int `json:"held"`
	Harvested int `json:"harvested"`
	Resent    int `json:"resent"`
	Dropped   int `json:"dropped"`
}

func (f *Frames) add(g Frames) {
	f.Held += g.Held
	f.Harvested += g.Harvested
	f.Resent += g.Resent
	f.Dropped += g.Dropped
}

// judge fills in the verdict: the demo passes if every move of the plan was
// made and nothing that was sent is missing.
func (r *Report) judge(planned int) {
	r.Reasons = []string{}
	no := func(bad bool, format string, args ...any) {
		if bad {
			r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...))
		}
	}
	no(len(r.Moves) < planned, "only %d of %d moves were made", len(r.Moves), planned)
	for i, m := range r.Moves {
		no(m.Error != "", "move %d, %s → %s: %s", i+1, m.From, m.To, m.Error)
	}
	no(r.TCP.BytesSent == 0, "no byte went over the TCP connection")
	no(r.TCP.Resets > 0, "the TCP connection was reset")
	no(r.TCP.BytesLost > 0, "%d bytes of the TCP stream are lost", r.TCP.BytesLost)
	no(r.TCP.BytesCorrupt > 0, "%d bytes of the TCP stream are corrupt", r.TCP.BytesCorrupt)
	no(r.UDPOut.Sent == 0, "no datagram was sent")
	no(r.UDPOut.Missing > 0, "%d of %d outgoing datagrams are missing", r.UDPOut.Missing, r.UDPOut.Sent)
	r.Verdict = "pass"
	if len(r.Reasons) > 0 {
		r.Verdict = "fail"
	}
}

// stall splits the longest pause of the stream into its parts. last is when
// the last record before it arrived, next when the next one did; stop and
// resume are the host's times of the migration; detected and released are
// distances from resume, negative if the timeline lacks them.
func stall(last, next, stop, resume time.Time, detected, released time.Duration) (float64, Parts) {
	ms := func(d time.Duration) float64 { return max(0, float64(d.Microseconds())/1000) }
	// A stamp outside the pause belongs to it only up to its ends: a stream
	// may have moved again before the held frames were released.
	clamp := func(t time.Time) time.Time {
		return slices.MinFunc([]time.Time{slices.MaxFunc([]time.Time{t, last}, time.Time.Compare), next}, time.Time.Compare)
	}
	known, done := resume, resume
	if detected >= 0 {
		known = resume.Add(detected)
	}
	done = known
	if released >= 0 {
		done = resume.Add(released)
	}
	a, b, c, d := clamp(stop), clamp(resume), clamp(known), clamp(done)
	return ms(next.Sub(last)), Parts{
		Before: ms(a.Sub(last)), Stopped: ms(b.Sub(a)), Detect: ms(c.Sub(b)),
		Recover: ms(d.Sub(c)), BackToIt: ms(next.Sub(d)),
	}
}
