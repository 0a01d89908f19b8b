// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"maps"
	"slices"
)

// A query asks the kernel for one group of one interface.
type query struct {
	index int
	group group
}

// A tracker is the state of a Watcher without its sockets: it takes what the
// kernel says, in order, and tells what changed and what to ask.
//
// The kernel announces settings with their new values, so next to nothing is
// asked in normal operation. A query is answered on the socket of the notifications,
// but the kernel fills in an answer before it queues it: a notification of the
// same group that comes between query and answer may be the newer one. Such an
// answer is dropped and asked for again.
type tracker struct {
	ifaces map[int]*iface
	queue  [numSockets][]query // what to ask next, by socket
	asked  [numSockets]*query  // what was asked and not answered yet
	stale  [numSockets]bool    // the answer to come may be old
	paused bool
}

// The sockets of a tracker.
const (
	socketLink = iota
	socketEthtool
	socketCalls // no socket: what is asked by ioctls and files, one at a time
	numSockets
)

func socketOf(g group) int {
	switch g {
	case groupLink:
		return socketLink
	case groupHash, groupRules, groupTimestamps, groupQueues, groupTraffic:
		return socketCalls
	}
	return socketEthtool
}

// iface is what a tracker knows of one interface.
type iface struct {
	name   string
	scope  Scope  // what of it is tracked
	values Values // now
	told   Values // as of the last change that was delivered
	gone   bool
}

func newTracker() *tracker { return &tracker{ifaces: make(map[int]*iface)} }

// add begins to track an interface and asks for all its settings of the scope.
func (t *tracker) add(index int, name string, scope Scope) {
	t.ifaces[index] = &iface{name: name, scope: scope, values: Values{}, told: Values{}}
	t.ask(index, everyGroup)
}

// remove forgets an interface.
func (t *tracker) remove(index int) {
	delete(t.ifaces, index)
	t.forgetQueries(index)
}

// ask queues queries for groups of an interface.
func (t *tracker) ask(index int, groups []group) {
	for _, g := range groups {
		t.enqueue(query{index, g})
	}
}

func (t *tracker) askAll(groups []group) {
	for _, index := range slices.Sorted(maps.Keys(t.ifaces)) {
		t.ask(index, groups)
	}
}

// look asks once more for groups of all interfaces.
func (t *tracker) look(groups []group) {
	for _, index := range slices.Sorted(maps.Keys(t.ifaces)) {
		for _, g := range groups {
			t.again(query{index, g})
		}
	}
}

// again asks for what changed by now: an answer that is under way may be older.
func (t *tracker) again(q query) {
	t.outdate(q)
	t.enqueue(q)
}

// outdate notes that the answer to a query, if it is the one to come, may be old.
func (t *tracker) outdate(q query) {
	s := socketOf(q.group)
	if asked := t.asked[s]; asked != nil && *asked == q {
		t.stale[s] = true
	}
}

// enqueue queues a query, unless nobody wants to know of the interface what it asks.
func (t *tracker) enqueue(q query) {
	if i := t.ifaces[q.index]; i == nil || i.scope&q.group.scope() == 0 {
		return
	}
	s := socketOf(q.group)
	if !slices.Contains(t.queue[s], q) {
		t.queue[s] = append(t.queue[s], q)
	}
}

// next returns the query to send on a socket, if there is one to send.
func (t *tracker) next(socket int) (query, bool) {
	if t.asked[socket] != nil || len(t.queue[socket]) == 0 {
		return query{}, false
	}
	q := t.queue[socket][0]
	t.queue[socket] = t.queue[socket][1:]
	t.asked[socket], t.stale[socket] = &q, false
	return q, true
}

// settled reports whether every query was answered.
func (t *tracker) settled() bool {
	for s := range numSockets {
		if t.asked[s] != nil || len(t.queue[s]) > 0 {
			return false
		}
	}
	return true
}

// answered takes the answer to the query of a socket; r is nil for an error,
// which leaves the group as it is known.
func (t *tracker) answered(socket int, r *report) {
	q := t.asked[socket]
	if q == nil {
		return
	}
	t.asked[socket] = nil
	switch {
	case t.stale[socket]:
		if t.ifaces[q.index] != nil {
			t.enqueue(*q)
		}
	case r != nil && r.index == q.index:
		t.take(*r)
	}
}

// notified takes a notification.
func (t *tracker) notified(r report) {
	t.outdate(query{r.index, r.group})
	if i := t.ifaces[r.index]; i != nil && r.group == groupFeatures && r.values[keyRules] != i.values[keyRules] {
		// Drivers forget their rules when these are switched off.
		t.again(query{r.index, groupRules})
	}
	t.take(r)
}

// overrun takes the news that notifications or answers of a socket were lost.
func (t *tracker) overrun(socket int) {
	t.asked[socket] = nil
	t.queue[socket] = nil
	t.askAll(slices.DeleteFunc(slices.Clone(everyGroup), func(g group) bool { return socketOf(g) != socket }))
}

func (t *tracker) take(r report) {
	i := t.ifaces[r.index]
	if i == nil {
		return
	}
	if r.unnamed {
		t.enqueue(query{r.index, r.group})
		return
	}
	if r.group == groupLink {
		if r.gone {
			i.gone = true
			t.forgetQueries(r.index)
			return
		}
		if r.name != "" {
			i.name = r.name
		}
		// A link message need not have all attributes.
		maps.Copy(i.values, r.values)
		// Drivers tell a forced speed only while there is a link. The
		// notification of a link that went and came may be one.
		if _, ok := i.values[keyLinkSpeed]; r.carrier && !ok && i.values[keyLinkAuto] == "off" {
			t.enqueue(query{r.index, groupLinkModes})
		}
		return
	}
	maps.DeleteFunc(i.values, func(key, _ string) bool {
		o, ok := lookup(key)
		return ok && o.group == r.group
	})
	maps.Copy(i.values, r.values)
}

func (t *tracker) forgetQueries(index int) {
	for s := range t.queue {
		t.queue[s] = slices.DeleteFunc(t.queue[s], func(q query) bool { return q.index == index })
	}
}

// change returns the next change to deliver, lowest index first.
func (t *tracker) change() (Change, bool) {
	if t.paused {
		return Change{}, false
	}
	for _, index := range slices.Sorted(maps.Keys(t.ifaces)) {
		i := t.ifaces[index]
		keys := i.told.Diff(i.values)
		if len(keys) > 0 || i.gone {
			return Change{Interface: i.name, Index: index, Values: i.values.clone(), Keys: keys, Gone: i.gone}, true
		}
	}
	return Change{}, false
}

// delivered notes that c was delivered. An interface that is gone is forgotten.
func (t *tracker) delivered(c Change) {
	if c.Gone {
		t.remove(c.Index)
		return
	}
	if i := t.ifaces[c.Index]; i != nil {
		i.told = c.Values.clone()
	}
}

// rebase takes all that is known as delivered.
func (t *tracker) rebase() {
	for index, i := range t.ifaces {
		if i.gone {
			t.remove(index)
			continue
		}
		i.told = i.values.clone()
	}
}

// known returns all settings by interface, also of one that has just gone unless
// another has its name.
func (t *tracker) known() map[string]Values {
	all := make(map[string]Values, len(t.ifaces))
	for _, i := range t.ifaces {
		if _, named := all[i.name]; !named || !i.gone {
			all[i.name] = i.values.clone()
		}
	}
	return all
}
