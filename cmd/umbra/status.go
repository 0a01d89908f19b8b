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
	return newAsk(&cobra.Command{
		Use:   "status DIR|SOCKET",
		Short: "ask a running guest what its shadows do",
		Long: `Status asks the shadow agent of a running guest, through the machine's control
socket: the roles, their devices and modes, and the last recovery.`,
		Example: "  umbra status out/app\n  umbra status --json /run/app/ctl.sock | jq .roles",
		Args:    cobra.ExactArgs(1),
	}, ctl.CmdStatus, ctl.RenderStatus)
}

func newLog() *cobra.Command {
	return newAsk(&cobra.Command{
		Use:   "log DIR|SOCKET [ROLE]",
		Short: "show what a running guest remembers of its devices' settings",
		Long: `Log prints the operations in the log of a role, or of all: what will be set on the
next device as it was on those before. Deferred ones say why. What programs print
is shown by umbra logs.`,
		Example: "  umbra log out/app net0",
		Args:    cobra.RangeArgs(1, 2),
	}, ctl.CmdLog, ctl.RenderLog)
}

func newServices() *cobra.Command {
	return newAsk(&cobra.Command{
		Use:   "services DIR|SOCKET",
		Short: "show the programs of a running guest",
		Long:  `Services prints the programs that PID 1 of a running guest looks after: umbra's own and the image's.`,
		Args:  cobra.ExactArgs(1),
	}, ctl.CmdServices, ctl.RenderServices)
}

// newAsk makes of cmd a verb that asks one question, for a role if it was given one, and
// shows the answer.
func newAsk[T any](cmd *cobra.Command, command string, render func(io.Writer, T) error) *cobra.Command {
	var q question
	cmd.Long += aMachine
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var answer T
		if err := q.call(cmd, args[0], command, roleOf(args), &answer); err != nil {
			return err
		}
		return q.show(cmd, answer, func(w io.Writer) error { return render(w, answer) })
	}
	q.flagsOf(cmd)
	return cmd
}
