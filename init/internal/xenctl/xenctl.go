// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package xenctl listens to what the Xen toolstack asks of a guest: xl
// shutdown and xl reboot, which reach it as a value of control/shutdown in
// xenstore.
//
// It must never know what a shutdown consists of. Suspend, and with it migration,
// is the kernel's own business (drivers/xen/manage.c) and left alone.
package xenctl

import (
	"context"
	"errors"

	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/init/internal/power"
)

// shutdownNode is relative to the guest's own directory.
const shutdownNode = "control/shutdown"

// ErrNoXen says that this is no Xen guest, or one without xenstore.
var ErrNoXen = xenstore.ErrNoXen

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
	c, err := xenstore.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return watch(c, asked)
}

func watch(c *xenstore.Conn, asked func(power.Request)) error {
	if err := c.Watch(shutdownNode); err != nil {
		return err
	}
	for {
		if _, err := c.Changed(); err != nil {
			return err
		}
		value, err := c.Read(shutdownNode)
		if errors.Is(err, xenstore.ErrNoEntry) {
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
		if err := c.Write(shutdownNode, ""); err != nil {
			return err
		}
		asked(power.Request{Action: action, Source: "Xen control/shutdown"})
	}
}
