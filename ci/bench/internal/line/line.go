// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package line gives a link a line rate.
//
// A [Link] stands between a host and its network and passes, in each direction, no
// more bytes than its rate allows, by the wall clock. It drops nothing: what is too
// early waits, so that who sends it has to wait as well. It knows the length of
// frames and nothing else; who is at its ends, and why it is slow, it must never know.
package line

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Unlimited is the rate of a link that is as fast as its ends.
const Unlimited = 0

// slack is for how long, in seconds, a link that was idle, or was not run by its
// host's scheduler, may catch up. It is what makes the rate a mean that a busy machine
// keeps too.
const slack = 0.1

// longest is the longest frame that passes, in bytes: QEMU's NET_BUFSIZE.
const longest = 64*1024 + 4096

// Inner is the network behind the link, as package peer wants one.
type Inner interface {
	ReadFrame(ctx context.Context) ([]byte, error)
	WriteFrame(frame []byte) error
}

// A Link is an Inner with a rate in each direction, a token bucket each.
type Link struct {
	Inner
	in, out atomic.Pointer[rate.Limiter] // nil: unlimited
}

// New returns a Link on inner that is unlimited.
func New(inner Inner) *Link { return &Link{Inner: inner} }

// SetRate makes r, in bytes of frames per second, what passes in each direction from
// now on, with nothing to catch up; Unlimited or less takes the limit away. It may be
// called from any goroutine.
func (l *Link) SetRate(r float64) {
	for _, b := range []*atomic.Pointer[rate.Limiter]{&l.in, &l.out} {
		if r <= Unlimited {
			b.Store(nil)
			continue
		}
		burst := max(int(r*slack), longest)
		limiter := rate.NewLimiter(rate.Limit(r), burst)
		limiter.AllowN(time.Now(), burst) // a new one is full
		b.Store(limiter)
	}
}

// wait returns once so many bytes may pass.
func wait(ctx context.Context, b *atomic.Pointer[rate.Limiter], bytes int) error {
	limiter := b.Load()
	if limiter == nil {
		return nil
	}
	if err := limiter.WaitN(ctx, bytes); err != nil {
		return fmt.Errorf("line: a frame of %d bytes: %w", bytes, err)
	}
	return nil
}

// ReadFrame returns the next frame once the rate allows it. Nothing is read meanwhile.
func (l *Link) ReadFrame(ctx context.Context) ([]byte, error) {
	frame, err := l.Inner.ReadFrame(ctx)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, &l.in, len(frame)); err != nil {
		return nil, err
	}
	return frame, nil
}

// WriteFrame sends frame once the rate allows it, and returns then.
func (l *Link) WriteFrame(frame []byte) error {
	if err := wait(context.Background(), &l.out, len(frame)); err != nil {
		return err
	}
	return l.Inner.WriteFrame(frame)
}
