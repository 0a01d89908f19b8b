// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package rota lets several parties do something by turns: one at a time, each once in
// a round, in the order of their names on the list. What they do it must never know.
package rota

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// A Rota is a list of parties, and whose turn it is.
type Rota struct {
	mu    sync.Mutex
	names []string // of those that have not left
	turns map[string]chan struct{}
	whose string // turn it is, "" before the first and after the last has left
	taken bool   // by whom it is
}

// New returns a Rota of parties, the first of which has the first turn.
func New(names ...string) *Rota {
	r := &Rota{names: slices.Clone(names), turns: make(map[string]chan struct{})}
	for _, n := range names {
		r.turns[n] = make(chan struct{}, 1)
	}
	if len(names) > 0 {
		r.give(names[0])
	}
	return r
}

// give makes it somebody's turn.
func (r *Rota) give(name string) {
	r.whose, r.taken = name, false
	r.turns[name] <- struct{}{}
}

// Done ends the turn of a party that has it; for others it does nothing.
func (r *Rota) Done(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.whose == name && r.taken {
		r.pass(name)
	}
}

// pass gives the turn to who comes after name.
func (r *Rota) pass(name string) {
	i := slices.Index(r.names, name)
	r.give(r.names[(i+1)%len(r.names)])
}

// Next ends the turn of a party if it has it, and waits for its next one.
func (r *Rota) Next(ctx context.Context, name string) error {
	r.mu.Lock()
	turn, ok := r.turns[name]
	here := slices.Contains(r.names, name)
	r.mu.Unlock()
	if !ok || !here {
		return fmt.Errorf("rota: %q is not on the list", name)
	}
	r.Done(name)
	select {
	case <-turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = true
	return nil
}

// Leave takes a party off the list, with its turn if it has it or it was about to.
func (r *Rota) Leave(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.names, name) {
		return
	}
	if r.whose == name {
		r.whose = ""
		select {
		case <-r.turns[name]:
		default:
		}
		if len(r.names) > 1 {
			r.pass(name)
		}
	}
	r.names = slices.DeleteFunc(r.names, func(n string) bool { return n == name })
}
