// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// agent stands in for a guest: it answers on the socket of its first argument
// until it is told to end. With a second argument, "mute", it never answers.
func agent() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := ctl.Listen(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := func(ctx context.Context, _ struct{}) (any, error) {
		if len(os.Args) > 2 {
			<-ctx.Done()
		}
		return ctl.Status{Version: "test", Shadow: "on", Roles: []ctl.RoleStatus{
			{Name: "net0", Class: "net", Mode: ctl.ModePassive, Device: "0000:00:02.0", Driver: "e1000"},
		}}, nil
	}
	server := ctl.NewServer(map[string]ctl.Handler{ctl.CmdStatus: ctl.Handle(status), ctl.CmdCheck: ctl.Handle(check)}, nil)
	if err := server.Serve(ctx, l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check gives every NIC a role, and has no driver for those of Realtek. What it was told
// of the source is in Reason.
func check(_ context.Context, req ctl.Check) (any, error) {
	told, err := json.Marshal(ctl.Check{Leaves: req.Leaves, Unplug: req.Unplug, Later: req.Later})
	if err != nil {
		return nil, err
	}
	var r ctl.CheckReport
	for _, d := range req.Devices {
		if d.Class != "" && d.Class != "0200" {
			continue
		}
		f := ctl.Forecast{
			Role: fmt.Sprintf("net%d", len(r.Roles)), Verdict: ctl.VerdictTaken, Reason: string(told),
			Device: d.Address, IDs: d.IDs, Drivers: []string{d.MAC},
		}
		if strings.HasPrefix(d.IDs, "10ec:") {
			f.Verdict, f.Reason = ctl.VerdictNoDriver, "the device at "+d.Address+" has no driver; "+f.Reason
		}
		r.Roles = append(r.Roles, f)
	}
	return r, nil
}
