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
	"time"

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
	server := ctl.NewServer(map[string]ctl.Handler{
		ctl.CmdStatus:   ctl.Handle(status),
		ctl.CmdLog:      ctl.Handle(ofRole([]ctl.LogEntry{{Role: "net0", Key: "net.mtu", Value: "1400", Deferred: "too large"}})),
		ctl.CmdTimeline: ctl.Handle(ofRole(recoveries)),
		ctl.CmdServices: ctl.Handle(ofRole([]ctl.Service{{Name: "app", State: "running", Starts: 2}})),
		ctl.CmdLogs:     ctl.Handle(lines),
		ctl.CmdCheck:    ctl.Handle(check),
	}, nil)
	if err := server.Serve(ctx, l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var recoveries = []ctl.Timeline{{
	Recovery: 2, Role: "net0", Cause: ctl.CauseMigration, From: "e1000 0000:00:02.0", To: "8139cp 0000:00:02.0",
	Stamps: []ctl.Stamp{{Name: ctl.StampResumed, At: 5e9}, {Name: ctl.StampPassive, At: 7e9}},
}}

// ofRole answers with data, for every role and for net0.
func ofRole(data any) func(context.Context, ctl.RoleArgs) (any, error) {
	return func(_ context.Context, a ctl.RoleArgs) (any, error) {
		if a.Role != "" && a.Role != "net0" {
			return nil, fmt.Errorf("no role %s", a.Role)
		}
		return data, nil
	}
}

// lines answers with two lines at once of the five that app has printed, of which the
// guest has forgotten one; whoever asks for what came after them is told of a seventh.
func lines(_ context.Context, a ctl.LogsArgs) (any, error) {
	numbers, logs := []uint64{1, 2, 3, 5}, ctl.Logs{Last: 5}
	if a.After >= 5 {
		numbers, logs.Last = append(numbers, 7), 7
	}
	for _, n := range numbers {
		if n > a.After && len(logs.Lines) < 2 && (a.Service == "" || a.Service == "app") {
			logs.Lines = append(logs.Lines, ctl.Line{N: n, At: time.Unix(0, 0), From: "app", Text: fmt.Sprint("line ", n)})
		}
	}
	return logs, nil
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
