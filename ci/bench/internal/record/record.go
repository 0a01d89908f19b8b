// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package record is the language between the program that measures in a guest
// and the benchmark that reads the guest's console: one JSON object per line,
// after a mark that nothing else prints.
//
// It knows what was measured, not what it is good for.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Mark stands before every record. What is before it on the line, such as the
// name of the program, is not looked at.
const Mark = "bench: "

// Tick stands in datagrams before the guest's CLOCK_MONOTONIC, in nanoseconds as 8
// bytes, the most significant first.
const Tick = "umbra bench tick"

// Kind tells what a record is about.
type Kind string

// The kinds of records.
const (
	Start Kind = "start" // the program began to run; Boottime, Init
	Quiet Kind = "quiet" // the guest has nothing else to do; Spin
	UDP   Kind = "udp"   // one round of sends by a Go program: Count datagrams, Work, Elapsed
	// UDPCall is UDP without the Go runtime: system calls and nothing else.
	UDPCall Kind = "udp-call"
	TCP     Kind = "tcp" // one round of sends: Count MiB, Work, Elapsed
	// UDPReceive and TCPReceive are rounds of what the peer sends, as UDPCall and TCP.
	UDPReceive Kind = "udp-receive"
	TCPReceive Kind = "tcp-receive"
	// Send and Receive are transfers: Count MiB, in Elapsed all until the last is there, Idle.
	Send    Kind = "send"
	Receive Kind = "receive"
	Free    Kind = "free" // no more transfers follow that only their ends bound
	// LineSend and LineReceive are Send and Receive over a link with a line rate.
	LineSend    Kind = "line-send"
	LineReceive Kind = "line-receive"
	Bare        Kind = "bare" // a driver alone: Device, Driver, Unload, Scan, Probe, Open, Link
	Done        Kind = "done" // nothing follows
	Fail        Kind = "fail" // nothing follows; Error
)

// Questions that the sink answers, with a byte, as it answers a number of MiB.
const (
	// AskTurn asks for the guest's next turn: guests that are compared transfer one at a time.
	AskTurn uint32 = 0
	// AskLine does too, and for the link to have its rate, which is known once every
	// guest has said Free.
	AskLine uint32 = math.MaxUint32
)

// A Record is one measurement. Times are nanoseconds of the guest's clocks.
type Record struct {
	Kind     Kind    `json:"kind"`
	Boottime int64   `json:"boottime_ns,omitempty"` // CLOCK_BOOTTIME
	Init     int64   `json:"init_ns,omitempty"`     // when the kernel ran process 1
	Count    int     `json:"count,omitempty"`
	Work     float64 `json:"work_ns,omitempty"`    // what the guest's processor did for the round
	Elapsed  int64   `json:"elapsed_ns,omitempty"` // with what it waited
	Idle     int64   `json:"idle_ns,omitempty"`    // of Elapsed, the guest's processor had nothing to do
	Sent     int     `json:"sent,omitempty"`       // segments the socket sent in the round
	Received int     `json:"received,omitempty"`   // and received
	Spin     float64 `json:"spin_ns,omitempty"`    // one turn of the idle loop
	Device   string  `json:"device,omitempty"`     // bus address
	Driver   string  `json:"driver,omitempty"`
	Unload   int64   `json:"unload_ns,omitempty"` // of the NIC before, whose hardware was gone
	Scan     int64   `json:"scan_ns,omitempty"`   // of the bus, without the probe
	Probe    int64   `json:"probe_ns,omitempty"`
	Open     int64   `json:"open_ns,omitempty"` // set the interface up
	Link     int64   `json:"link_ns,omitempty"` // carrier
	Error    string  `json:"error,omitempty"`
}

// Errors of Parse.
var (
	ErrNoRecord = errors.New("no record")
	ErrBad      = errors.New("malformed record")
)

// Write prints r as one line, in one write: lines of others on the same
// console come before or after it.
func Write(w io.Writer, r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write %s record: %w", r.Kind, err)
	}
	_, err = fmt.Fprintf(w, "%s%s\n", Mark, b)
	return err
}

// Parse reads the record in a line of a console. A line without one gives
// ErrNoRecord, one with a record that cannot be read ErrBad.
func Parse(line string) (Record, error) {
	_, text, ok := strings.Cut(line, Mark+"{")
	if !ok {
		return Record{}, ErrNoRecord
	}
	dec := json.NewDecoder(strings.NewReader("{" + text))
	dec.DisallowUnknownFields()
	var r Record
	if err := dec.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrBad, err)
	}
	if rest := strings.TrimSpace(text[dec.InputOffset()-1:]); rest != "" {
		return Record{}, fmt.Errorf("%w: %q after it", ErrBad, rest)
	}
	if r.Kind == "" {
		return Record{}, fmt.Errorf("%w: no kind", ErrBad)
	}
	if r.Count < 0 || r.Elapsed < 0 || r.Idle < 0 || r.Boottime < 0 || r.Init < 0 || r.Unload < 0 || r.Scan < 0 || r.Probe < 0 || r.Open < 0 || r.Link < 0 {
		return Record{}, fmt.Errorf("%w: %s: negative number", ErrBad, r.Kind)
	}
	return r, nil
}
