// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package confine

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Keep gives up, for the whole process and for whatever it starts, all capabilities but
// those named, and the way to new ones. It is for a program that begins with root's: a
// second start, as by [Helper], would cost it time at each.
func Keep(capabilities ...string) error {
	iab, err := Spec{Capabilities: capabilities}.vectors()
	if err != nil {
		return err
	}
	// While there is still CAP_SETPCAP.
	if err := iab.SetProc(); err != nil {
		return fmt.Errorf("capabilities that can be had: %w", err)
	}
	kept := cap.NewSet()
	for _, name := range capabilities {
		c, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("capability %s: %w", name, err)
		}
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := kept.SetFlag(flag, true, c); err != nil {
				return fmt.Errorf("capability %s: %w", name, err)
			}
		}
	}
	if err := kept.SetProc(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return nil
}
