// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrRefused: a check of the hosts, the domain or the destination's configuration
	// speaks against the move. Nothing was changed.
	ErrRefused = errors.New("refused")

	// ErrNoDevices: the guest, which is paravirtual, runs on the destination, and has not been
	// given its devices there.
	ErrNoDevices = errors.New("the guest runs on the destination, but without its devices")

	// ErrSourceLeft: the guest runs on the destination, and its paused copy on the
	// source could not be destroyed.
	ErrSourceLeft = errors.New("the guest runs on the destination, but its copy on the source is left, paused")
)

// An Error is a move that failed after something had been changed: what failed, with the
// roll-back if that failed too, and what each side was when all was over.
type Error struct {
	Err                 error
	Source, Destination string
	// Advice is the command that gets back what is missing, the guest or its devices, or
	// that removes what is left. Empty if there is none.
	Advice string
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\nnow the domain is %s on the source, %s on the destination", e.Err, e.Source, e.Destination)
	if e.Advice != "" {
		b.WriteString("\n" + e.Advice)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// describe says for a person what a domain is.
func (s state) describe() string {
	for _, f := range []struct{ flag, is string }{
		{"d", "dying"}, {"c", "crashed"}, {"s", "shut down or suspended"}, {"p", "paused"},
	} {
		if strings.Contains(s.flags, f.flag) {
			return f.is
		}
	}
	return "running"
}
