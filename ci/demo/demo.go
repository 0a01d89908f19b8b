// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package demo shows the main job, end to end: a guest with one NIC lives
// through live migrations to hosts with other NICs, with a TCP connection and
// a stream of datagrams that do not notice.
//
// It drives parts that do the work elsewhere (image, ci/rig, ci/witness),
// judges what they report, and draws it.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Plan is the sequence of NICs that the guest has. The first is that of host
// A; two moves stay in the slot, one goes to another and one comes back.
var Plan = []rig.NIC{
	{Model: "e1000", Slot: "2", MAC: rig.GuestMAC},
	{Model: "rtl8139", Slot: "2"},
	{Model: "virtio-net-pci", Slot: "5"},
	{Model: "e1000", Slot: "2"},
}

// ErrVerdict is matched by the error of a demo that ran and failed.
var ErrVerdict = errors.New("the demo failed")

// Options of a demo.
type Options struct {
	Dir     string    // where report.json, timeline.svg and the consoles go
	Control bool      // leave the shadow out
	Out     io.Writer // for people
	Live    bool      // Out is a terminal: keep a status line at its end
	image.Options
}

// Times of the demo. Nothing is judged by them.
const (
	limit        = 6 * time.Minute  // for all of it
	moveLimit    = 60 * time.Second // for one recovery
	controlLimit = 12 * time.Second // the same without the shadow: there may be none
	calm         = 2 * time.Second  // of traffic before and after each move
)

// Run is the demo. It returns the report also if it failed.
func Run(ctx context.Context, opt Options) (*Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took longer than %v", limit))
	defer cancel()
	if err := os.MkdirAll(opt.Dir, 0o755); err != nil {
		return nil, err
	}
	d := &demo{Options: opt, view: newView(opt.Out, opt.Live), report: &Report{Control: opt.Control, Started: time.Now()}}
	defer d.view.close()
	err := d.run(ctx)
	d.report.Seconds = time.Since(d.report.Started).Seconds()
	if err != nil {
		d.report.Reasons = append(d.report.Reasons, err.Error())
		d.report.Verdict = "fail"
	}
	d.view.close()
	if werr := d.write(); werr != nil {
		return d.report, errors.Join(err, werr)
	}
	d.summary()
	if err == nil && d.report.Verdict != "pass" {
		err = fmt.Errorf("%w: %s", ErrVerdict, strings.Join(d.report.Reasons, "; "))
	}
	return d.report, err
}

type demo struct {
	Options
	view   *view
	report *Report
	rig    *rig.Rig
	bed    *testbed.Bed

	mu    sync.Mutex
	files []*os.File
}

func (d *demo) run(ctx context.Context) error {
	d.intro()
	sockets, err := os.MkdirTemp("", "umbra-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(sockets)
	defer d.closeConsoles()

	d.view.say("building the image: kernel, init, drivers, and the witness program")
	opts := rig.GuestOptions{Dir: filepath.Join(d.Dir, "guest"), Options: d.Options.Options}
	if opts.Progress == nil {
		opts.Progress = func(step string) { d.view.say("  " + step) }
	}
	bundle, err := rig.Build(ctx, opts)
	if err != nil {
		return err
	}
	d.report.Kernel = bundle.Kernel.Release
	d.report.QEMU = qemuVersion(ctx)

	d.bed, err = testbed.Open(ctx, testbed.Options{Dir: sockets, Capture: filepath.Join(d.Dir, "wire.pcapng")})
	if err != nil {
		return err
	}
	defer d.bed.Close()
	stop := d.view.follow(func() string { return d.status() })
	defer stop()

	d.view.say(fmt.Sprintf("host A: QEMU with one NIC, %s; the guest boots", Plan[0]))
	ro := rig.Options{
		Bed: d.bed, Bundle: bundle, Dir: sockets,
		Console: d.console,
		OnLine: func(host string, l vm.Line) {
			if text := strings.TrimSpace(l.Text); text != "" {
				d.view.say("    " + host + " | " + text)
			}
		},
	}
	if d.Control {
		ro.Cmdline = "umbra.shadow=off"
	}
	d.rig, err = rig.Start(ctx, ro, Plan[0])
	if err != nil {
		return err
	}
	defer func() { d.rig.Close() }()
	if err := d.connected(ctx); err != nil {
		return err
	}
	d.view.say("the guest's program has its TCP connection and sends datagrams")
	if err := sleep(ctx, calm); err != nil {
		return err
	}
	for i, nic := range Plan[1:] {
		m, err := d.move(ctx, i, nic)
		d.report.Moves = append(d.report.Moves, m)
		d.report.Frames.add(m.Frames)
		if err != nil {
			d.judge(ctx)
			return err
		}
	}
	return d.judge(ctx)
}

// connected waits for the witness, or for the guest's end.
func (d *demo) connected(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-d.rig.Host.Done():
			cancel(fmt.Errorf("the guest ended: %s", d.rig.Host.Stderr()))
		case <-ctx.Done():
		}
	}()
	return d.bed.Witness.Wait(ctx)
}

