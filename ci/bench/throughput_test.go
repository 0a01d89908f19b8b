// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/umbra-vm/umbra/ci/bench/internal/line"
	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

func TestNobodyTransfersAtLineRateBeforeAllHaveWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrack([]string{"a", "b"})
		for _, guest := range []string{"a", "b"} {
			tr.add(guest, line.New(nil))
		}
		if err := tr.next(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		started := make(chan error, 2)
		go func() { started <- tr.next(t.Context(), "a", true) }()
		// While a waits for the rate it is b's turn.
		if err := tr.next(t.Context(), "b", false); err != nil {
			t.Fatal(err)
		}
		tr.endFree("a")
		select {
		case <-tr.free:
			t.Fatal("free of all, want b to be waited for")
		default:
		}
		go func() { started <- tr.next(t.Context(), "b", true) }()
		tr.endFree("b")
		<-tr.free
		synctest.Wait()
		if len(started) != 0 {
			t.Fatal("a guest has its turn before there is a rate")
		}
		tr.start(1)
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(started) != 0 {
			t.Fatal("both have their turn")
		}
		tr.turns.Leave("a")
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhoWaitsForTheLineEndsWithTheRun(t *testing.T) {
	tr := newTrack([]string{"a"})
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("over")
	cancel(over)
	if err := tr.next(ctx, "a", true); !errors.Is(err, over) {
		t.Errorf("got %v, want why the run is over", err)
	}
}

func TestSinkConfirmsDataAndAnswersQuestions(t *testing.T) {
	near, far := net.Pipe()
	var asked []bool
	ended := make(chan struct{})
	go func() {
		confirmStream(far, func(lined bool) error { asked = append(asked, lined); return nil })
		far.Close()
		close(ended)
	}()
	for _, q := range []struct {
		question uint32
		data     int // bytes that follow
	}{{record.AskTurn, 0}, {1, 1 << 20}, {record.AskLine, 0}, {2, 2 << 20}} {
		if _, err := near.Write(question(int(q.question))); err != nil {
			t.Fatal(err)
		}
		if q.data > 0 { // an empty write waits for a reader
			if _, err := near.Write(make([]byte, q.data)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
			t.Fatalf("%d: %v, want a byte", q.question, err)
		}
	}
	near.Close()
	<-ended
	if want := []bool{false, true}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}
