// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xenctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/umbra-vm/umbra/init/internal/power"
)

// shutdownNode is relative to the guest's own directory.
const shutdownNode = "control/shutdown"

// ErrNoXen says that this is no Xen guest, or one without xenstore.
var ErrNoXen = errors.New("not on Xen")

// Action returns what a value of control/shutdown asks init for. Other values
// ask it for nothing: "suspend" is for the kernel, the empty string is the
// acknowledgement of the request before.
func Action(value string) (power.Action, bool) {
	switch value {
	case "poweroff":
		return power.PowerOff, true
	case "reboot":
		return power.Reboot, true
	case "halt":
		return power.Halt, true
	}
	return "", false
}

// Watch calls asked for every shutdown the toolstack asks for, until ctx is
// done.
//
// The kernel listens too. Whoever of the two reads the request first
// acknowledges it; the kernel then runs /sbin/poweroff or sends SIGINT to
// process 1, so that it comes to the same.
func Watch(ctx context.Context, asked func(power.Request)) error {
	if kind, err := os.ReadFile("/sys/hypervisor/type"); err != nil || strings.TrimSpace(string(kind)) != "xen" {
		return ErrNoXen
	}
	f, err := os.OpenFile("/dev/xen/xenbus", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoXen, err)
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	return watch(f, asked)
}

func watch(rw io.ReadWriter, asked func(power.Request)) error {
	c := &conn{rw: rw}
	if err := c.watch(shutdownNode); err != nil {
		return err
	}
	for {
		if _, err := c.changed(); err != nil {
			return err
		}
		value, err := c.read(shutdownNode)
		if errors.Is(err, ErrNoEntry) {
			continue
		}
		if err != nil {
			return err
		}
		action, ok := Action(value)
		if !ok {
			continue
		}
		// Empty is the acknowledgement the toolstack waits for.
		if err := c.write(shutdownNode, ""); err != nil {
			return err
		}
		asked(power.Request{Action: action, Source: "Xen control/shutdown"})
	}
}
