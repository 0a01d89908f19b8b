// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/sntp"
	"github.com/umbra-vm/umbra/ci/testbed/vmtest"
	"github.com/umbra-vm/umbra/ci/witness"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// NICs of the hosts, named by model and slot.
var (
	e1000At2   = rig.NIC{Model: "e1000", Slot: "2"}
	rtl8139At2 = rig.NIC{Model: "rtl8139", Slot: "2"}
	virtioAt2  = rig.NIC{Model: "virtio-net-pci", Slot: "2"}
	virtioAt5  = rig.NIC{Model: "virtio-net-pci", Slot: "5"}
	e1000At5   = rig.NIC{Model: "e1000", Slot: "5"}
	rtl8139At5 = rig.NIC{Model: "rtl8139", Slot: "5"}
	rtl8139At3 = rig.NIC{Model: "rtl8139", Slot: "3"}
	rtl8139At4 = rig.NIC{Model: "rtl8139", Slot: "4"}
	ne2kAt2    = rig.NIC{Model: "ne2k_pci", Slot: "2"}
	vmxnet3At2 = rig.NIC{Model: "vmxnet3", Slot: "2"}
	e1000eAt2  = rig.NIC{Model: "e1000e", Slot: "2"}
	noNIC      rig.NIC
)

// patience ends a test that hangs. It is no bound that anything has to meet.
const patience = 3 * time.Minute

// settling is how long the last stamps of a recovery that is over are waited
// for before they are said to be missing.
const settling = 20 * time.Second

// guest is a guest under test, and what a failure has to show of it.
type guest struct {
	*rig.Rig
	t   testing.TB
	ctx context.Context
	bed *testbed.Bed
	rec *recorder

	plugs int          // NICs that were plugged so far
	clock *sntp.Server // nil without
}

// callTimeout ends a question to an agent that died over it: nobody tells the
// host, and the next question finds the agent's successor.
const callTimeout = 10 * time.Second

func (g *guest) status() (ctl.Status, error) {
	ctx, cancel := context.WithTimeout(g.ctx, callTimeout)
	defer cancel()
	return g.Status(ctx)
}

func (g *guest) timelines() ([]ctl.Timeline, error) {
	ctx, cancel := context.WithTimeout(g.ctx, callTimeout)
	defer cancel()
	return g.Timelines(ctx)
}

// setup is how a guest, and the network it is on, are started.
type setup struct {
	rig.Options
	ipv6     *testbed.IPv6
	capture  string // file of all frames, none if empty
	clock    bool   // there is an NTP server
	peer     witness.PeerOptions
	patience time.Duration // ends a test that hangs
	again    bool          // the test has booted a guest before
	asBuilt  bool          // the kernel is the image's, which unpacks itself
}

// option changes a setup.
type option func(*setup)

func cmdline(words string) option { return func(o *setup) { o.Cmdline = words } }

// mute keeps the host from telling the guest that it moved. A host that talks
// to an agent that is about to be killed would wait for its answer in vain.
func mute(o *setup) { o.Mute = true }

// asBuilt starts the image's own kernel, as users do.
func asBuilt(o *setup) { o.asBuilt = true }

// again is for the second guest of a test.
func again(o *setup) { o.again = true }

// fewNICs is how many a guest may have that leaves room for another on a machine with two
// processors.
const fewNICs = 3

// start boots a guest of the image with nic, waits until its witness is
// connected, and ends it with the test. The test runs beside others.
func start(t *testing.T, bundle func() (*image.Bundle, error), nic rig.NIC, opts ...option) *guest {
	t.Helper()
	return startAll(t, bundle, []rig.NIC{nic}, opts...)
}

// startAll is start with several NICs.
func startAll(t *testing.T, bundle func() (*image.Bundle, error), nics []rig.NIC, opts ...option) *guest {
	t.Helper()
	return startAmong(t, bundle, nil, nics, opts...)
}

// startAmong is startAll on a network with neighbours of the peer.
func startAmong(t *testing.T, bundle func() (*image.Bundle, error), neighbours []testbed.Neighbour, nics []rig.NIC, opts ...option) *guest {
	t.Helper()
	g := boot(t, bundle, neighbours, nics, opts...)
	for _, s := range g.bed.Stations {
		if err := s.Witness.Wait(g.ctx); err != nil {
			t.Fatalf("the guest's witness of %s did not connect: %v", s.Addr, err)
		}
	}
	return g
}

