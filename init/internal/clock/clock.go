// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package clock keeps the guest's clock right by what NTP servers say (RFC 5905). A guest
// that has moved needs that more than others: its clocks stood still in between.
//
// A clock that is off by little is slewed, by the kernel, without a jump and never
// backwards. One that is off by more is set: at once after boot and after a move, else
// only if the next look says about the same. The package must never know what a recovery is,
// nor where the names of servers come from.
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// refusedFor is how long a server is left alone that does not want to be asked.
const refusedFor = time.Hour

// Clock is the clock that is kept.
type Clock interface {
	// Step moves it by an offset.
	Step(offset time.Duration) error
	// Slew has it catch up with an offset, known to be off by distance at most, in about
	// the time of a wait.
	Slew(offset, distance, wait time.Duration) error
}

// askFunc asks one server.
type askFunc func(ctx context.Context, server string) (sample, error)

// Options of a Keeper.
type Options struct {
	Servers func() []string // whom to ask, as it is now
	Moved   <-chan struct{} // told whenever the guest has moved
	Clock   Clock
	Logger  *slog.Logger
}

// A Keeper keeps a clock.
type Keeper struct {
	Options
	ask     askFunc
	refused map[string]time.Time // servers, until when
	state   state
	lost    bool // it was said that nobody answers
}

// New returns a Keeper of a clock that may be off by anything.
func New(opts Options) *Keeper {
	return &Keeper{Options: opts, ask: ask, refused: make(map[string]time.Time), state: state{hurry: true}}
}

// Run keeps the clock until ctx ends. Servers that do not answer are no reason to end.
func (k *Keeper) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.Moved:
			k.Logger.Info("the guest has moved: the clock is looked at")
			k.state = state{hurry: true}
		case <-timer.C:
		}
		timer.Reset(k.look(ctx))
	}
}

// look asks, does what has to be done, and returns how long to wait for the next look.
func (k *Keeper) look(ctx context.Context) time.Duration {
	samples, asked := k.askAll(ctx)
	best, err := choose(samples)
	if err != nil {
		k.tell(errors.Join(err, asked))
		return k.state.failed()
	}
	if k.lost {
		k.lost = false
		k.Logger.Info("the time is told again", "server", best.server)
	}
	act := k.state.decide(best.offset)
	told, level := "the clock may be wrong, asks again: by %v", slog.LevelInfo
	switch {
	case act.step:
		told, err = "the clock is set, by %v", k.Clock.Step(best.offset)
	case act.slew:
		told, err = "the clock is slewed, by %v", k.Clock.Slew(best.offset, best.distance, act.wait)
		level = slog.LevelDebug
	}
	if err != nil {
		k.Logger.Error("the clock stays as it is", "err", err)
		return lostWait
	}
	k.Logger.Log(ctx, level, fmt.Sprintf(told, best.offset), "server", best.server, "within", best.distance)
	return act.wait
}

// tell says once that the time is not to be had, and not of a network that is yet to come.
func (k *Keeper) tell(err error) {
	if k.lost || k.state.hurry && k.state.vain < hurries {
		k.Logger.Debug("the time is not told", "err", err)
		return
	}
	k.lost = true
	k.Logger.Warn("the time is not told; the clock goes on by itself", "err", err)
}

// askAll asks all servers at once. The error joins those of servers that gave no sample.
func (k *Keeper) askAll(ctx context.Context) ([]sample, error) {
	servers := slices.DeleteFunc(k.Servers(), func(s string) bool { return time.Now().Before(k.refused[s]) })
	samples, errs := make([]sample, len(servers)), make([]error, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() { samples[i], errs[i] = k.ask(ctx, server) })
	}
	wg.Wait()
	var good []sample
	for i, err := range errs {
		switch {
		case err == nil:
			good = append(good, samples[i])
		case errors.Is(err, ErrRefused):
			k.refused[servers[i]] = time.Now().Add(refusedFor)
			k.Logger.Warn("not asked for a while", "for", refusedFor, "err", err)
		}
	}
	return good, errors.Join(errs...)
}
