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
	"github.com/umbra-vm/umbra/shadow/netshadow/harvest"
)

// factAccount is the journal's fact with the last account.
const factAccount = "account"

// An account says which frames are in this process's memory only, so that its
// successor can report them as lost. Frames that are freed, or go to the TAP, after
// it was written are in nobody's memory by then: the kernel's own counters tell
// how many.
type account struct {
	log     *slog.Logger
	journal *journal.Journal
	pins    string // directory where the harvest counts on without this process
	tap     string // its interface

	last    figures
	pending bool // last is a predecessor's
}

type figures struct {
	Frames int    `json:"frames"`         // collected, and not re-sent
	Seen   uint64 `json:"seen,omitempty"` // by the harvest, as of the last collection
	Armed  bool   `json:"armed,omitempty"`
	Tap    uint64 `json:"tap,omitempty"` // frames read from the TAP, all told
	Reads  bool   `json:"reads,omitempty"`
}

func newAccount(role, tap, pins string, j *journal.Journal, log *slog.Logger) (*account, error) {
	a := &account{log: log, journal: j, tap: tap}
	if pins != "" {
		a.pins = filepath.Join(pins, role)
	}
	var err error
	a.pending, err = j.State().Fact(factAccount, &a.last)
	return a, err
}

// claim returns how many frames a predecessor took with it, and those that
// nobody has had since. It returns 0 from the second call on.
func (a *account) claim() int {
	if !a.pending {
		return 0
	}
	a.pending = false
	lost := a.last.Frames
	if a.last.Armed && a.pins != "" {
		switch seen, ok, err := harvest.Orphaned(a.pins); {
		case err != nil:
			a.log.Error("frames that were freed without an agent are not counted", "err", err)
		case ok && seen > a.last.Seen:
			lost += int(seen - a.last.Seen)
		}
	}
	if read := a.tapFrames(); a.last.Reads && read > a.last.Tap {
		lost += int(read - a.last.Tap)
	}
	a.write(figures{})
	return lost
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

// armed notes that the harvest has begun, and what it has seen so far.
func (a *account) armed(seen uint64) {
	f := a.last
	f.Armed, f.Seen = true, seen
	a.write(f)
}

// collected notes that frames of the harvest are in memory, of what it has seen.
func (a *account) collected(frames int, seen uint64, armed bool) {
	f := a.last
	f.Frames, f.Seen, f.Armed = frames, seen, armed
	a.write(f)
}

// settled notes that nothing of the harvest is in memory any more.
func (a *account) settled() {
	f := a.last
	f.Frames = 0
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