// boot is startAmong without waiting for anything.
func boot(t *testing.T, bundle func() (*image.Bundle, error), neighbours []testbed.Neighbour, nics []rig.NIC, opts ...option) *guest {
	t.Helper()
	if testing.Short() {
		t.Skip("a VM test")
	}
	g := &guest{t: t, rec: new(recorder)}
	logger := slog.New(slog.NewTextHandler(g.rec, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir := vmtest.Dir(t)
	ro := setup{patience: patience, Options: rig.Options{Dir: dir, Logger: logger, OnLine: g.rec.line}}
	for _, o := range opts {
		o(&ro)
	}
	if len(nics) <= fewNICs && len(neighbours) == 0 && !ro.again {
		t.Parallel()
	}
	var err error
	if ro.Bundle, err = bundle(); err != nil {
		t.Fatalf("build the image: %v", err)
	}
	if !ro.asBuilt {
		if ro.Kernel, err = unpacked(ro.Bundle); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(vmtest.Context(t), ro.patience, errors.New("the test hangs"))
	t.Cleanup(cancel)
	g.ctx = ctx
	g.bed, err = testbed.Open(ctx, testbed.Options{
		Dir: dir, Neighbours: neighbours, IPv6: ro.ipv6, Witness: ro.peer, Capture: ro.capture, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.bed.Close() })
	ro.Bed = g.bed
	if ro.clock {
		g.serveTime()
	}
	if g.Rig, err = rig.Start(ctx, ro.Options, nics...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			g.dump()
		}
		g.Close()
	})
	return g
}

// addressOf is where the guest has a NIC. Firmware numbers the buses behind root
// ports in the order of the slots, from 1 on.
func (g *guest) addressOf(nic rig.NIC) string {
	if g.RootPorts {
		return fmt.Sprintf("0000:%02x:00.0", 1+slices.Index(g.SlotsIn(), nic.Slot))
	}
	slot, err := strconv.ParseUint(nic.Slot, 10, 5)
	if err != nil {
		g.t.Fatalf("slot of %v: %v", nic, err)
	}
	return fmt.Sprintf("0000:00:%02x.0", slot)
}

// move migrates the guest to a host with nics.
func (g *guest) move(nics ...rig.NIC) {
	g.t.Helper()
	if _, err := g.Move(g.ctx, nics...); err != nil {
		g.t.Fatalf("migration to a host with %v: %v", nics, err)
	}
}

// recovered waits until the n-th recovery, the boot not counted, has ended in
// passive mode, checks what every timeline has to obey, and returns it.
func (g *guest) recovered(n int) ctl.Timeline {
	g.t.Helper()
	tl := g.waitPassive(n)
	// The old driver may leave off the critical path, and the host's word on
	// when it resumed the guest may come late.
	end := time.Now().Add(settling)
	for g.missing(tl) != "" && time.Now().Before(end) {
		time.Sleep(rig.Poll)
		if tls, err := g.timelines(); err == nil && len(tls) > n {
			tl = tls[n]
		}
	}
	g.legal(tl)
	return tl
}

// order lists which stamp never comes before which, whatever the hardware.
// "harvested" and "unloaded" have two places: see package shadow/ctl. Settings are
// replayed before or after the link comes up, as the device allows.
var order = [][]string{
	{ctl.StampResumed, ctl.StampDetected, ctl.StampActive, ctl.StampScanned, ctl.StampProbed, ctl.StampOpened,
		ctl.StampLink, ctl.StampReleased, ctl.StampPassive},
	{ctl.StampOpened, ctl.StampReplayed, ctl.StampReleased},
	{ctl.StampDetected, ctl.StampHarvested, ctl.StampReleased},
	{ctl.StampHarvested, ctl.StampUnloaded},
}

// missing names a stamp that a timeline must have and has not. Those of standbys have
// their own, see TestStandby.
func (g *guest) missing(tl ctl.Timeline) string {
	told := !g.Mute && tl.Cause == ctl.CauseMigration
	for _, name := range ctl.StampNames() {
		if _, ok := tl.Stamp(name); !ok && name != ctl.StampStandby && (name != ctl.StampResumed || told) {
			return name
		}
	}
	return ""
}

// legal reports stamps that are missing or out of order, and frames that are
// not accounted for. Only a host that says so makes a stamp "resumed".
func (g *guest) legal(tl ctl.Timeline) {
	g.t.Helper()
	if name := g.missing(tl); name != "" {
		g.t.Errorf("recovery %d has no stamp %q", tl.Recovery, name)
	}
	for _, names := range order {
		var last ctl.Stamp
		for _, name := range names {
			at, ok := tl.Stamp(name)
			if !ok {
				continue
			}
			if at < last.At {
				g.t.Errorf("recovery %d: stamp %q lies before %q", tl.Recovery, name, last.Name)
			}
			last = ctl.Stamp{Name: name, At: at}
		}
	}
	if f := tl.Frames; f.Resent < f.Harvested-f.Dropped {
		g.t.Errorf("recovery %d: %d frames harvested, but %d re-sent and %d dropped", tl.Recovery, f.Harvested, f.Resent, f.Dropped)
	}
}

// lossless is legal and more: no frame was dropped.
func (g *guest) lossless(tl ctl.Timeline) {
	g.t.Helper()
	if tl.Frames.Dropped != 0 {
		g.t.Errorf("recovery %d dropped %d frames", tl.Recovery, tl.Frames.Dropped)
	}
	if tl.Error != "" {
		g.t.Errorf("recovery %d: %s", tl.Recovery, tl.Error)
	}
}

// verdict asks the witness to finish.
func (g *guest) verdict() witness.Verdict {
	g.t.Helper()
	return g.verdictOn(g.bed)
}

func (g *guest) verdictOn(bed *testbed.Bed) witness.Verdict {
	g.t.Helper()
	return g.verdictOf(bed, bed.Stations[0])
}

func (g *guest) verdictOf(bed *testbed.Bed, s *testbed.Station) witness.Verdict {
	g.t.Helper()
	v, err := s.Witness.Final(g.ctx)
	if err != nil {
		g.t.Errorf("the witness of %s did not finish: %v", s.Addr, err)
	}
	g.fair(bed)
	slow := g.rec.says("NETDEV WATCHDOG") || g.rec.says("Out-of-sync dirty pointer")
	if v.UDPOut.Missing > 0 && slow {
		g.t.Logf("%d datagrams missing: this machine is so slow that a driver gave its frames up before the guest had noticed that it moved", v.UDPOut.Missing)
		v.UDPOut.Missing = 0
	}
	return v
}

// fair fails the test if its own network lost something: then no verdict
// would be just.
func (g *guest) fair(bed *testbed.Bed) {
	g.t.Helper()
	if err := bed.Fault(); err != nil {
		g.t.Errorf("not the guest's fault: %v", err)
	}
}

// unharmed ends the run: nothing was reset, lost or altered, and the wire has
// seen one connection to each station, opened once.
func (g *guest) unharmed() {
	g.t.Helper()
	g.unharmedOn(g.bed)
}

func (g *guest) unharmedOn(bed *testbed.Bed) {
	g.t.Helper()
	for _, s := range bed.Stations {
		v := g.verdictOf(bed, s)
		if err := v.Err(); err != nil {
			g.t.Errorf("at %s: %v", s.Addr, err)
		}
		// No failure: QEMU itself lets a frame overtake others (see package hold's
		// tests, which look at what leaves the guest).
		g.t.Logf("at %s: %d of %d datagrams reordered", s.Addr, v.UDPOut.Reordered, v.UDPOut.Sent)
	}
	g.oneConnectionOn(bed)
}

// connected ends a run in which datagrams may be lost, and nothing else.
func (g *guest) connected() {
	g.t.Helper()
	v := g.verdict()
	g.t.Logf("%d of %d datagrams missing", v.UDPOut.Missing, v.UDPOut.Sent)
	v.UDPOut.Missing = 0
	if err := v.Err(); err != nil {
		g.t.Error(err)
	}
	g.oneConnection()
}

// oneConnection checks the wire.
func (g *guest) oneConnection() {
	g.t.Helper()
	g.oneConnectionOn(g.bed)
}

func (g *guest) oneConnectionOn(bed *testbed.Bed) {
	g.t.Helper()
	for _, s := range bed.Stations {
		directions := 0
		var rst uint64
		for _, f := range bed.Flows.All() {
			// One that carried nothing was tried before its role had a link.
			if f.Bytes > 0 && (f.Src == s.Addr || f.Dst == s.Addr) {
				directions++
				rst += f.RST
			}
		}
		if directions != 2 {
			g.t.Errorf("%d directions of connections with %s on the wire, want 2", directions, s.Addr)
		}
		if rst != 0 {
			g.t.Errorf("%d RST segments on the wire: %+v", rst, bed.Flows.All())
		}
	}
}

// traffic waits until every witness has gone on in both directions, and by UDP:
// whatever the guest's state, it works now.
func (g *guest) traffic() {
	g.t.Helper()
	g.trafficOn(g.bed)
}

func (g *guest) trafficOn(bed *testbed.Bed) {
	g.t.Helper()
	first := make([]witness.Snapshot, len(bed.Stations))
	for i, s := range bed.Stations {
		first[i] = s.Witness.Snapshot()
	}
	for i, s := range bed.Stations {
		g.goesOn(s, first[i])
	}
}

// goesOn waits until a station has seen more than at first.
func (g *guest) goesOn(s *testbed.Station, first witness.Snapshot) {
	g.t.Helper()
	for {
		now := s.Witness.Snapshot()
		const enough = 20
		if now.FromGuest.Records >= first.FromGuest.Records+enough &&
			now.ToGuest.Records >= first.ToGuest.Records+enough &&
			now.UDPOut.Received >= first.UDPOut.Received+enough {
			return
		}
		select {
		case <-g.ctx.Done():
			g.t.Fatalf("the witness of %s stands still: from %+v to %+v", s.Addr, first.Verdict, now.Verdict)
		case <-time.After(rig.Poll):
		}
	}
}

// waitRole waits until the role's status is as ok says; what names it.
func (g *guest) waitRole(what string, ok func(ctl.RoleStatus) bool) (found ctl.RoleStatus) {
	g.t.Helper()
	g.until("the role is "+what, func() error {
		st, err := g.status()
		if err != nil {
			return err
		}
		for _, r := range st.Roles {
			if found = r; r.Name == rig.Role && ok(r) {
				return nil
			}
		}
		return fmt.Errorf("roles are %+v", st.Roles)
	})
	return found
}

// waitPassive waits until the n-th recovery, the boot not counted, has ended in
// passive mode.
func (g *guest) waitPassive(n int) (tl ctl.Timeline) {
	g.t.Helper()
	g.until(fmt.Sprintf("recovery %d is over", n), func() error {
		tls, err := g.timelines()
		if err != nil {
			return err
		}
		if len(tls) <= n {
			return fmt.Errorf("%d timelines, the boot's included", len(tls))
		}
		tl = tls[n]
		if _, done := tl.Stamp(ctl.StampPassive); !done {
			return fmt.Errorf("its stamps are %v, its error %q", tl.Stamps, tl.Error)
		}
		return nil
	})
	return tl
}

// waitConsole waits for a line of the guest's console, on whichever host.
func (g *guest) waitConsole(pattern string) string {
	g.t.Helper()
	text, err := g.rec.wait(g.ctx, pattern, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	return text
}

// dump shows what a person needs to see of a test that failed: the guest's
// console over all its hosts, the timelines, the last lines of the agent and
// of the testbed.
func (g *guest) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var b strings.Builder
	if g.Host != nil {
		b.WriteString(vmtest.Describe(g.Host))
	}
	b.WriteString("console of the guest over all hosts:\n")
	b.WriteString(g.rec.console(400))
	b.WriteString("last lines of umbra in the guest:\n")
	b.WriteString(g.rec.agent(40))
	b.WriteString("last lines of the testbed and of migrations:\n")
	b.WriteString(g.rec.host(40))
	var tls []ctl.Timeline
	if err := g.Call(ctx, ctl.CmdTimeline, ctl.RoleArgs{}, &tls); err != nil {
		fmt.Fprintf(&b, "no timelines: %v\n", err)
	}
	for _, tl := range tls {
		fmt.Fprintln(&b)
		if err := ctl.RenderTimeline(&b, tl); err != nil {
			fmt.Fprintln(&b, err)
		}
		if tl.Error != "" {
			fmt.Fprintln(&b, "error:", tl.Error)
		}
	}
	if st, err := g.Status(ctx); err == nil {
		if err := ctl.RenderStatus(&b, st); err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	for _, p := range g.bed.Switch.Ports() {
		fmt.Fprintf(&b, "switch port %s: %+v\n", p.Name(), p.Counters())
	}
	for _, f := range g.bed.Flows.All() {
		fmt.Fprintf(&b, "flow %+v\n", f)
	}
	for _, s := range g.bed.Stations {
		if v, err := json.MarshalIndent(s.Witness.Snapshot().Verdict, "", " "); err == nil {
			fmt.Fprintf(&b, "witness of %s: %s\n", s.Addr, v)
		}
	}
	g.t.Log(b.String())
}

// until waits for check to return nil; what says what is waited for.
func (g *guest) until(what string, check func() error) {
	g.t.Helper()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-g.ctx.Done():
			g.t.Fatalf("waiting until %s: %v", what, err)
		case <-time.After(rig.Poll):
		}
	}
}

// waitStamp waits until a recovery that is not over has reached the stamp.
func (g *guest) waitStamp(name string) {
	g.t.Helper()
	g.until("a recovery reaches "+name, func() error {
		tls, err := g.timelines()
		if err != nil {
			return err
		}
		last := tls[len(tls)-1]
		if _, ok := last.Stamp(name); len(tls) < 2 || !ok {
			return fmt.Errorf("%d timelines, the last with %v", len(tls), last.Stamps)
		}
		return nil
	})
}
