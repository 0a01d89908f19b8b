// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package remote runs shell lines on a host, by the system's ssh client or, if it is
// this machine, without one.
//
// The system's client, and no library, because it alone does what the administrator has
// set up in ~/.ssh/config: names, jump hosts, the agent, known_hosts, shared
// connections. It must never know what the lines are for.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

var (
	// ErrCommand: the line was run, and ended with another status than 0.
	ErrCommand = errors.New("command failed")

	// ErrLost: the host could not be reached, or no more: it is not known whether the
	// line was run, and it may go on.
	ErrLost = errors.New("host does not answer")

	// ErrName: ssh would take the host's name for an option.
	ErrName = errors.New("not a host's name")
)

// lost is the status with which ssh says that it, and not the line, has failed (ssh(1),
// EXIT STATUS).
const lost = 255

// DefaultSSH asks nothing, as there is nobody to answer in the middle of a move, and
// notices within 45 s that a host has gone.
const DefaultSSH = "ssh -o BatchMode=yes -o ServerAliveInterval=15"

// A Host is where lines are run.
type Host struct {
	// Name is the host as ssh takes it, or "" for this machine.
	Name string

	// SSH is the client's command, [DefaultSSH] if empty. The shell reads it, and it is
	// called as ssh is.
	SSH string
}

func (h Host) String() string {
	if h.Name == "" {
		return "this host"
	}
	return h.Name
}

// Run runs a line in the host's shell, with its input from in, unless that is nil, and
// its output to out. The errors of the line itself match [ErrCommand] and have what it
// complained of; others [ErrLost], [ErrName], or the cause of the end of ctx, which does
// not end a line on another host. Ctrl-C at the terminal does not reach it.
func (h Host) Run(ctx context.Context, line string, in io.Reader, out io.Writer) error {
	cmd, err := h.command(ctx, line)
	if err != nil {
		return err
	}
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &complaint
	return h.explain(ctx, cmd.Run(), complaint.String())
}

func (h Host) command(ctx context.Context, line string, options ...string) (*exec.Cmd, error) {
	var cmd *exec.Cmd
	switch {
	case h.Name == "":
		cmd = exec.CommandContext(ctx, "sh", "-c", line)
	case strings.HasPrefix(h.Name, "-"):
		return nil, fmt.Errorf("%w: %q", ErrName, h.Name)
	default:
		args := append([]string{"-c", h.ssh() + ` "$@"`, "ssh"}, options...)
		args = append(args, h.Name)
		if line != "" {
			args = append(args, line)
		}
		cmd = exec.CommandContext(ctx, "sh", args...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Second
	return cmd, nil
}

func (h Host) ssh() string {
	if h.SSH == "" {
		return DefaultSSH
	}
	return h.SSH
}

// explain tells a line's failure from the way's.
func (h Host) explain(ctx context.Context, err error, complaint string) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%v: %w", h, context.Cause(ctx))
	case errors.As(err, &exit) && exit.ExitCode() >= 0 && (h.Name == "" || exit.ExitCode() != lost):
		err = fmt.Errorf("%w, status %d", ErrCommand, exit.ExitCode())
	default:
		err = fmt.Errorf("%w (%w)", ErrLost, err)
	}
	if complaint = strings.TrimSpace(complaint); complaint != "" {
		return fmt.Errorf("%v: %w: %s", h, err, complaint)
	}
	return fmt.Errorf("%v: %w", h, err)
}

// forwardPoll is how often it is looked whether ssh listens.
const forwardPoll = 20 * time.Millisecond

// Forward makes a unix socket of the host's reachable: by the path that it returns,
// which is at, a path that nothing is at, unless the host is this machine. It is
// forwarded until stop is called, which has to be done.
func (h Host) Forward(ctx context.Context, socket, at string) (path string, stop func(), err error) {
	if h.Name == "" {
		return socket, func() {}, nil
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cmd, err := h.command(running, "", "-N", "-o", "ExitOnForwardFailure=yes", "-L", at+":"+socket)
	if err != nil {
		cancel()
		return "", nil, err
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		cancel()
		return "", nil, fmt.Errorf("%v: %w", h, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() {
		cancel()
		<-ended
		os.Remove(at)
	}
	for {
		if _, err := os.Stat(at); err == nil {
			return at, stop, nil
		}
		select {
		case err := <-ended:
			cancel()
			return "", nil, h.explain(ctx, err, complaint.String())
		case <-ctx.Done():
			stop()
			return "", nil, fmt.Errorf("%v: %w", h, context.Cause(ctx))
		case <-time.After(forwardPoll):
		}
	}
}
