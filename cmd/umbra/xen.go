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
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/remote"
	"github.com/umbra-vm/umbra/migrate/xen"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// xenMove is what the flags of umbra migrate say of a domain of Xen.
type xenMove struct {
	domain, config, ssh string
	recovery            time.Duration
}

func (x *xenMove) flagsOf(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&x.domain, "xen", "", "move this `DOMAIN` of a Xen host; --from and --to are hosts")
	f.StringVar(&x.config, "config", "", "xl.cfg `FILE` that the domain has on the destination, a file of this machine, - for standard input")
	f.StringVar(&x.ssh, "ssh", remote.DefaultSSH, "`COMMAND` that is called as ssh is")
	f.DurationVar(&x.recovery, "recovery-timeout", 2*time.Minute, "how long the guest's recovery is waited for, to report it")
	cmd.MarkFlagsRequiredTogether("xen", "config")
	for _, qemu := range []string{
		"incoming", "deferred", "direct", "unplug", "plug", "unplug-timeout", "from-ctl", "ctl", "bandwidth", "downtime-limit",
	} {
		cmd.MarkFlagsMutuallyExclusive("xen", qemu)
	}
}

// runXen moves a domain between hosts of Xen.
func (m *migration) runXen(ctx context.Context, stdout, stderr io.Writer) error {
	config, err := m.xen.read()
	if err != nil {
		return refused(err)
	}
	dir, err := os.MkdirTemp("", "umbra-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	src, dst := remote.Host{Name: m.from, SSH: m.xen.ssh}, remote.Host{Name: m.to, SSH: m.xen.ssh}
	var plan *xen.Plan
	plan, err = xen.Prepare(ctx, src, dst, xen.Options{
		Domain: m.xen.domain, Config: config, Force: m.force, OnStep: func(s xen.Step) { xenProgress(stderr, s) },
		Unplug: func(ctx context.Context, address string, within time.Duration) error {
			path, stop, err := src.Forward(ctx, plan.SourceCtl, filepath.Join(dir, "return-"+strings.ReplaceAll(address, ":", "-")))
			if err != nil {
				return err
			}
			defer stop()
			return source(path).Unplug(ctx, address, within)
		},
	})
	if err != nil {
		return refused(err)
	}
	defer plan.Discard(ctx)
	for _, err := range plan.Ignored {
		fmt.Fprintf(stderr, "umbra: going on, as --force says: %v\n", err)
	}
	before, err := m.askXen(ctx, src, plan, filepath.Join(dir, "source"), stderr)
	if err != nil {
		return err
	}
	report, err := plan.Move(ctx)
	if err != nil {
		err = &codeError{migrateCode(err), err}
	}
	if report == nil {
		return err
	}
	// The guest did move, whatever it can say of it.
	timelines, told, asked := m.arrived(ctx, dst, plan.DestinationCtl, filepath.Join(dir, "destination"), report.ResumedAt, before)
	if asked != nil {
		fmt.Fprintf(stderr, "umbra: the guest moved, but its recovery is not known: %v\n", asked)
	}
	return errors.Join(m.printXen(stdout, report, told, timelines), err)
}

func (x *xenMove) read() ([]byte, error) {
	if x.config == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(x.config)
}

// xenProgress tells of a step. What it has failed of is told in the end.
func xenProgress(w io.Writer, s xen.Step) {
	switch {
	case s.Err != nil:
		fmt.Fprintf(w, "%s: failed\n", s.Op)
	case s.Over:
		fmt.Fprintf(w, "%s: done\n", s.Op)
	case s.Bytes > 0:
		fmt.Fprintf(w, "%s: %.1f MiB\n", s.Op, float64(s.Bytes)/(1<<20))
	default:
		fmt.Fprintf(w, "%s ...\n", s.Op)
	}
}

// counts are how many recoveries each role has had.
type counts map[string]uint64

func countsOf(timelines []ctl.Timeline) counts {
	r := make(counts)
	for _, t := range timelines {
		r[t.Role] = max(r[t.Role], t.Recovery)
	}
	return r
}

// askXen has the guest judge what the destination has, and asks for the recoveries that
// it has had.
func (m *migration) askXen(ctx context.Context, src remote.Host, plan *xen.Plan, at string, stderr io.Writer) (counts, error) {
	if plan.SourceCtl == "" {
		fmt.Fprintln(stderr, "umbra: not checked whether the guest can drive what the destination has: "+
			"the domain has no port to its agent")
		return nil, nil
	}
	dialing, cancel := context.WithTimeout(ctx, m.connect)
	defer cancel()
	path, stop, err := src.Forward(dialing, plan.SourceCtl, at)
	if err != nil {
		fmt.Fprintf(stderr, "umbra: not checked whether the guest can drive what the destination has: %v\n", err)
		return nil, nil
	}
	defer stop()
	m.fromCtl = path
	s := survey{leaves: plan.Leaves}
	for _, d := range plan.Devices {
		s.devices = append(s.devices, checkDevice(d))
	}
	if err := m.askSource(ctx, s, m.connect, stderr); err != nil {
		return nil, err
	}
	timelines, err := m.timelines(ctx, path)
	if err != nil {
		return nil, nil // which askSource has told of
	}
	return countsOf(timelines), nil
}

// arrived tells the guest that it has moved, and waits for its recoveries: those that it
// had not had before. It returns what it has got, also with an error.
func (m *migration) arrived(
	ctx context.Context, dst remote.Host, socket, at string, resumed time.Time, before counts,
) (done []ctl.Timeline, told bool, err error) {
	if socket == "" {
		return nil, false, errors.New("the domain has no port to its agent")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.xen.recovery, errors.New("it has not ended within --recovery-timeout"))
	defer cancel()
	path, stop, err := dst.Forward(ctx, socket, at)
	if err != nil {
		return nil, false, err
	}
	defer stop()
	m.ctl = path
	told = m.tell(ctx, resumed) == nil // else it finds out by itself, only later
	if before == nil {
		return nil, told, errors.New("the guest could not be asked before it moved")
	}
	for {
		all, err := m.timelines(ctx, path)
		done = newer(all, before)
		if err == nil && len(done) > 0 && passive(done) {
			return done, told, nil
		}
		select {
		case <-ctx.Done():
			return done, told, context.Cause(ctx)
		case <-time.After(recoveryPoll):
		}
	}
}

// recoveryPoll is how often a guest is asked whether it has recovered.
const recoveryPoll = 500 * time.Millisecond

// newer are the recoveries that were not there before.
func newer(all []ctl.Timeline, before counts) (out []ctl.Timeline) {
	for _, t := range all {
		if t.Recovery > before[t.Role] {
			out = append(out, t)
		}
	}
	return out
}

// passive reports whether the last recovery of each role has ended, well or not.
func passive(all []ctl.Timeline) bool {
	last := make(map[string]bool)
	for _, t := range all {
		_, ended := t.Stamp(ctl.StampPassive)
		last[t.Role] = ended || t.Error != ""
	}
	for _, ended := range last {
		if !ended {
			return false
		}
	}
	return true
}

// timelines asks for all recoveries.
func (m *migration) timelines(ctx context.Context, path string) (all []ctl.Timeline, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.connect)
	defer cancel()
	client, err := ctl.Dial(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return all, client.Call(ctx, ctl.CmdTimeline, ctl.RoleArgs{}, &all)
}

// printXen prints the report, in the words of that of QEMU.
func (m *migration) printXen(w io.Writer, r *xen.Report, told bool, timelines []ctl.Timeline) error {
	report := migrate.Report{Total: r.Total, Downtime: r.Downtime, StoppedAt: r.StoppedAt, ResumedAt: r.ResumedAt}
	report.Bytes = r.Bytes
	if !m.json {
		if _, err := fmt.Fprintln(w, moved(r.Total, r.Downtime, r.Bytes, r.Left)); err != nil {
			return err
		}
		return ctl.RenderTimelines(w, timelines)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		migrationReport
		Left       int            `json:"left"` // devices that stayed behind
		Recoveries []ctl.Timeline `json:"recoveries"`
	}{reportOf(&report, told), r.Left, timelines})
}
