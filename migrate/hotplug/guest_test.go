// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/migrate"
)

// agent is the guest's end of a Guest.
type agent struct {
	diary *diary
	err   error
}

func (a *agent) Unplug(_ context.Context, address string, within time.Duration) error {
	a.diary.write("guest: without %s", address)
	if within <= 0 {
		a.diary.write("guest: for no time at all")
	}
	return a.err
}

func (a *agent) Keep(_ context.Context, address string) error {
	a.diary.write("guest: with %s", address)
	return a.err
}

// TestGuest: who is told what, and when.
func TestGuest(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		moved error
		told  error
		done  string
	}{
		{
			"a guest is told before it is asked", nil, nil,
			"guest: without 0000:03:02.0, source: del a, guest: without 0000:03:1f.1, source: del b, migrate",
		}, {
			"and that a device is back when it is", migrate.ErrMigration, nil,
			"guest: without 0000:03:02.0, source: del a, guest: without 0000:03:1f.1, source: del b, migrate, " +
				"source: add b, guest: with 0000:03:1f.1, source: add a, guest: with 0000:03:02.0",
		}, {
			"one that cannot be told is asked all the same", nil, errors.New("no agent"),
			"guest: without 0000:03:02.0, source: del a, guest: without 0000:03:1f.1, source: del b, migrate",
		},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			b, ctx := newBoth(t, func(b *both) {
				b.moved = tt.moved
				b.move.opts.Plug = nil
				b.move.opts.Guest = &agent{b.diary, tt.told}
			})
			if _, err := b.move.run(ctx); !errors.Is(err, tt.moved) {
				t.Errorf("error %v", err)
			}
			if got := strings.Join(b.diary.read(), ", "); got != tt.done {
				t.Errorf("done:\n%s\nwant:\n%s", got, tt.done)
			}
		})
	}
}