// move migrates the guest to a host with nic and waits until its traffic is
// as before.
func (d *demo) move(ctx context.Context, i int, nic rig.NIC) (Move, error) {
	host := string(rune('B' + i))
	m := Move{From: d.rig.NICs[0].String(), To: nic.String()}
	d.view.say(fmt.Sprintf("move %d: %s → host %s with %s; nothing is run in the guest before it", i+1, m.From, host, m.To))
	rep, err := d.rig.Move(ctx, nic)
	if rep == nil {
		m.Error = err.Error()
		return m, err
	}
	if err != nil {
		d.view.say("    the guest could not be told, it will find out: " + err.Error())
	}
	m.MigrationMS = float64(rep.Total.Microseconds()) / 1000
	m.DowntimeMS = float64(rep.Downtime.Microseconds()) / 1000
	m.StreamBytes = rep.Bytes
	for _, s := range rep.Dropped {
		m.Dropped = s.Name
	}
	m.Repaired = len(rep.Lines)
	d.view.say(fmt.Sprintf("    host %s runs the guest; it stood still for %.0f ms", host, m.DowntimeMS))

	patience := d.patience()
	wait, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no recovery within %v", patience))
	defer cancel()
	tl, err := d.rig.WaitPassive(wait, i+2)
	if err != nil {
		m.Error = err.Error()
	}
	// The stream must have moved again before its pause can be measured.
	for {
		if at, ok := d.bed.Witness.FirstRecordAfter(rep.ResumedAt); ok && time.Since(at) > calm {
			break
		}
		if sleep(wait, 50*time.Millisecond) != nil {
			break
		}
	}
	if err := sleep(ctx, calm); err != nil {
		return m, err
	}
	// The unload of the old driver may end after the recovery.
	if tls, err := d.rig.Timelines(ctx); err == nil && len(tls) > i+1 {
		tl = tls[i+1]
	}
	d.account(&m, rep, tl)
	for line := range strings.Lines(render(tl)) {
		d.view.say("    " + strings.TrimRight(line, "\n"))
	}
	d.view.say(fmt.Sprintf("    TCP stood still for %.0f ms: stopped %.0f, not yet noticed %.0f, recovery %.0f, until TCP went on %.0f",
		m.StallMS, m.Parts.Stopped, m.Parts.Detect, m.Parts.Recover, m.Parts.Before+m.Parts.BackToIt))
	return m, nil
}

func (d *demo) patience() time.Duration {
	if d.Control {
		return controlLimit
	}
	return moveLimit
}

func (d *demo) account(m *Move, rep *migrate.Report, tl ctl.Timeline) {
	m.Timeline = tl.Milliseconds()
	m.Frames = Frames(tl.Frames)
	for _, def := range tl.Deferred {
		m.Deferred = append(m.Deferred, def.Op+": "+def.Reason)
	}
	since := func(name string) time.Duration {
		if at, ok := tl.Since(name); ok {
			return at
		}
		return -1
	}
	gap := d.bed.Witness.Stalls(rep.StoppedAt.Add(-time.Second), time.Now()).TCP()
	if gap.Duration() > 0 {
		m.StallMS, m.Parts = stall(gap.From, gap.To, rep.StoppedAt, rep.ResumedAt, since(ctl.StampDetected), since(ctl.StampReleased))
	}
}

func render(tl ctl.Timeline) string {
	var b strings.Builder
	_ = ctl.RenderTimeline(&b, tl) // a Builder takes everything
	return b.String()
}

