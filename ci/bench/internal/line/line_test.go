// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package line

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// wire has frames of one length without end, and counts what passes it.
type wire struct {
	length     int
	read, sent int // frames
}

func (w *wire) ReadFrame(context.Context) ([]byte, error) {
	w.read++
	return make([]byte, w.length), nil
}

func (w *wire) WriteFrame([]byte) error { w.sent++; return nil }

// directions of a link, each with what passes a frame and what counts those that have
// passed the wire.
var directions = []struct {
	name  string
	pass  func(context.Context, *Link) error
	count func(*wire) int
}{
	{"in", func(ctx context.Context, l *Link) error { _, err := l.ReadFrame(ctx); return err }, func(w *wire) int { return w.read }},
	{"out", func(_ context.Context, l *Link) error { return l.WriteFrame(make([]byte, l.Inner.(*wire).length)) }, func(w *wire) int { return w.sent }},
}

func TestLinkPassesAsMuchAsItsRateAllows(t *testing.T) {
	const mega = 1 << 20
	for _, tc := range []struct {
		name   string
		rate   float64 // bytes per second
		length int     // of a frame
		frames int
		took   time.Duration // by the clock, to a frame
	}{
		{"every byte takes its time", 50 * mega, mega / 20, 2000, 2 * time.Second},
		{"small frames and large take the same by the byte", 50 * mega, mega / 1000, 100000, 2 * time.Second},
		{"the slack has room for the longest frame", 1000, longest, 3, 3 * longest * time.Millisecond},
		{"without a rate nothing waits", Unlimited, mega / 20, 10000, 0},
	} {
		for _, d := range directions {
			t.Run(tc.name+", "+d.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &wire{length: tc.length}
					l := New(w)
					l.SetRate(tc.rate)
					start := time.Now()
					for range tc.frames {
						if err := d.pass(t.Context(), l); err != nil {
							t.Fatal(err)
						}
					}
					took := time.Since(start)
					if off := took - tc.took; off.Abs() > max(tc.took/500, time.Microsecond) {
						t.Errorf("%d frames of %d bytes took %v at %v bytes/s, want %v", tc.frames, tc.length, took, tc.rate, tc.took)
					}
					if n := d.count(w); n != tc.frames {
						t.Errorf("%d frames passed, want all %d", n, tc.frames)
					}
				})
			})
		}
	}
}

// What the link has not passed is left where it is: that is what its sender feels.
func TestLinkTakesNothingThatItCannotPass(t *testing.T) {
	for _, d := range directions {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{length: longest}
				l := New(w)
				l.SetRate(longest) // a frame a second
				ctx, cancel := context.WithCancel(t.Context())
				passed, done := 0, make(chan struct{})
				go func() {
					defer close(done)
					for ctx.Err() == nil && d.pass(ctx, l) == nil {
						passed++
					}
				}()
				time.Sleep(10*time.Second + 500*time.Millisecond)
				synctest.Wait()
				if passed != 10 {
					t.Errorf("%d frames in 10.5 s, want 10", passed)
				}
				if n := d.count(w); n > passed+1 {
					t.Errorf("%d frames were taken, and %d passed: more than one waits in the link", n, passed)
				}
				cancel()
				<-done
			})
		})
	}
}

// The directions of a cable do not share its rate.
func TestLinkIsDuplex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(&wire{length: longest})
		l.SetRate(longest)
		start := time.Now()
		done := make(chan error, len(directions))
		for _, d := range directions {
			go func() {
				var err error
				for range 10 {
					err = errors.Join(err, d.pass(t.Context(), l))
				}
				done <- err
			}()
		}
		for range directions {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took.Round(time.Second) != 10*time.Second {
			t.Errorf("10 frames each way took %v at one a second, want 10 s", took)
		}
	})
}

func TestLinkEndsWithItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(&wire{length: longest})
		l.SetRate(1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := l.ReadFrame(ctx)
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that the reader is canceled", err)
		}
	})
}

func TestRateMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(&wire{length: longest})
		for _, tc := range []struct{ rate, seconds float64 }{{longest, 10}, {Unlimited, 0}, {longest / 2, 20}} {
			l.SetRate(tc.rate)
			start := time.Now()
			for range 10 {
				if _, err := l.ReadFrame(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(start).Seconds(); took < tc.seconds-0.1 || took > tc.seconds+0.1 {
				t.Errorf("10 frames took %.1f s at %v bytes/s, want %v", took, tc.rate, tc.seconds)
			}
		}
	})
}

// A machine that is busy for a moment does not make the link slower; one that is idle
// for long does not make it faster than that.
func TestLinkCatchesUpForAMoment(t *testing.T) {
	const mega, length = 1 << 20, 1 << 14
	for _, tc := range []struct {
		name        string
		idle, saved time.Duration
	}{
		{"what a moment has cost is caught up with", 50 * time.Millisecond, 50 * time.Millisecond},
		{"what a long time has cost is not", time.Hour, 100 * time.Millisecond},
	} {
		for _, d := range directions {
			t.Run(tc.name+", "+d.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := New(&wire{length: length})
					l.SetRate(16 * mega)
					time.Sleep(tc.idle)
					start := time.Now()
					for range 16 * mega / length {
						if err := d.pass(t.Context(), l); err != nil {
							t.Fatal(err)
						}
					}
					took := time.Since(start)
					if want := time.Second - tc.saved; (took - want).Abs() > time.Millisecond {
						t.Errorf("a second's data took %v after %v, want %v", took, tc.idle, want)
					}
				})
			})
		}
	}
}
