// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"context"
	"errors"
	"time"

	"github.com/umbra-vm/umbra/migrate"
)

// A step is something that is done to one of the two sides, and how it is undone.
type step struct {
	do func(context.Context) error

	// undo puts things right, whatever do has come to, and does nothing where
	// nothing has to be done. It may be nil.
	undo func(context.Context) error
}

// run does the steps in order. If one fails, those before it are undone, newest
// first, and then the one that failed: it may wait for somebody, and what is surely
// missing must not wait with it. Each has limit to be undone in, whatever has
// become of ctx. The error is that of the step, with those of the roll-back.
func run(ctx context.Context, limit time.Duration, steps []step) error {
	for i, s := range steps {
		err := s.do(ctx)
		if err == nil {
			continue
		}
		if errors.Is(err, migrate.ErrUnknownOutcome) {
			return err // the source must not run
		}
		errs := []error{err}
		for j := i - 1; j >= -1; j-- {
			undo := s.undo
			if j >= 0 {
				undo = steps[j].undo
			}
			if undo == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
			errs = append(errs, undo(ctx))
			cancel()
		}
		return errors.Join(errs...)
	}
	return nil
}
