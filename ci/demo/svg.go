// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package demo

import (
	"fmt"
	"io"

	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/ctl/timeline"
)

// WriteSVG draws the report: for each move the recovery's phases on the time
// axis, and below them the pause that the TCP stream saw.
func WriteSVG(w io.Writer, r Report) error {
	p := timeline.Picture{
		Title:   "umbra: one guest, one TCP connection, four different NICs",
		Verdict: r.Verdict, Bad: r.Verdict != "pass",
		Summary: fmt.Sprintf("TCP: %s both ways, %d lost, %d corrupt, %d resets · UDP out: %d sent, %d missing, %d duplicated · "+
			"frames: %d held, %d harvested, %d re-sent, %d dropped",
			size(r.TCP.BytesSent), r.TCP.BytesLost, r.TCP.BytesCorrupt, r.TCP.Resets,
			r.UDPOut.Sent, r.UDPOut.Missing, r.UDPOut.Duplicated,
			r.Frames.Held, r.Frames.Harvested, r.Frames.Resent, r.Frames.Dropped),
	}
	if r.Control {
		p.Title = "control: the same moves without the shadow"
	}
	for i, m := range r.Moves {
		p.Rows = append(p.Rows, m.row(i+1))
	}
	return p.WriteSVG(w)
}

// row is the move in the picture. Its times are those since the guest was resumed.
func (m Move) row(number int) timeline.Row {
	stopped := timeline.Segment{From: -m.DowntimeMS, Phase: timeline.PhaseOf(ctl.StampResumed)}
	from := -m.DowntimeMS - m.Parts.Before
	stall := timeline.Segment{
		From: from, To: from + m.StallMS, Stroke: "#c5221f", Text: fmt.Sprintf("%.0f ms", m.StallMS),
		Phase: timeline.Phase{Colour: "#fad2cf", Label: "no record arrived"},
	}
	return timeline.Row{
		Head: fmt.Sprintf("%d. %s → %s", number, m.From, m.To),
		Facts: fmt.Sprintf("stopped %.0f ms · stall %.0f ms · held %d, harvested %d, re-sent %d, dropped %d",
			m.DowntimeMS, m.StallMS, m.Frames.Held, m.Frames.Harvested, m.Frames.Resent, m.Frames.Dropped),
		Bars: []timeline.Bar{
			{Label: "recovery", Segments: append([]timeline.Segment{stopped}, timeline.Phases(m.Timeline)...)},
			{Label: "TCP stream", Ground: "#ceead6", Segments: []timeline.Segment{stall}},
		},
		Foot:  timeline.Stamps(m.Timeline),
		Error: m.Error,
	}
}

func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
