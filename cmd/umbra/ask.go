// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// aMachine says in the help of a verb what it is given.
const aMachine = `

DIR is the directory of a machine started by umbra run; SOCKET is the host's end of
the guest's virtio-serial port ` + ctl.PortName + `.`

// question is what the verbs have in common that ask a running guest.
type question struct {
	asJSON  bool
	timeout time.Duration
}

// flagsOf adds the flags of a question to a verb.
func (q *question) flagsOf(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&q.asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&q.timeout, "timeout", 5*time.Second, "how long to wait for the guest's answer")
}

// call asks the guest of the machine at place.
func (q *question) call(cmd *cobra.Command, place, command string, args, out any) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), q.timeout)
	defer cancel()
	client, err := dialCtl(ctx, place)
	if err != nil {
		return err
	}
	defer client.Close()
	return q.callOn(ctx, client, cmd, command, args, out)
}

// callOn is call on a connection, until ctx, which is that of cmd with a limit, ends.
func (q *question) callOn(ctx context.Context, client *ctl.Client, cmd *cobra.Command, command string, args, out any) error {
	err := client.Call(ctx, command, args, out)
	if err != nil && ctx.Err() != nil && cmd.Context().Err() == nil {
		return fmt.Errorf("the machine is there, but its guest did not answer within %v: %w", q.timeout, err)
	}
	return err
}

// show prints data as JSON, or as text does for people.
func (q *question) show(cmd *cobra.Command, data any, text func(io.Writer) error) error {
	if !q.asJSON {
		return text(cmd.OutOrStdout())
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(data)
}

// roleOf is the role that a verb was given after the machine, if any. Without one it
// encodes as no arguments.
func roleOf(args []string) ctl.RoleArgs {
	if len(args) > 1 {
		return ctl.RoleArgs{Role: args[1]}
	}
	return ctl.RoleArgs{}
}

// errNoMachine: there is nobody to ask.
var errNoMachine = errors.New("no machine")

// dialCtl connects to a control socket, given itself or by its machine's
// directory.
func dialCtl(ctx context.Context, place string) (*ctl.Client, error) {
	info, err := os.Stat(place)
	if err != nil {
		return nil, refused(fmt.Errorf("%w: %w", errNoMachine, err))
	}
	if info.IsDir() {
		place = filepath.Join(place, ctlSocket)
	}
	client, err := ctl.Dial(ctx, place, nil)
	if err != nil {
		return nil, refused(fmt.Errorf("%w runs there: %w", errNoMachine, err))
	}
	return client, nil
}
