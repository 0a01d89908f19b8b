// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package qmp

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

// eventBacklog is how many events a Subscription keeps for a reader that does
// not come. A whole migration makes about a dozen.
const eventBacklog = 256

// An Event is something that QEMU said without having been asked.
type Event struct {
	goqemu.Event
}

// Time is when QEMU stamped the event: the host's wall clock, in microseconds.
func (e Event) Time() time.Time {
	return time.Unix(e.Timestamp.Seconds, e.Timestamp.Microseconds*1000)
}

// Text returns the string value of one member of the event's data, or "".
func (e Event) Text(key string) string {
	s, _ := e.Data[key].(string)
	return s
}

// A Subscription receives the events of one monitor from the moment it was made.
// A reader that falls behind by more than 256 events loses the oldest ones and
// can see so by Lost; it never slows the monitor down.
type Subscription struct {
	client *Client
	names  []string

	mu    sync.Mutex
	queue []Event
	lost  int
	wake  chan struct{} // holds one token while queue is not empty
}

// Subscribe starts collecting the events with one of the given names, or all
// events if none is given. Subscribe before the command whose effect is awaited.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{client: c, names: names, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s] = struct{}{}
	return s
}

// Close ends the collecting. Events already collected can still be read.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	delete(s.client.subs, s)
}

// Lost returns how many events were thrown away because nobody read them.
func (s *Subscription) Lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Next returns the oldest event not yet read, and waits for one if there is
// none. It fails with the context's error, or with ErrGone or ErrClosed when no
// event can come any more.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.pop(); ok {
			return e, nil
		}
		select {
		case <-s.wake:
		case <-s.client.Done():
			if e, ok := s.pop(); ok {
				return e, nil
			}
			return Event{}, &OpError{Op: "wait for event", Addr: s.client.addr, Err: s.client.Err()}
		case <-ctx.Done():
			return Event{}, &OpError{Op: "wait for event", Addr: s.client.addr, Err: context.Cause(ctx)}
		}
	}
}

// Ready receives a value when Next would probably not have to wait. It is for
// a select with other sources; the event itself comes from Next or TryNext.
func (s *Subscription) Ready() <-chan struct{} { return s.wake }

// TryNext returns the oldest event not yet read, if there is one.
func (s *Subscription) TryNext() (Event, bool) { return s.pop() }

// Wait reads events until match accepts one, and returns that one. Those before
// it are thrown away.
func (s *Subscription) Wait(ctx context.Context, match func(Event) bool) (Event, error) {
	for {
		e, err := s.Next(ctx)
		if err != nil || match(e) {
			return e, err
		}
	}
}

// WaitEvent subscribes and waits for one event by name. timeout limits the wait
// beyond what the context does; 0 means the context alone.
func (c *Client) WaitEvent(ctx context.Context, name string, timeout time.Duration) (Event, error) {
	s := c.Subscribe(name)
	defer s.Close()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout,
			fmt.Errorf("no %s event within %v: %w", name, timeout, context.DeadlineExceeded))
		defer cancel()
	}
	return s.Next(ctx)
}

func (s *Subscription) push(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Event.Event) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == eventBacklog {
		s.queue = slices.Delete(s.queue, 0, 1)
		s.lost++
	}
	s.queue = append(s.queue, e)
	s.signal()
}

func (s *Subscription) pop() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return Event{}, false
	}
	e := s.queue[0]
	s.queue = slices.Delete(s.queue, 0, 1)
	if len(s.queue) > 0 {
		s.signal()
	}
	return e, true
}

// signal must be called with mu held.
func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
