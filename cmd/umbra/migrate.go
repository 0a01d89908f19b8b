// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/hotplug"
	"github.com/umbra-vm/umbra/migrate/qmp"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// migration is what the flags of umbra migrate say.
type migration struct {
	from, to      string
	fromCtl, ctl  string
	connect       time.Duration
	json, verbose bool
	force         bool
	unplug, plug  []string
	xen           xenMove
	hotplug.Options
}

func newMigrate() *cobra.Command {
	var m migration
	cmd := &cobra.Command{
		Use: "migrate --from QMP --to QMP --incoming ADDRESS | migrate --to QMP --plug OPTIONS |\n" +
			"  umbra migrate --xen DOMAIN [--from HOST] --to HOST --config FILE",
		Short: "move a running guest to another QEMU with other hardware",
		Long: `Migrate moves a running guest, memory and all, from one QEMU to another that
waits for it (-incoming). The state of the devices named by --direct stays
behind: they have direct access to hardware that the other side does not have.
As soon as the guest runs there it is told so through --ctl.

Devices that block a migration, as VFIO's do, are named by --unplug instead:
the guest is asked to let go of them before it moves, and is given those named
by --plug once it runs on the other side. Told through --from-ctl beforehand, it
loses nothing that its driver has under way. Both take what QEMU's -device takes,
with an id. For --unplug that is what the device was made with: so it is made
again if the move fails. Back ends (-netdev, -blockdev) have to be there and
are left alone. From the unplug to the plug the guest's shadow holds what
programs send, within its bound.

Before anything is done the guest is asked through --from-ctl, as by umbra check,
whether it could drive what the destination has. If a role would have nothing
there nothing is done, and the exit code is 3, unless --force says otherwise.

Neither QEMU is ended. If the migration fails, or is interrupted, the guest
goes on where it was, with its hardware as it was, and the exit code is 4. If
it lacks a device in the end, on whichever side, or may still lose one, the
exit code is 6 and the message says which: with --to and --plug alone it can be
given the device again.

With --xen a domain of a Xen host is moved by xl save and xl restore, its devices in
use until it is stopped. --from and --to are hosts then, as ssh takes them, and FILE
is the xl.cfg that the domain has on the destination. Without --from it is on this
host, with --to "" it stays here and gets other devices. What is checked and asked
beforehand, and the exit codes, are the same.`,
		Example: `  umbra migrate --from a/qmp.sock --to b/qmp.sock --incoming unix:b/migrate.sock \
    --direct direct-net0 --ctl b/ctl.sock
  umbra migrate --from a/qmp.sock --to b/qmp.sock --incoming unix:b/migrate.sock --from-ctl a/ctl.sock \
    --unplug vfio-pci,id=direct-net0,host=0000:3b:00.1,addr=2 \
    --plug vfio-pci,id=direct-net0,host=0000:5e:02.0,addr=2
  umbra migrate --to b/qmp.sock --plug vfio-pci,id=direct-net0,host=0000:5e:02.1,addr=2
  umbra migrate --xen app --from root@xen-a --to root@xen-b --config app-on-b.xl.cfg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if m.xen.domain != "" {
				return m.runXen(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return m.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&m.from, "from", "", "QMP socket of the QEMU that runs the guest; without it nothing moves, and --plug is all that is done")
	f.StringVar(&m.to, "to", "", "QMP socket of the QEMU that waits for it")
	f.StringVar(&m.Incoming, "incoming", "", "where that QEMU listens, unix:PATH or tcp:HOST:PORT")
	f.BoolVar(&m.Deferred, "deferred", false, "it was started with -incoming defer and has to be told the address")
	f.StringSliceVar(&m.Direct, "direct", nil, "QEMU id of a device whose state stays behind (repeatable)")
	f.StringArrayVar(&m.unplug, "unplug", nil, "`OPTIONS` of a device to be unplugged from the source, as it was made (repeatable)")
	f.StringArrayVar(&m.plug, "plug", nil, "`OPTIONS` of a device to be plugged in where the guest has moved to (repeatable)")
	f.DurationVar(&m.Timeout, "unplug-timeout", hotplug.DefaultTimeout, "how long the guest may take to let go of a device")
	f.StringVar(&m.fromCtl, "from-ctl", "", "control socket of the source, through which the guest is asked, and told of an unplug, beforehand")
	f.BoolVar(&m.force, "force", false, "move the guest even if a role would have no device, or none with a driver, there")
	f.StringVar(&m.ctl, "ctl", "", "control socket of the destination, through which the guest is told")
	f.Int64Var(&m.BandwidthBps, "bandwidth", 0, "limit in bytes per second, 0 for none")
	f.DurationVar(&m.DowntimeLimit, "downtime-limit", 0, "how long the guest may stand still for the last of its memory (default QEMU's, 300ms)")
	f.DurationVar(&m.connect, "connect-timeout", 5*time.Second, "how long to wait for the QMP sockets, or with --xen for each answer of the guest")
	f.BoolVar(&m.json, "json", false, "print the report as JSON")
	f.BoolVarP(&m.verbose, "verbose", "v", false, "log details")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // no such flag
	}
	m.xen.flagsOf(cmd)
	return cmd
}

func (m *migration) run(ctx context.Context, stdout, stderr io.Writer) error {
	if err := m.parse(stderr); err != nil {
		return &codeError{exitUsage, err}
	}
	if m.from == "" {
		return m.plugOnly(ctx)
	}
	src, err := m.dial(ctx, "source", m.from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := m.dial(ctx, "destination", m.to)
	if err != nil {
		return err
	}
	defer dst.Close()

	if err := m.check(ctx, src, dst, stderr); err != nil {
		return err
	}
	report, err := hotplug.Run(ctx, src, dst, m.Options)
	if err != nil {
		err = &codeError{migrateCode(err), err}
	}
	if report == nil {
		return err
	}
	// The guest did move, though it may lack a device.
	told := m.tell(ctx, report.ResumedAt)
	if told != nil {
		// The guest runs; it finds out by itself, only later.
		fmt.Fprintf(stderr, "umbra: the guest moved, but could not be told: %v\n", told)
	}
	return errors.Join(m.print(stdout, report, m.ctl != "" && told == nil), err)
}

// parse makes options of the flags.
func (m *migration) parse(stderr io.Writer) error {
	if (m.from == "") != (m.Incoming == "") {
		return errors.New("--from and --incoming go together")
	}
	if m.from == "" && len(m.plug) == 0 {
		return errors.New("nothing to do: --from or --plug is missing")
	}
	for _, f := range []struct {
		name    string
		options []string
		devices *[]hotplug.Device
	}{{"unplug", m.unplug, &m.Unplug}, {"plug", m.plug, &m.Plug}} {
		for _, o := range f.options {
			d, err := hotplug.Parse(o)
			if err != nil {
				return fmt.Errorf("--%s: %w", f.name, err)
			}
			*f.devices = append(*f.devices, d)
		}
	}
	if m.from == "" && (len(m.Unplug) > 0 || len(m.Direct) > 0) {
		return errors.New("--unplug and --direct are about a source: --from is missing")
	}
	if len(m.Unplug) > 0 || len(m.Plug) > 0 {
		m.OnStep = func(s hotplug.Step) { progress(stderr, s) }
	}
	if m.fromCtl != "" {
		m.Guest = source(m.fromCtl)
	}
	if m.verbose {
		m.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	}
	return nil
}

// plugOnly repeats what is left of a move that lacked a device.
func (m *migration) plugOnly(ctx context.Context) error {
	c, err := m.dial(ctx, "machine", m.to)
	if err != nil {
		return err
	}
	defer c.Close()
	err = hotplug.Plug(ctx, c, m.Plug, m.OnStep)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hotplug.ErrNotPlugged):
		return &codeError{exitLacks, err}
	}
	return refused(err)
}

// progress tells of a step of a move with hot-plug. What it has failed of is told
// in the end.
func progress(w io.Writer, s hotplug.Step) {
	what := strings.TrimSpace(string(s.Op) + " " + s.Device)
	switch {
	case !s.Over:
		fmt.Fprintf(w, "%s ...\n", what)
	case s.Err != nil && s.Op == hotplug.OpTell: // which is no failure
		fmt.Fprintf(w, "%s: %v\n", what, s.Err)
	case s.Err != nil:
		fmt.Fprintf(w, "%s: failed\n", what)
	default:
		fmt.Fprintf(w, "%s: done\n", what)
	}
}

func (m *migration) dial(ctx context.Context, side, path string) (*qmp.Client, error) {
	return dialQMP(ctx, side, path, m.connect)
}

func dialQMP(ctx context.Context, side, path string, timeout time.Duration) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := qmp.Dial(ctx, path)
	if err != nil {
		return nil, refused(fmt.Errorf("%s: %w", side, err))
	}
	return c, nil
}

// tell sends the guest the message that it moved. The answer is not waited for
// long: an agent that is not there now reads the message when it is.
func (m *migration) tell(ctx context.Context, resumed time.Time) error {
	if m.ctl == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := ctl.Dial(ctx, m.ctl, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(ctx, ctl.CmdMigrated, ctl.Migrated{
		Generation: rand.Text(),
		ResumedAgo: time.Since(resumed).Nanoseconds(),
	}, nil)
}

// source is the control socket of the host that the guest is about to leave.
type source string

func (s source) Unplug(ctx context.Context, address string, within time.Duration) error {
	client, err := ctl.Dial(ctx, string(s), nil)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(ctx, ctl.CmdUnplug, ctl.Unplug{Device: address, Within: within.Nanoseconds()}, nil)
}

func (s source) Keep(ctx context.Context, address string) error { return s.Unplug(ctx, address, 0) }

// migrationReport is the report as JSON.
type migrationReport struct {
	TotalMS    float64   `json:"total_ms"`
	DowntimeMS float64   `json:"downtime_ms"`
	StoppedAt  time.Time `json:"stopped_at"`
	ResumedAt  time.Time `json:"resumed_at"`
	Bytes      int64     `json:"bytes"`
	Pages      int64     `json:"pages"`
	ZeroPages  int64     `json:"zero_pages"`
	Dropped    []string  `json:"dropped"` // sections that stayed behind
	Kept       int       `json:"kept"`    // sections that were carried
	Told       bool      `json:"told"`    // the guest knows
}

func reportOf(r *migrate.Report, told bool) migrationReport {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	out := migrationReport{
		TotalMS: ms(r.Total), DowntimeMS: ms(r.Downtime), StoppedAt: r.StoppedAt, ResumedAt: r.ResumedAt,
		Bytes: r.Bytes, Pages: r.Pages, ZeroPages: r.ZeroPages, Dropped: []string{}, Kept: len(r.Kept), Told: told,
	}
	for _, s := range r.Dropped {
		out.Dropped = append(out.Dropped, s.Name)
	}
	return out
}

func (m *migration) print(w io.Writer, r *migrate.Report, told bool) error {
	if m.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(reportOf(r, told))
	}
	_, err := fmt.Fprintln(w, moved(r.Total, r.Downtime, r.Bytes, len(r.Dropped)))
	return err
}

// moved is the report in one line.
func moved(total, downtime time.Duration, bytes int64, left int) string {
	return fmt.Sprintf("moved in %v, guest stopped for %v; %.1f MiB, %d devices left behind",
		total.Round(time.Millisecond), downtime.Round(time.Millisecond), float64(bytes)/(1<<20), left)
}
