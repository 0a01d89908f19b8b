// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// The sockets of a machine started by umbra run, in its directory.
const (
	qmpSocket = "qmp.sock"
	ctlSocket = "ctl.sock"
)

func newStatus() *cobra.Command {
	var (
		asJSON  bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status DIR|SOCKET",
		Short: "ask a running guest what its shadows do",
		Long: `Status asks the shadow agent of a running guest, through the machine's control
socket: the roles, their devices and modes, and the last recovery.

DIR is the directory of a machine started by umbra run.`,
		Example: "  umbra status out/app\n  umbra status --json /run/app/ctl.sock | jq .roles",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			client, err := dialCtl(ctx, args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			var s ctl.Status
			if err := client.Call(ctx, ctl.CmdStatus, nil, &s); err != nil {
				if ctx.Err() != nil && cmd.Context().Err() == nil {
					return fmt.Errorf("the machine is there, but its guest did not answer within %v: %w", timeout, err)
				}
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return ctl.RenderStatus(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the guest's answer")
	return cmd
}

// dialCtl connects to a control socket, given itself or by its machine's
// directory.
func dialCtl(ctx context.Context, place string) (*ctl.Client, error) {
	info, err := os.Stat(place)
	if err != nil {
		return nil, refused(fmt.Errorf("no machine: %w", err))
	}
	if info.IsDir() {
		place = filepath.Join(place, ctlSocket)
	}
	client, err := ctl.Dial(ctx, place, nil)
	if err != nil {
		return nil, refused(fmt.Errorf("no machine runs there: %w", err))
	}
	return client, nil
}
