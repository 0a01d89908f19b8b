// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package journal

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// KeepTimelines is how many timelines of past recoveries a journal keeps.
const KeepTimelines = 16

// A State is what a journal says.
type State struct {
	Log      *oplog.Log    // with its marks
	Recovery *ctl.Timeline // a recovery that was under way; nil if none was
	// Timelines are those of the last recoveries that ended, at most
	// KeepTimelines, oldest first.
	Timelines []ctl.Timeline
	// Torn is how many bytes Open cut off the end of the file: the record
	// that a killed predecessor was writing.
	Torn int

	facts map[string]json.RawMessage
}

// Fact stores what was last recorded under name in v, as encoding/json does;
// ok is false if nothing was.
func (s State) Fact(name string, v any) (ok bool, err error) {
	raw, ok := s.facts[name]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return true, fmt.Errorf("fact %s: %w", name, err)
	}
	return true, nil
}

// Facts returns the sorted names of the facts.
func (s State) Facts() []string { return slices.Sorted(maps.Keys(s.facts)) }

// The payloads of frames that are not timelines.
type (
	opRecord struct {
		Op       oplog.Op `json:"op"`
		Deferred string   `json:"deferred,omitempty"` // the mark; empty takes it away
	}
	factRecord struct {
		Name string          `json:"name"`
		Data json.RawMessage `json:"data,omitempty"` // none: the name is forgotten
	}
)

func newState() State {
	return State{Log: new(oplog.Log), facts: make(map[string]json.RawMessage)}
}

func (s State) clone() State {
	s.Log = s.Log.Clone()
	s.facts = maps.Clone(s.facts)
	s.Timelines = slices.Clone(s.Timelines)
	for i := range s.Timelines {
		s.Timelines[i] = cloneTimeline(s.Timelines[i])
	}
	if s.Recovery != nil {
		t := cloneTimeline(*s.Recovery)
		s.Recovery = &t
	}
	return s
}

func cloneTimeline(t ctl.Timeline) ctl.Timeline {
	t.Stamps = slices.Clone(t.Stamps)
	t.Deferred = slices.Clone(t.Deferred)
	return t
}

// sameRecovery reports whether two timelines tell of one recovery. The time is
// compared as well because a role whose journal was lost counts from 1 again.
func sameRecovery(a, b ctl.Timeline) bool {
	return a.Recovery == b.Recovery && a.Started == b.Started
}

// apply takes a frame into the state. After an error the state is unchanged.
func (s *State) apply(f frame) error {
	switch f.kind {
	case kindOp:
		var r opRecord
		if err := json.Unmarshal(f.payload, &r); err != nil {
			return fmt.Errorf("operation: %w", err)
		}
		if _, err := s.Log.Apply(r.Op); err != nil {
			return err
		}
		s.Log.Defer(r.Op, r.Deferred)
	case kindFact:
		var r factRecord
		if err := json.Unmarshal(f.payload, &r); err != nil {
			return fmt.Errorf("fact: %w", err)
		}
		if r.Data == nil {
			delete(s.facts, r.Name)
		} else {
			s.facts[r.Name] = r.Data
		}
	case kindProgress:
		var t ctl.Timeline
		if err := json.Unmarshal(f.payload, &t); err != nil {
			return fmt.Errorf("progress: %w", err)
		}
		s.Recovery = &t
	case kindDone:
		var t ctl.Timeline
		if err := json.Unmarshal(f.payload, &t); err != nil {
			return fmt.Errorf("timeline: %w", err)
		}
		s.done(t)
	default:
		return fmt.Errorf("frame of unknown kind %d", f.kind)
	}
	return nil
}

// done takes in the timeline of a recovery that ended, or a later version of
// one: an old driver may be unloaded when its recovery is over.
func (s *State) done(t ctl.Timeline) {
	if s.Recovery != nil && sameRecovery(*s.Recovery, t) {
		s.Recovery = nil
	}
	same := func(o ctl.Timeline) bool { return sameRecovery(o, t) }
	if i := slices.IndexFunc(s.Timelines, same); i >= 0 {
		s.Timelines[i] = t
		return
	}
	s.Timelines = append(s.Timelines, t)
	if n := len(s.Timelines); n > KeepTimelines {
		s.Timelines = slices.Delete(s.Timelines, 0, n-KeepTimelines)
	}
}

// encode returns the shortest journal file that says s, and the sequence number
// of its last frame.
func (s State) encode() (b []byte, seq uint32, err error) {
	b = []byte(fileMagic)
	add := func(kind byte, v any) {
		var payload []byte
		if payload, err = encodePayload(v, err); err == nil {
			seq++
			b = appendFrame(b, frame{kind, seq, payload})
		}
	}
	for _, name := range s.Facts() {
		add(kindFact, factRecord{name, s.facts[name]})
	}
	for _, e := range s.Log.Entries() {
		add(kindOp, opRecord{e.Op, e.Deferred})
	}
	for _, t := range s.Timelines {
		add(kindDone, t)
	}
	if s.Recovery != nil {
		add(kindProgress, *s.Recovery)
	}
	return b, seq, err
}

func encodePayload(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(payload), maxPayload)
	}
	return payload, nil
}
