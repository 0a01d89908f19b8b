// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package clock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/beevik/ntp"
)

// Bounds of a question.
const (
	dialLimit = 5 * time.Second // its server's name is looked up in that time
	// answerLimit bounds the error that a question may bring which the shadow held while
	// there was no device: half of its way.
	answerLimit = time.Second
)

// slack is what two servers may differ by and still agree.
const slack = 10 * time.Millisecond

var (
	// ErrNoAnswer: no server has answered.
	ErrNoAnswer = errors.New("no server has answered")
	// ErrNoMajority: the servers do not agree on a time.
	ErrNoMajority = errors.New("most servers do not agree")
	// ErrRefused: the server does not want to be asked (RFC 5905, 7.4).
	ErrRefused = errors.New("the server refuses")
)

// A sample is what one server has answered: the clock is behind by offset, or ahead if
// that is negative, and off from that by distance at most (RFC 5905, root distance).
type sample struct {
	server           string
	offset, distance time.Duration
}

// ask asks one server.
func ask(ctx context.Context, server string) (sample, error) {
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{
		Timeout: answerLimit,
		Dialer: func(_, remote string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialLimit)
			defer cancel()
			return new(net.Dialer).DialContext(ctx, "udp", remote)
		},
	})
	if err == nil {
		err = r.Validate()
	}
	switch {
	case errors.Is(err, ntp.ErrKissOfDeath):
		return sample{}, fmt.Errorf("%s: %w: %s", server, ErrRefused, r.KissCode)
	case err != nil:
		return sample{}, fmt.Errorf("%s: %w", server, err)
	}
	return sample{server, r.ClockOffset, r.RootDistance + slack}, nil
}

// choose returns the most certain of those samples that most of them agree with: the
// time is where most of their intervals, offset ± distance, overlap (K. Marzullo; RFC
// 5905, 11.2.1, gives the algorithm that this simplifies). One server is believed.
func choose(samples []sample) (sample, error) {
	if len(samples) == 0 {
		return sample{}, ErrNoAnswer
	}
	most, at := 0, time.Duration(0)
	for _, s := range samples {
		// Where most overlap, one of them begins.
		if n := len(around(samples, s.offset-s.distance)); n > most {
			most, at = n, s.offset-s.distance
		}
	}
	if 2*most <= len(samples) {
		return sample{}, ErrNoMajority
	}
	return slices.MinFunc(around(samples, at), func(x, y sample) int { return int(x.distance - y.distance) }), nil
}

// around returns the samples that allow for an offset.
func around(samples []sample, offset time.Duration) []sample {
	var in []sample
	for _, s := range samples {
		if s.offset-s.distance <= offset && offset <= s.offset+s.distance {
			in = append(in, s)
		}
	}
	return in
}
