// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// followEvery is how often a follower asks. It leaves the port alone in between: that
// has room for one who asks at a time.
const followEvery = 500 * time.Millisecond

func newLogs() *cobra.Command {
	var (
		q      question
		follow bool
	)
	cmd := &cobra.Command{
		Use:   "logs DIR|SOCKET [SERVICE]",
		Short: "show what the programs of a running guest print",
		Long: `Logs prints the last lines of a program, or of all: services by their names, umbra's
own, and PID 1 as "init". With --follow it goes on until it is interrupted, or the
machine ends, as that does which a guest was moved away from. Others may ask meanwhile.
With --json each line is one JSON object.` + aMachine,
		Example: "  umbra logs out/app web --follow",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l := logs{question: q, cmd: cmd}
			if len(args) > 1 {
				l.from.Service = args[1]
			}
			return l.run(args[0], follow)
		},
	}
	q.flagsOf(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what they print from now on")
	return cmd
}

// logs prints lines.
type logs struct {
	question
	cmd     *cobra.Command
	from    ctl.LogsArgs // what is to be printed next
	follows bool         // it has printed what there was at first
}

func (l *logs) run(place string, follow bool) error {
	if err := l.once(place); err != nil || !follow {
		return err
	}
	l.follows = true
	for silent := false; ; {
		select {
		case <-l.cmd.Context().Done():
			return nil // that is how it ends
		case <-time.After(followEvery):
		}
		err := l.once(place)
		switch {
		case l.cmd.Context().Err() != nil || err == nil:
			silent = false
		case errors.Is(err, ctl.ErrClosed), errors.Is(err, syscall.EAGAIN):
			// Whether there is still a machine, the next attempt tells; of others who
			// ask there are too many for the port (unix(7): the queue is full).
		case errors.Is(err, errNoMachine):
			return fmt.Errorf("the machine has ended; if its guest was moved, ask the host that it runs on now: %w", err)
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		case !silent:
			silent = true
			fmt.Fprintf(l.cmd.ErrOrStderr(), "umbra: the guest stands still, was moved, or has lost its agent; waits on: %v\n", err)
		}
	}
}

// once prints what there is now that was not printed yet.
func (l *logs) once(place string) error {
	ctx, cancel := context.WithTimeout(l.cmd.Context(), l.timeout)
	client, err := dialCtl(ctx, place)
	cancel()
	if err != nil {
		return err
	}
	defer client.Close()
	return l.past(client)
}

// past prints what is remembered, up to what was the last line at first.
func (l *logs) past(client *ctl.Client) error {
	for end := uint64(0); ; {
		got, err := l.next(client)
		if err != nil {
			return err
		}
		if end == 0 {
			end = got.Last
		}
		if len(got.Lines) == 0 || l.from.After >= end {
			l.from.After = max(l.from.After, end)
			return nil
		}
	}
}

// next asks for lines once and prints them.
func (l *logs) next(client *ctl.Client) (got ctl.Logs, err error) {
	ctx, cancel := context.WithTimeout(l.cmd.Context(), l.timeout)
	defer cancel()
	if err := l.callOn(ctx, client, l.cmd, ctl.CmdLogs, l.from, &got); err != nil {
		return got, err
	}
	if got.Last < l.from.After {
		fmt.Fprintln(l.cmd.ErrOrStderr(), "umbra: the guest has been booted again")
		l.from.After = 0
		return l.next(client)
	}
	if len(got.Lines) == 0 {
		return got, nil
	}
	first, last := got.Lines[0], got.Lines[len(got.Lines)-1]
	// Without a name the numbers have no gaps but those of lines that the guest forgot.
	if l.follows && l.from.Service == "" && first.N > l.from.After+1 {
		fmt.Fprintf(l.cmd.ErrOrStderr(), "umbra: %d lines were forgotten before they were read\n", first.N-l.from.After-1)
	}
	l.from.After = last.N
	if !l.asJSON {
		return got, ctl.RenderLines(l.cmd.OutOrStdout(), got.Lines)
	}
	enc := json.NewEncoder(l.cmd.OutOrStdout())
	for _, line := range got.Lines {
		if err := enc.Encode(line); err != nil {
			return got, err
		}
	}
	return got, nil
}
