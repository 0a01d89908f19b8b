// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"errors"
	"fmt"
	"time"
)

// A Verdict is what the peer can swear to. Sizes are bytes.
type Verdict struct {
	// Resets counts connections that ended other than at the peer's word: by
	// RST, by error, or by an end of file nobody had asked for.
	Resets int `json:"resets"`

	// Reconnects counts connections beyond the first: a guest that opened
	// another one has lost its first, whatever it says.
	Reconnects int `json:"reconnects"`

	// Finished says that both sides ended in good order, and so that every
	// number here is final.
	Finished bool `json:"finished"`

	// The sums of both directions.
	BytesSent    int64 `json:"bytes_sent"`
	BytesLost    int64 `json:"bytes_lost"`
	BytesCorrupt int64 `json:"bytes_corrupt"`

	FromGuest Direction `json:"from_guest"`
	ToGuest   Direction `json:"to_guest"`

	UDPOut UDPOut `json:"udp_out"`
}

// Direction is the verdict on one direction of the connection.
type Direction struct {
	Records int64 `json:"records"` // received intact
	Sent    int64 `json:"sent"`    // as far as the receiver of the verdict was told
	Lost    int64 `json:"lost"`    // sent and never received; in a verdict that is not final, not yet
	Corrupt int64 `json:"corrupt"`

	// LongestGap is the longest pause between two records, 0 below Resolution.
	LongestGap time.Duration `json:"longest_gap_ns"`
}

// UDPOut is the verdict on the datagrams that the guest sent.
type UDPOut struct {
	Sent       int64 `json:"sent"`   // numbered by the guest, failed sends included
	Failed     int64 `json:"failed"` // of these, refused by the guest's own kernel
	Received   int64 `json:"received"`
	Missing    int64 `json:"missing"` // Sent less Received
	Duplicated int64 `json:"duplicated"`
	Reordered  int64 `json:"reordered"` // received after one with a higher number
	Corrupt    int64 `json:"corrupt"`   // not a datagram of the witness any more
	Stale      int64 `json:"stale"`     // too late to tell whether they are new; also counted as missing
	Foreign    int64 `json:"foreign"`   // of another run of the guest's program

	// MissingRanges names the first of the missing.
	MissingRanges []Range `json:"missing_ranges,omitempty"`

	// SlowestSend is the longest time one send took in the guest.
	SlowestSend time.Duration `json:"slowest_send_ns"`
}

// ErrHarm is matched by the errors of [Verdict.Err].
var ErrHarm = errors.New("witness: the guest was harmed")

// Err returns nil if nothing was reset, lost or altered and the run finished
// in good order, else an error that lists what happened. Duplicated and
// reordered datagrams are no harm: UDP promises neither.
func (v Verdict) Err() error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf("%w: %s", ErrHarm, fmt.Sprintf(format, args...)))
		}
	}
	bad(v.Resets > 0, "the connection was lost")
	bad(v.Reconnects > 0, "%d further connections", v.Reconnects)
	bad(!v.Finished && v.Resets == 0, "the run did not finish")
	bad(v.BytesLost > 0, "%d of %d bytes lost", v.BytesLost, v.BytesSent)
	bad(v.BytesCorrupt > 0, "%d bytes corrupt", v.BytesCorrupt)
	bad(v.UDPOut.Missing > 0, "%d of %d datagrams missing, %d of them never left: %v",
		v.UDPOut.Missing, v.UDPOut.Sent, v.UDPOut.Failed, v.UDPOut.MissingRanges)
	bad(v.UDPOut.Corrupt > 0, "%d datagrams corrupt", v.UDPOut.Corrupt)
	bad(v.UDPOut.Foreign > 0, "%d datagrams of another run", v.UDPOut.Foreign)
	return errors.Join(errs...)
}

// A Snapshot is the state of a run for a live view. Its verdict is not final:
// what is on its way counts as lost or missing.
type Snapshot struct {
	Verdict
	Connected  bool
	Guest      string    // address of the guest's end, empty before the first connection
	LastRecord time.Time // arrival of the newest record
	LastUDP    time.Time // arrival of the newest datagram
}

// Stalls are the pauses around a move, each the longest of its kind and zero
// if there was none of Resolution or more.
type Stalls struct {
	FromGuest Gap // between records of the guest, as they arrived here
	RoundTrip Gap // between confirmations by the guest that records of the peer had arrived there
	UDP       Gap // between datagrams
}

// TCP is the longer one of the two pauses of the connection.
func (s Stalls) TCP() Gap {
	if s.RoundTrip.Duration() > s.FromGuest.Duration() {
		return s.RoundTrip
	}
	return s.FromGuest
}
