// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"io"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

func newStatus() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "status DIR|SOCKET",
		Short: "ask a running guest what its shadows do",
		Long: `Status asks the shadow agent of a running guest, through the machine's control
socket: the roles, their devices and modes, and the last recovery.` + aMachine,
		Example: "  umbra status out/app\n  umbra status --json /run/app/ctl.sock | jq .roles",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s ctl.Status
			if err := q.call(cmd, args[0], ctl.CmdStatus, nil, &s); err != nil {
				return err
			}
			return q.show(cmd, s, func(w io.Writer) error { return ctl.RenderStatus(w, s) })
		},
	}
	q.flagsOf(cmd)
	return cmd
}

func newLog() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "log DIR|SOCKET [ROLE]",
		Short: "show what a running guest remembers of its devices' settings",
		Long: `Log prints the operations in the log of a role, or of all: what will be set on the
next device as it was on those before. Deferred ones say why. What programs print
is shown by umbra logs.` + aMachine,
		Example: "  umbra log out/app net0",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var entries []ctl.LogEntry
			if err := q.call(cmd, args[0], ctl.CmdLog, roleOf(args), &entries); err != nil {
				return err
			}
			return q.show(cmd, entries, func(w io.Writer) error { return ctl.RenderLog(w, entries) })
		},
	}
	q.flagsOf(cmd)
	return cmd
}

func newServices() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "services DIR|SOCKET",
		Short: "show the programs of a running guest",
		Long:  `Services prints the programs that PID 1 of a running guest looks after: umbra's own and the image's.` + aMachine,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var services []ctl.Service
			if err := q.call(cmd, args[0], ctl.CmdServices, nil, &services); err != nil {
				return err
			}
			return q.show(cmd, services, func(w io.Writer) error { return ctl.RenderServices(w, services) })
		},
	}
	q.flagsOf(cmd)
	return cmd
}
