// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

const ms = time.Millisecond

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		rule    string
		samples []sample
		want    string // server
		err     error
	}{
		{"nobody", nil, "", ErrNoAnswer},
		{"one server is believed", []sample{{"a", time.Hour, ms}}, "a", nil},
		{"of those that agree the most certain", []sample{{"a", 30 * ms, 50 * ms}, {"b", 10 * ms, 20 * ms}}, "b", nil},
		{"of two that do not agree none", []sample{{"a", 0, ms}, {"b", time.Second, ms}}, "", ErrNoMajority},
		{"two are more than one, however certain", []sample{{"a", 100 * ms, 10 * ms}, {"liar", time.Hour, 0}, {"b", 90 * ms, 20 * ms}}, "a", nil},
		{"half is no majority", []sample{{"a", 0, ms}, {"b", 0, ms}, {"c", time.Hour, ms}, {"d", time.Hour, ms}}, "", ErrNoMajority},
		{"one that agrees with nobody does not widen the rest", []sample{{"a", 0, 5 * ms}, {"b", 8 * ms, 5 * ms}, {"c", 16 * ms, 5 * ms}},
			"a", nil}, // a and b overlap, b and c do, all three do not
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got, err := choose(tt.samples)
			if got.server != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got.server, err, tt.want, tt.err)
			}
		})
	}
}

// hand is a clock that says what is done to it.
type hand struct {
	off  time.Duration // how far it is behind
	done []string
}

func (h *hand) Step(offset time.Duration) error {
	h.off -= offset
	h.done = append(h.done, fmt.Sprintf("step %v", offset))
	return nil
}

func (h *hand) Slew(offset, _, wait time.Duration) error {
	h.off -= offset
	h.done = append(h.done, fmt.Sprintf("slew %v %v", offset, wait))
	return nil
}

// TestKeeper runs a keeper in a time of its own. The script says, for each question, by
// how much the answer is wrong, or that there is none; then the guest has moved.
func TestKeeper(t *testing.T) {
	const none = time.Duration(1 << 62)
	silent := func(n int) []time.Duration { return slices.Repeat([]time.Duration{none}, n) }
	for _, tt := range []struct {
		rule   string
		off    time.Duration // of the clock, at first
		script []time.Duration
		drift  time.Duration // of the clock, after the script
		moved  bool          // and the guest has
		after  []time.Duration
		want   []string
	}{
		{rule: "a clock that is far off at boot is set at once, and looked at again", off: time.Hour, script: []time.Duration{0, 0},
			want: []string{"step 1h0m0s", "slew 0s 16s"}},
		{rule: "a clock that is off by little is slewed, and looked at less and less often", off: 20 * ms, script: []time.Duration{0, 0, 0, 0},
			want: []string{"slew 20ms 16s", "slew 0s 32s", "slew 0s 1m4s", "slew 0s 2m8s"}},
		{rule: "an answer that was late is corrected by the next", off: time.Hour, script: []time.Duration{500 * ms, 0, 0},
			want: []string{"step 1h0m0.5s", "step -500ms", "slew 0s 16s"}},
		{rule: "there is no network yet", off: time.Hour, script: append(silent(20), 0, 0), want: []string{"step 1h0m0s", "slew 0s 16s"}},
		{rule: "nor for long", off: time.Hour, script: append(silent(100), 0, 0), want: []string{"step 1h0m0s", "slew 0s 16s"}},
		{rule: "one answer that is far off is not believed", script: []time.Duration{0, time.Hour, 0},
			want: []string{"slew 0s 16s", "slew 0s 16s"}},
		{rule: "nor two that contradict each other", script: []time.Duration{0, time.Hour, -time.Hour, 0},
			want: []string{"slew 0s 16s", "slew 0s 16s"}},
		{rule: "two that agree are", script: []time.Duration{0}, drift: time.Minute, after: []time.Duration{0, 0, 0},
			want: []string{"slew 0s 16s", "step 1m0s", "slew 0s 16s"}},
		{rule: "after a move the first is", script: []time.Duration{0}, drift: time.Minute, moved: true, after: []time.Duration{0, 0},
			want: []string{"slew 0s 16s", "step 1m0s", "slew 0s 16s"}},
		{rule: "after a move the network may take its time", script: []time.Duration{0}, drift: time.Minute, moved: true, after: append(silent(3), 0, 0),
			want: []string{"slew 0s 16s", "step 1m0s", "slew 0s 16s"}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hand{off: tt.off}
				script, asked := tt.script, make(chan struct{}, 1)
				var mu sync.Mutex
				moved := make(chan struct{})
				k := New(Options{
					Servers: func() []string { return []string{"a"} }, Moved: moved, Clock: h, Logger: slog.New(slog.DiscardHandler),
				})
				k.ask = func(context.Context, string) (sample, error) {
					mu.Lock()
					defer mu.Unlock()
					if len(script) == 0 {
						return sample{}, ErrNoAnswer
					}
					wrong := script[0]
					if script = script[1:]; len(script) == 0 {
						asked <- struct{}{}
					}
					if wrong == none {
						return sample{}, ErrNoAnswer
					}
					return sample{"a", h.off + wrong, ms}, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				go k.Run(ctx)
				<-asked
				synctest.Wait()
				if tt.after != nil {
					mu.Lock()
					h.off += tt.drift
					script = tt.after
					mu.Unlock()
					if tt.moved {
						start := time.Now()
						moved <- struct{}{}
						<-asked
						if took, most := time.Since(start), time.Duration(len(tt.after))*hurryWait; took > most {
							t.Errorf("it took %v after the move, want %v at most", took, most)
						}
					} else {
						<-asked
					}
					synctest.Wait()
				}
				cancel()
				synctest.Wait()
				if !slices.Equal(h.done, tt.want) {
					t.Errorf("done: %q, want %q", h.done, tt.want)
				}
			})
		})
	}
}

func TestAServerThatRefusesIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		questions := make(map[string]int)
		k := New(Options{
			Servers: func() []string { return []string{"good", "bad"} }, Clock: &hand{}, Logger: slog.New(slog.DiscardHandler),
		})
		k.ask = func(_ context.Context, server string) (sample, error) {
			mu.Lock()
			defer mu.Unlock()
			questions[server]++
			if server == "bad" {
				return sample{}, ErrRefused
			}
			return sample{server, 0, ms}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		go k.Run(ctx)
		time.Sleep(59 * time.Minute)
		cancel()
		synctest.Wait()
		if questions["bad"] != 1 || questions["good"] < 2 {
			t.Errorf("questions: %v, want 1 to the one that refuses", questions)
		}
	})
}

// A kiss of death is an answer of stratum 0 (RFC 5905, 7.4).
func TestAKissIsARefusal(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		b := make([]byte, 100)
		n, client, err := conn.ReadFrom(b)
		if err != nil || n < 48 {
			return
		}
		answer := make([]byte, 48)
		answer[0] = b[0]&0x38 | 4
		copy(answer[12:], "DENY")
		copy(answer[24:], b[40:48])
		copy(answer[32:], b[40:48])
		copy(answer[40:], b[40:48])
		_, _ = conn.WriteTo(answer, client)
	}()
	_, err = ask(t.Context(), conn.LocalAddr().String())
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "DENY") {
		t.Errorf("error %v, want ErrRefused and its code", err)
	}
}

func TestWhatTheKernelIsTold(t *testing.T) {
	for _, tt := range []struct {
		offset time.Duration
		want   unix.Timeval
	}{
		{1500 * ms, unix.Timeval{Sec: 1, Usec: 500_000_000}},
		{-1500 * ms, unix.Timeval{Sec: -2, Usec: 500_000_000}},
		{-time.Second, unix.Timeval{Sec: -1}},
	} {
		if got := nanoseconds(tt.offset); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.offset, got, tt.want)
		}
	}
	for wait, want := range map[time.Duration]int64{hurryWait: 0, minWait: 0, 64 * time.Second: 2, maxWait: 6} {
		if got := timeConstant(wait); got != want {
			t.Errorf("a question each %v: constant %d, want %d", wait, got, want)
		}
	}
}
