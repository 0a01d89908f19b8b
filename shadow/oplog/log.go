// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package oplog

import (
	"fmt"
	"maps"
	"slices"
)

// A Log is the compact log of one role. The zero value is an empty log. It is
// not safe for concurrent use.
type Log struct {
	keys map[string]*item // by base
	n    int              // operations in it
}

// An item is what the log knows of one key: a value, or the members of a set.
type item struct {
	set      bool
	value    string            // of a value
	members  map[string]string // of a set: member -> why it is deferred
	deferred string            // why a value is deferred; empty if it is not
}

func (it *item) len() int {
	if it.set {
		return len(it.members)
	}
	return 1
}

// An Entry is an operation in a log with its mark.
type Entry struct {
	Op       Op
	Deferred string // why it is deferred; empty if it is not
}

// Replay returns the log that ops lead to.
func Replay(ops ...Op) (*Log, error) {
	l := new(Log)
	for _, op := range ops {
		if _, err := l.Apply(op); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Compact returns the shortest sequence of operations, sorted, that leads to
// the same log as ops.
func Compact(ops ...Op) ([]Op, error) {
	l, err := Replay(ops...)
	if err != nil {
		return nil, err
	}
	return l.Snapshot(), nil
}

// Apply applies op and reports whether it changed the log: an operation that
// the log holds already changes nothing and keeps its mark. The error matches
// ErrBadOp.
func (l *Log) Apply(op Op) (changed bool, err error) {
	if err := op.Validate(); err != nil {
		return false, err
	}
	base, operator := op.split()
	it := l.keys[base]
	switch operator {
	case '=':
		if it != nil && !it.set && it.value == op.Value {
			return false, nil
		}
		l.put(base, &item{value: op.Value})
	case '+':
		if it == nil || !it.set {
			it = &item{set: true, members: make(map[string]string)}
			l.put(base, it)
		}
		if _, ok := it.members[op.Value]; ok {
			return false, nil
		}
		it.members[op.Value] = ""
		l.n++
	case '-':
		if it == nil {
			return false, nil
		}
		if op.Value == "" {
			l.put(base, nil)
			return true, nil
		}
		if _, ok := it.members[op.Value]; !ok {
			return false, nil
		}
		delete(it.members, op.Value)
		l.n--
		if len(it.members) == 0 {
			l.put(base, nil)
		}
	}
	return true, nil
}

// put replaces what the log knows of base.
func (l *Log) put(base string, it *item) {
	if old := l.keys[base]; old != nil {
		l.n -= old.len()
	}
	if it == nil {
		delete(l.keys, base)
		return
	}
	if l.keys == nil {
		l.keys = make(map[string]*item)
	}
	l.keys[base] = it
	l.n += it.len()
}

// Get returns the value of key; ok is false for a set and for an unknown key.
func (l *Log) Get(key string) (value string, ok bool) {
	it := l.keys[key]
	if it == nil || it.set {
		return "", false
	}
	return it.value, true
}

// Members returns the sorted members of the set key, which is written without
// operator.
func (l *Log) Members(key string) []string {
	it := l.keys[key]
	if it == nil || !it.set {
		return nil
	}
	return slices.Sorted(maps.Keys(it.members))
}

// Len returns the number of operations in the log.
func (l *Log) Len() int { return l.n }

// Entries returns the operations in the log with their marks, sorted by key
// and member.
func (l *Log) Entries() []Entry {
	entries := make([]Entry, 0, l.n)
	for _, base := range slices.Sorted(maps.Keys(l.keys)) {
		it := l.keys[base]
		if !it.set {
			entries = append(entries, Entry{Set(base, it.value), it.deferred})
			continue
		}
		for _, m := range slices.Sorted(maps.Keys(it.members)) {
			entries = append(entries, Entry{Add(base, m), it.members[m]})
		}
	}
	return entries
}

// Snapshot returns the operations in the log, sorted by key and member.
func (l *Log) Snapshot() []Op {
	ops := make([]Op, 0, l.n)
	for _, e := range l.Entries() {
		ops = append(ops, e.Op)
	}
	return ops
}

// Deferred returns the deferred operations in the log, sorted.
func (l *Log) Deferred() []Entry {
	return slices.DeleteFunc(l.Entries(), func(e Entry) bool { return e.Deferred == "" })
}

// Defer marks op, which the log holds, as one that the device at hand cannot
// do, for the given reason; an empty reason removes the mark. It reports whether
// the log holds op.
func (l *Log) Defer(op Op, reason string) bool {
	base, operator := op.split()
	it := l.keys[base]
	switch {
	case it == nil || it.set != (operator == '+') || operator == '-':
		return false
	case it.set:
		if _, ok := it.members[op.Value]; !ok {
			return false
		}
		it.members[op.Value] = reason
	case it.value != op.Value:
		return false
	default:
		it.deferred = reason
	}
	return true
}

// ClearDeferred removes all marks, as before a replay on a new device.
func (l *Log) ClearDeferred() {
	for _, it := range l.keys {
		it.deferred = ""
		for m := range it.members {
			it.members[m] = ""
		}
	}
}

// Clone returns a copy of the log with its marks.
func (l *Log) Clone() *Log {
	c := &Log{keys: make(map[string]*item, len(l.keys)), n: l.n}
	for base, it := range l.keys {
		dup := *it
		dup.members = maps.Clone(it.members)
		c.keys[base] = &dup
	}
	return c
}

// Diff returns the operations that lead from the log of old to that of new:
// what is gone is removed, what is new or different is set. Both may be any
// sequence of operations.
func Diff(old, new []Op) ([]Op, error) {
	from, err := Replay(old...)
	if err != nil {
		return nil, fmt.Errorf("old: %w", err)
	}
	to, err := Replay(new...)
	if err != nil {
		return nil, fmt.Errorf("new: %w", err)
	}
	var diff []Op
	for _, base := range slices.Sorted(maps.Keys(from.keys)) {
		a, b := from.keys[base], to.keys[base]
		if b == nil {
			diff = append(diff, Forget(base))
			continue
		}
		if a.set && b.set {
			for _, m := range slices.Sorted(maps.Keys(a.members)) {
				if _, ok := b.members[m]; !ok {
					diff = append(diff, Remove(base, m))
				}
			}
		}
	}
	for _, op := range to.Snapshot() {
		if !from.holds(op) {
			diff = append(diff, op)
		}
	}
	return diff, nil
}

// holds reports whether the log has op in it.
func (l *Log) holds(op Op) bool {
	base, operator := op.split()
	it := l.keys[base]
	if it == nil || it.set != (operator == '+') {
		return false
	}
	if it.set {
		_, ok := it.members[op.Value]
		return ok
	}
	return it.value == op.Value
}
