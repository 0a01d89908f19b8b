// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package demo

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func passing() Report {
	return Report{
		Moves: []Move{
			{From: "e1000 in slot 2", To: "rtl8139 in slot 2", DowntimeMS: 50, StallMS: 900,
				Timeline: map[string]float64{"resumed": 0, "detected": 10, "active": 50, "released": 700, "passive": 720, "unloaded": 900}},
		},
		TCP:    TCP{BytesSent: 1 << 20},
		UDPOut: UDPOut{Sent: 100, Received: 100, Duplicated: 2, Reordered: 3},
	}
}

func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		rule   string
		change func(*Report)
		reason string // part of it; empty for a pass
	}{
		{"duplicates and reordering do not fail a demo", func(*Report) {}, ""},
		{"a move that was not made fails it", func(r *Report) { r.Moves = nil }, "only 0 of 1"},
		{"a recovery that did not end fails it", func(r *Report) { r.Moves[0].Error = "no recovery" }, "no recovery"},
		{"a reset fails it", func(r *Report) { r.TCP.Resets = 1 }, "reset"},
		{"a lost byte fails it", func(r *Report) { r.TCP.BytesLost = 1 }, "1 bytes of the TCP stream are lost"},
		{"a corrupt byte fails it", func(r *Report) { r.TCP.BytesCorrupt = 1 }, "corrupt"},
		{"a missing datagram fails it", func(r *Report) { r.UDPOut.Missing = 1 }, "1 of 100 outgoing datagrams"},
		{"silence on TCP fails it", func(r *Report) { r.TCP.BytesSent = 0 }, "no byte"},
		{"silence on UDP fails it", func(r *Report) { r.UDPOut = UDPOut{} }, "no datagram"},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			r := passing()
			tc.change(&r)
			r.judge(1)
			want := "pass"
			if tc.reason != "" {
				want = "fail"
			}
			if r.Verdict != want || !strings.Contains(strings.Join(r.Reasons, "\n"), tc.reason) {
				t.Errorf("verdict %s, reasons %q; want %s because of %q", r.Verdict, r.Reasons, want, tc.reason)
			}
		})
	}
}

func TestStallIsSplitWhereThingsHappened(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	for _, tc := range []struct {
		rule               string
		last, next         int // of the pause, ms
		stop, resume       int
		detected, released time.Duration
		want               Parts
	}{
		{"every part has its stretch", 0, 1000, 10, 110, 20 * time.Millisecond, 600 * time.Millisecond, Parts{10, 100, 20, 580, 290}},
		{"a stream that went on before the release has no back-off", 0, 500, 10, 110, 20 * time.Millisecond, 600 * time.Millisecond, Parts{10, 100, 20, 370, 0}},
		{"without stamps all after the resumption is TCP's", 0, 1000, 10, 110, -1, -1, Parts{10, 100, 0, 0, 890}},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			total, parts := stall(at(tc.last), at(tc.next), at(tc.stop), at(tc.resume), tc.detected, tc.released)
			if d := cmp.Diff(tc.want, parts); d != "" {
				t.Error("parts (-want +got):\n" + d)
			}
			if sum := parts.Before + parts.Stopped + parts.Detect + parts.Recover + parts.BackToIt; sum != total {
				t.Errorf("the parts add up to %v ms of %v", sum, total)
			}
		})
	}
}

func TestPictureIsWellFormed(t *testing.T) {
	r := passing()
	r.Moves[0].Error = `<&"hostile">`
	r.judge(1)
	var b strings.Builder
	if err := WriteSVG(&b, r); err != nil {
		t.Fatal(err)
	}
	dec := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		_, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"e1000 in slot 2 → rtl8139 in slot 2", ">fail<", "900 ms"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the picture lacks %q", want)
		}
	}
}