// judge ends the traffic in good order and takes the witness's verdict.
func (d *demo) judge(ctx context.Context) error {
	d.view.say("the program in the guest is asked to finish, and both ends compare")
	end, cancel := context.WithTimeoutCause(ctx, d.patience(), errors.New("the guest did not finish in time"))
	defer cancel()
	v, err := d.bed.Witness.Final(end)
	d.report.TCP = TCP{Resets: v.Resets, BytesSent: v.BytesSent, BytesLost: v.BytesLost, BytesCorrupt: v.BytesCorrupt}
	u := v.UDPOut
	d.report.UDPOut = UDPOut{Sent: int(u.Sent), Received: int(u.Received), Missing: int(u.Missing), Duplicated: int(u.Duplicated), Reordered: int(u.Reordered)}
	d.report.judge(len(Plan) - 1)
	if err != nil {
		d.report.Verdict = "fail"
		d.report.Reasons = append(d.report.Reasons, err.Error())
	}
	// A loss in the test network would be blamed on the guest.
	return d.bed.Fault()
}

// status is the line that a terminal shows while the demo runs.
func (d *demo) status() string {
	s := d.bed.Witness.Snapshot()
	if !s.Connected {
		return ""
	}
	line := fmt.Sprintf("TCP ← %d → %d records, %d resets │ UDP out %d", s.FromGuest.Records, s.ToGuest.Records, s.Resets, s.UDPOut.Received)
	if pause := time.Since(s.LastRecord); pause > 250*time.Millisecond {
		line += fmt.Sprintf(" │ no record for %.1f s", pause.Seconds())
	}
	return line
}

func (d *demo) intro() {
	what := "umbra demo: a guest with one NIC, moved live between hosts with different ones"
	if d.Control {
		what = "umbra demo, control: the same moves without the shadow (plain driver reload)"
	}
	d.view.say(what)
}

func (d *demo) console(host string) io.Writer {
	f, err := os.Create(filepath.Join(d.Dir, "console-"+host+".log"))
	if err != nil {
		d.view.say("console of " + host + " is not kept: " + err.Error())
		return io.Discard
	}
	d.mu.Lock()
	d.files = append(d.files, f)
	d.mu.Unlock()
	return f
}

func (d *demo) closeConsoles() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		f.Close()
	}
}

// write leaves report.json and timeline.svg.
func (d *demo) write() error {
	b, err := json.MarshalIndent(d.report, "", "  ")
	if err != nil {
		return err
	}
	var svg strings.Builder
	return errors.Join(
		os.WriteFile(filepath.Join(d.Dir, "report.json"), append(b, '\n'), 0o644),
		WriteSVG(&svg, *d.report),
		os.WriteFile(filepath.Join(d.Dir, "timeline.svg"), []byte(svg.String()), 0o644),
	)
}

// summary ends the demo for a person.
func (d *demo) summary() {
	r := d.report
	w := d.Out
	fmt.Fprintf(w, "\n%-22s → %-28s %9s %9s  %s\n", "from", "to", "stopped", "stall", "frames held/harvested/re-sent/dropped")
	for _, m := range r.Moves {
		fmt.Fprintf(w, "%-22s → %-28s %6.0f ms %6.0f ms  %d/%d/%d/%d %s\n", m.From, m.To, m.DowntimeMS, m.StallMS,
			m.Frames.Held, m.Frames.Harvested, m.Frames.Resent, m.Frames.Dropped, m.Error)
	}
	fmt.Fprintf(w, "\nTCP  %s in both directions, %d bytes lost, %d corrupt, %d resets\n", size(r.TCP.BytesSent), r.TCP.BytesLost, r.TCP.BytesCorrupt, r.TCP.Resets)
	fmt.Fprintf(w, "UDP  %d datagrams sent by the guest, %d missing, %d duplicated, %d reordered\n", r.UDPOut.Sent, r.UDPOut.Missing, r.UDPOut.Duplicated, r.UDPOut.Reordered)
	fmt.Fprintf(w, "\nverdict: %s\n", strings.ToUpper(r.Verdict))
	for _, why := range r.Reasons {
		fmt.Fprintf(w, "  %s\n", why)
	}
	fmt.Fprintf(w, "see %s, timeline.svg, console-*.log, wire.pcapng\n", filepath.Join(d.Dir, "report.json"))
}

func qemuVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, machine.Program, "--version").Output()
	if err != nil {
		return "unknown: " + err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
