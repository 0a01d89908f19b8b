// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package dump

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestWhole(t *testing.T) {
	interrupted := fmt.Errorf("interfaces: %w", netlink.ErrDumpInterrupted)
	for _, tc := range []struct {
		name  string
		errs  []error // of one call after the other; none after the last
		table int     // the number of the call whose result is returned
		want  error
	}{
		{"what nothing interrupts is read once", nil, 1, nil},
		{"what is interrupted is read again", []error{interrupted, interrupted}, 3, nil},
		{"another error is the reader's", []error{interrupted, unix.EPERM, nil}, 2, unix.EPERM},
		{"what never settles is given up", []error{
			interrupted, interrupted, interrupted, interrupted, interrupted, interrupted, interrupted, interrupted, interrupted,
		}, tries, netlink.ErrDumpInterrupted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			calls := 0
			table, err := Whole(func() (int, error) {
				calls++
				if calls > len(tc.errs) {
					return calls, nil
				}
				return calls, tc.errs[calls-1]
			})
			if table != tc.table || !errors.Is(err, tc.want) {
				t.Errorf("call %d, %v; want that of call %d, %v", table, err, tc.table, tc.want)
			}
		})
	}
}
