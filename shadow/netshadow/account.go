// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netshadow

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/shadow/journal"
)

// factAccount is the journal's fact with the last account.
const factAccount = "account"

// An account says which frames are in this process's memory only, so that its
// successor can report them as lost. Frames that go to the TAP after it was written
// are in nobody's memory by then: the kernel's own counter tells how many. What the
// harvest has seen since, its successor's counters tell.
type account struct {
	log     *slog.Logger
	journal *journal.Journal
	tap     string // its interface

	last    figures
	pending bool // last is a predecessor's
}

type figures struct {
	Frames int    `json:"frames"`         // collected, not re-sent, and in memory only
	Seen   uint64 `json:"seen,omitempty"` // by the harvest, as of the last collection
	Armed  bool   `json:"armed,omitempty"`
	Tap    uint64 `json:"tap,omitempty"` // frames read from the TAP, all told
	Reads  bool   `json:"reads,omitempty"`
}

func newAccount(tap string, j *journal.Journal, log *slog.Logger) (*account, error) {
	a := &account{log: log, journal: j, tap: tap}
	var err error
	a.pending, err = j.State().Fact(factAccount, &a.last)
	return a, err
}

// claim returns how many frames a predecessor took with it, and those from the TAP
// that nobody has had since; armed says that it left the harvest armed, and seen what
// that had seen when it was last collected. The second call and all others return
// nothing.
func (a *account) claim() (lost int, seen uint64, armed bool) {
	if !a.pending {
		return 0, 0, false
	}
	a.pending = false
	f := a.last
	lost = f.Frames
	if read := a.tapFrames(); f.Reads && read > f.Tap {
		lost += int(read - f.Tap)
	}
	a.write(figures{Seen: f.Seen, Armed: f.Armed})
	return lost, f.Seen, f.Armed
}

// tapFrames is how many frames were ever read from the TAP
// (drivers/net/tun.c, tun_put_user).
func (a *account) tapFrames() uint64 {
	b, err := os.ReadFile(filepath.Join("/sys/class/net", a.tap, "statistics/tx_packets"))
	if err != nil {
		return 0 // the interface is gone, and what it had
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// arms notes that the harvest is about to begin, and what it has seen so far.
func (a *account) arms(seen uint64) {
	f := a.last
	f.Armed, f.Seen = true, seen
	a.write(f)
}

// collected notes up to where the harvest has been collected, and whether it goes on.
func (a *account) collected(seen uint64, armed bool) {
	f := a.last
	f.Seen, f.Armed = seen, armed
	a.write(f)
}

// keeps notes how many frames are in memory only.
func (a *account) keeps(frames int) {
	f := a.last
	f.Frames = frames
	a.write(f)
}

// reads notes that the TAP is read from here on, or up to here.
func (a *account) reads(on bool) {
	f := a.last
	f.Reads, f.Tap = on, a.tapFrames()
	a.write(f)
}

func (a *account) write(f figures) {
	if f == a.last {
		return
	}
	a.last = f
	var v any = f
	if f == (figures{}) {
		v = nil
	}
	if err := a.journal.Fact(factAccount, v); err != nil {
		a.log.Error("journal not written", "err", err)
	}
}
