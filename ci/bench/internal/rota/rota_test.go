// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package rota

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPartiesTakeTurns(t *testing.T) {
	for _, tc := range []struct {
		name  string
		turns map[string]int // that each wants before it leaves
		want  []string
	}{
		{"each has one in a round", map[string]int{"a": 2, "b": 2, "c": 2}, []string{"a", "b", "c", "a", "b", "c"}},
		{"who has left is not waited for", map[string]int{"a": 3, "b": 1, "c": 2}, []string{"a", "b", "c", "a", "c", "a"}},
		{"who leaves before its first turn has none", map[string]int{"a": 0, "b": 2, "c": 2}, []string{"b", "c", "b", "c"}},
		{"the last has all the turns that are left", map[string]int{"a": 1, "b": 1, "c": 3}, []string{"a", "b", "c", "c", "c"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := New("a", "b", "c")
				var (
					mu   sync.Mutex
					got  []string
					busy int
					wg   sync.WaitGroup
				)
				for name, n := range tc.turns {
					wg.Go(func() {
						defer r.Leave(name)
						for range n {
							if err := r.Next(t.Context(), name); err != nil {
								t.Error(err)
								return
							}
							mu.Lock()
							busy++
							if busy != 1 {
								t.Errorf("%d at a time", busy)
							}
							got = append(got, name)
							mu.Unlock()
							time.Sleep(time.Second)
							mu.Lock()
							busy--
							mu.Unlock()
						}
					})
				}
				wg.Wait()
				if !slices.Equal(got, tc.want) {
					t.Errorf("turns of %v, want %v", got, tc.want)
				}
			})
		})
	}
}

func TestTurnIsOverWhenItsPartySaysSo(t *testing.T) {
	r := New("a", "b")
	if err := r.Next(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	r.Done("b") // has none
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if err := r.Next(ctx, "b"); !errors.Is(err, enough) {
		t.Fatalf("b's turn: %v, want that it waits for a", err)
	}
	r.Done("a")
	if err := r.Next(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

func TestStrangersHaveNoTurn(t *testing.T) {
	r := New("a")
	r.Leave("a")
	for _, name := range []string{"a", "b"} {
		if err := r.Next(t.Context(), name); err == nil {
			t.Errorf("%s had a turn, want an error", name)
		}
	}
}
