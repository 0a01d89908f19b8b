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
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"golang.org/x/sys/unix"
)

const shadowctlUsage = `usage: shadowctl [--json] COMMAND

  status           roles and their devices
  log [ROLE]       what is remembered of a role's settings
  timeline [ROLE]  what each recovery took, oldest first
  check DEVICE...  what becomes of the roles on a host with these devices, each
                   IDS@ADDRESS[,mac=MAC], such as 8086:10d3@0000:00:05.0
  reload ROLE      put the role's driver out and in again, without downtime
  services         programs that init looks after
  logs [NAME]      the last lines a program has printed, or all of them
  update FILE SUM  write the image in FILE, or from standard input if it is -, of
                   which SUM is the SHA-256, so that the next boot tries it

Exit status: 0 done, 1 failed, 2 not understood, 3 a role would have nothing.
`

// updateVerb is a command of shadowctl that takes a file, and its time.
const updateVerb = "update"

// errUsage says that the command line was not understood.
var errUsage = errors.New("not understood")

// errNothing says that a role would have nothing on the host that was asked about.
var errNothing = errors.New("a role would have nothing there")

// shadowctlTimeout bounds what only looks something up. A reload takes what it
// takes.
const shadowctlTimeout = 10 * time.Second

// shadowctl shows what the shadow and init know, for people and tools.
func shadowctl(args []string) int {
	ctx := context.Background()
	asJSON, words := shadowctlFlags(args[1:])
	// An update is ended by a signal itself: what reads its image would not hear of a context.
	if len(words) == 0 || words[0] != updateVerb {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
		defer stop()
	}
	err := shadowctlRun(ctx, os.Stdout, words, asJSON)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, "shadowctl: ", err, "\n", shadowctlUsage)
		return 2
	case errors.Is(err, errNothing):
		return 3
	}
	fmt.Fprintln(os.Stderr, "shadowctl:", err)
	return 1
}

// shadowctlFlags takes the one flag out of the words, wherever it stands.
func shadowctlFlags(args []string) (asJSON bool, words []string) {
	isFlag := func(s string) bool { return s == "--json" || s == "-json" }
	return slices.ContainsFunc(args, isFlag), slices.DeleteFunc(slices.Clone(args), isFlag)
}

func shadowctlRun(ctx context.Context, w io.Writer, words []string, asJSON bool) error {
	if len(words) == 0 {
		return fmt.Errorf("%w: no command", errUsage)
	}
	cmd, rest := words[0], words[1:]
	most, least := 1, 0
	switch cmd {
	case "help", "-h", "--help":
		_, err := io.WriteString(w, shadowctlUsage)
		return err
	case ctl.CmdStatus, "services":
		most = 0
	case ctl.CmdReload:
		least = 1
	case updateVerb:
		least, most = 2, 2
	case ctl.CmdCheck:
		least, most = 1, len(rest)
	case ctl.CmdLog, ctl.CmdTimeline, "logs":
	default:
		return fmt.Errorf("%w: %q", errUsage, cmd)
	}
	if len(rest) < least || len(rest) > most {
		return fmt.Errorf("%w: %s", errUsage, strings.Join(words, " "))
	}
	if cmd == updateVerb {
		return writeUpdate(ctx, w, rest[0], rest[1])
	}
	name := strings.Join(rest, "")
	if cmd != ctl.CmdReload {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, shadowctlTimeout)
		defer cancel()
	}
	p := printer{w: w, asJSON: asJSON}
	switch cmd {
	case "services":
		return p.services(ctx)
	case "logs":
		return p.logs(ctx, name)
	case ctl.CmdCheck:
		return p.check(ctx, rest)
	}
	return p.agent(ctx, cmd, ctl.RoleArgs{Role: name})
}

// printer renders answers.
type printer struct {
	w      io.Writer
	asJSON bool
}

// show renders data as JSON, or as text does for people.
func (p printer) show(data any, text func() error) error {
	if !p.asJSON {
		return text()
	}
	enc := json.NewEncoder(p.w)
	enc.SetIndent("", "  ")
	return enc.Encode(data)
}

// agent runs a command of the agent.
func (p printer) agent(ctx context.Context, cmd string, role ctl.RoleArgs) error {
	c, err := ctl.Dial(ctx, ctl.SocketPath, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	switch cmd {
	case ctl.CmdStatus:
		var st ctl.Status
		if err := c.Call(ctx, cmd, nil, &st); err != nil {
			return err
		}
		return p.show(st, func() error { return ctl.RenderStatus(p.w, st) })
	case ctl.CmdLog:
		var entries []ctl.LogEntry
		if err := c.Call(ctx, cmd, role, &entries); err != nil {
			return err
		}
		return p.show(entries, func() error { return ctl.RenderLog(p.w, entries) })
	case ctl.CmdReload:
		var t ctl.Timeline
		if err := c.Call(ctx, cmd, role, &t); err != nil {
			return err
		}
		return p.show(t, func() error { return ctl.RenderTimeline(p.w, t) })
	}
	var ts []ctl.Timeline
	if err := c.Call(ctx, cmd, role, &ts); err != nil {
		return err
	}
	return p.show(ts, func() error { return ctl.RenderTimelines(p.w, ts) })
}

// check asks the agent about a host with these devices.
func (p printer) check(ctx context.Context, devices []string) error {
	var req ctl.Check
	for _, text := range devices {
		d, err := ctl.ParseCheckDevice(text)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		req.Devices = append(req.Devices, d)
	}
	c, err := ctl.Dial(ctx, ctl.SocketPath, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	var r ctl.CheckReport
	if err := c.Call(ctx, ctl.CmdCheck, req, &r); err != nil {
		return err
	}
	if err := p.show(r, func() error { return ctl.RenderCheck(p.w, r) }); err != nil {
		return err
	}
	if len(r.Refused()) > 0 {
		return errNothing
	}
	return nil
}

// services shows the programs init looks after. Unlike the agent's command it does so
// when the agent is dead, too.
func (p printer) services(ctx context.Context) error {
	st, err := notify.NewClient("").Status(ctx)
	if err != nil {
		return err
	}
	return p.show(st, func() error { return renderServices(p.w, st) })
}

// renderServices says why services were not started, and shows them all.
func renderServices(w io.Writer, st *notify.Status) error {
	for _, f := range st.Faults {
		if _, err := fmt.Fprintln(w, "not started, the configuration was refused:", f); err != nil {
			return err
		}
	}
	return ctl.RenderServices(w, ctlServices(st))
}

// logs shows the last lines of a program, or of all.
func (p printer) logs(ctx context.Context, name string) error {
	all, err := notify.NewClient("").Logs(ctx, name)
	if err != nil {
		return err
	}
	lines := ctlLines(all)
	return p.show(lines, func() error { return ctl.RenderLines(p.w, lines) })
}
