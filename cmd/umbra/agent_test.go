// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
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
	server := ctl.NewServer(map[string]ctl.Handler{ctl.CmdStatus: ctl.Handle(status)}, nil)
	if err := server.Serve(ctx, l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
