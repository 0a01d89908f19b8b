// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"maps"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// Ops returns the operations that lead from the baseline of an interface, its
// values as its driver brought it up, to the values now, in the order of a
// replay. It is for an interface that nothing was replayed on; a Recorder
// serves any.
func Ops(baseline, now Values) []oplog.Op {
	edits := NewRecorder(baseline, nil).Observe(now)
	return slices.DeleteFunc(edits, oplog.Op.IsRemoval)
}

// A Recorder turns what is seen of an interface, or of a proxy and a device
// together, into edits of a log. It is plain data: stored as JSON and read
// back it goes on where it stopped. It is not safe for concurrent use.
type Recorder struct {
	// Baseline holds the values with which the drivers brought the
	// interfaces up.
	Baseline Values `json:"baseline"`
	// Last holds the values last observed.
	Last Values `json:"last"`
	// Carried lists the keys of operations that came from an earlier
	// device. They stay operations whatever value they get.
	Carried []string `json:"carried,omitempty"`
}

// NewRecorder returns a Recorder for an interface with the baseline, on which
// the operations of carried are, or are about to be, replayed. After the
// replay call Rebase.
func NewRecorder(baseline Values, carried []oplog.Op) *Recorder {
	r := &Recorder{Baseline: baseline.clone(), Last: baseline.clone()}
	for _, op := range carried {
		r.carry(op.Base())
	}
	return r
}

// Rebase takes the values of now as they are: what changed since the last
// observation was our own doing, and not an operation. Like Observe it takes
// the values of one interface or of both.
func (r *Recorder) Rebase(now Values) {
	for _, key := range r.gone(now) {
		delete(r.Last, key)
	}
	maps.Copy(r.Last, now)
	r.fade(now)
}

// Lacks notes that the interface could not have what an operation asks for: a list that
// is without it says nothing about what somebody wants.
func (r *Recorder) Lacks(op oplog.Op) {
	if o, ok := lookup(op.Key); ok && o.group.listed() {
		delete(r.Last, op.Key)
	}
}

// gone returns the members of families last observed that the lists of now have no more.
func (r *Recorder) gone(now Values) (keys []string) {
	for key := range r.Last {
		o, ok := lookup(key)
		if !ok || !o.group.listed() || key == o.Key {
			continue
		}
		_, listed := now[o.Key]
		if _, there := now[key]; listed && !there {
			keys = append(keys, key)
		}
	}
	return keys
}

// fade lets go of values that have no meaning beside those of now, so that
// they are news when they come back.
func (r *Recorder) fade(now Values) {
	for _, c := range couplings {
		switch now[c.auto] {
		case "on":
			for _, key := range c.forced {
				delete(r.Last, key)
			}
		case "off":
			delete(r.Last, c.offered)
		}
	}
}

// Observe compares now with what was last observed and returns the edits of the
// log that follow, in the order of a replay: an operation for each setting that
// somebody changed, and a removal for a setting that somebody changed back to
// the baseline, or took out of a list. Other keys that now lacks say nothing: an
// interface without link may not know its speed. So the values of a proxy and of a
// device can be observed separately.
func (r *Recorder) Observe(now Values) []oplog.Op {
	edits := make(map[string]oplog.Op)
	for _, key := range r.gone(now) {
		delete(r.Last, key)
		r.drop(edits, key)
	}
	for key, value := range now {
		last, known := r.Last[key]
		r.Last[key] = value
		if known && last == value {
			continue
		}
		def, hasDefault := r.Baseline[key]
		switch o, ok := lookup(key); {
		case !ok, key == o.Key && o.group.listed():
		case !hasDefault && o.group != groupLinkModes && o.group != groupPause && !o.group.listed():
			// The driver began to offer it, as happens with features:
			// this is its default.
			r.Baseline[key] = value
		case hasDefault && def == value && !slices.Contains(r.Carried, key):
			edits[key] = oplog.Forget(key)
		default:
			edits[key] = oplog.Set(key, value)
		}
	}
	for _, c := range couplings {
		r.couple(edits, now, c)
	}
	r.clearBelow(edits, now)
	r.fade(now)
	ops := make([]oplog.Op, 0, len(edits))
	for _, op := range edits {
		ops = append(ops, op)
	}
	slices.SortFunc(ops, func(a, b oplog.Op) int {
		if c := rank(a.Base()) - rank(b.Base()); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return ops
}

// couple keeps together what has a meaning only together.
func (r *Recorder) couple(edits map[string]oplog.Op, now Values, c coupling) {
	_, changed := edits[c.auto]
	switch {
	case now[c.auto] == "on" && changed:
		for _, key := range c.forced {
			r.drop(edits, key)
		}
	case now[c.auto] == "off":
		if changed && c.offered != "" {
			r.drop(edits, c.offered)
		}
		for _, key := range c.forced {
			if op, ok := edits[key]; ok && !op.IsRemoval() && r.Baseline[c.auto] == "off" {
				edits[c.auto] = oplog.Set(c.auto, "off")
				r.carry(c.auto)
			}
		}
	}
}

// clearBelow drops what was waiting for a queueing discipline that somebody has put
// another in the place of.
func (r *Recorder) clearBelow(edits map[string]oplog.Op, now Values) {
	for _, key := range []string{keyRoot, keyIngress} {
		if _, changed := edits[key]; !changed {
			continue
		}
		for _, k := range replaced(r.Carried, key) {
			if _, there := now[k]; !there {
				r.drop(edits, k)
			}
		}
	}
}

// drop forgets an operation that has lost its meaning.
func (r *Recorder) drop(edits map[string]oplog.Op, key string) {
	edits[key] = oplog.Forget(key)
	r.Carried = slices.DeleteFunc(r.Carried, func(k string) bool { return k == key })
}

func (r *Recorder) carry(key string) {
	if !slices.Contains(r.Carried, key) {
		r.Carried = append(r.Carried, key)
		slices.Sort(r.Carried)
	}
}

// A coupling is a negotiation that other values depend on. The forced ones are
// settings while auto is off, and results while it is on; the offered one is a
// setting while it is on. The next device may have another default for auto,
// so a forced value takes auto=off along, even from a device that knows no
// other.
type coupling struct {
	auto    string
	forced  []string
	offered string
}

var couplings = []coupling{
	{keyLinkAuto, []string{keyLinkSpeed, keyLinkDuplex}, keyLinkModes},
	{keyPauseAuto, []string{keyPauseRx, keyPauseTx}, ""},
}
