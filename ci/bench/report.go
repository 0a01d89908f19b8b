// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"text/tabwriter"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
)

// Report is bench.json. Times are in ms, sizes in bytes, work in instructions.
type Report struct {
	Seconds  float64    `json:"seconds"` // that the run took
	Results  []Result   `json:"results"` // what has a target
	Steady   []Steady   `json:"steady,omitempty"`
	Recovery []Recovery `json:"recovery,omitempty"`

	Moves []Move     `json:"moves,omitempty"`
	Crowd *Crowd     `json:"crowd,omitempty"`
	Boot  Boot       `json:"boot"`
	Race  *Race      `json:"u_root,omitempty"`
	Peers []PeerMove `json:"peers,omitempty"`

	Throughput []Throughput `json:"throughput,omitempty"`
	// LineRate is that of the link whose throughput has a target, in MiB per second.
	LineRate float64 `json:"line_rate_mib,omitempty"`

	Detection []Detection `json:"detection,omitempty"`

	mu     sync.Mutex
	rounds map[series][]record.Record
	boots  struct {
		kernel, user []float64
		steps        map[string][]float64
	}
}

// series is what rounds are alike in.
type series struct {
	clock Clock
	guest string
	kind  record.Kind
}

// Result is a number and what it should be at the most or, if Floor, at the least.
type Result struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Target float64 `json:"target"`
	Unit   string  `json:"unit,omitempty"` // none: a ratio
	Floor  bool    `json:"floor,omitempty"`
	Missed bool    `json:"target_missed"`
	// Spread is how far apart what it was taken from is, relative, where that is known: a
	// target that is nearer has been neither met nor missed for certain.
	Spread float64 `json:"spread,omitempty"`
}

// Steady compares what one unit of sending or receiving costs.
type Steady struct {
	Unit  string       `json:"unit"`
	With  string       `json:"with"` // the guest that is compared with the one with the bare NIC
	Proxy stats.Sample `json:"proxy"`
	Bare  stats.Sample `json:"bare"`
	Ratio float64      `json:"ratio"` // of the medians
	// Least is the ratio of the smallest: what disturbs a round only ever adds.
	Least float64 `json:"ratio_of_least"`
	// Answers is the number of packets per unit that came back, of both.
	Answers float64 `json:"answers"`
}

// Move is one recovery, and the same driver alone.
type Move struct {
	Clock  Clock  `json:"clock"`
	Way    Way    `json:"way"`
	NIC    string `json:"nic"`
	Slot   string `json:"slot"`
	From   string `json:"from"`
	To     string `json:"to"`
	Driver string `json:"driver"`
	// FirstFrame is from the guest's going on to the first frame on the wire.
	FirstFrame float64            `json:"first_frame_ms"`
	Stamps     map[string]float64 `json:"timeline_ms"` // since resumed
	Bare       Bare               `json:"bare_ms"`
}

// Bare is what a driver takes alone, what the scan took that found the device, which
// is not the driver's, and what the old driver took to let go of its device, which was
// gone, and the kernel to forget that.
type Bare struct {
	Unload float64 `json:"unload"`
	Scan   float64 `json:"scan"`
	Probe  float64 `json:"probe"`
	Open   float64 `json:"open"`
	Link   float64 `json:"link"`
}

// Total is the time from the begin of the probe to the link and, where the new device
// has the old one's slot, that of the unload before.
func (b Bare) Total(way Way) float64 {
	if way == SameSlot {
		return b.Unload + b.Probe + b.Open + b.Link
	}
	return b.Probe + b.Open + b.Link
}

// Recovery sums up the moves to one kind of NIC one way, timed by one clock.
type Recovery struct {
	Clock      Clock        `json:"clock"`
	Way        Way          `json:"way"`
	NIC        string       `json:"nic"`
	Driver     string       `json:"driver"`
	FirstFrame stats.Sample `json:"first_frame_ms"`
	Bare       stats.Sample `json:"bare_ms"`
	// Ratio is that of the smallest: what else this machine does meanwhile only
	// ever adds to either.
	Ratio float64 `json:"ratio"`

	// Of the fastest move and of the fastest driver.
	Stamps map[string]float64 `json:"timeline_ms"`
	Steps  Bare               `json:"bare_steps_ms"`
}

// Boot is what booting takes.
type Boot struct {
	Kernel   stats.Sample `json:"kernel_ms"` // the kernel's start → init
	HandOver stats.Sample `json:"user_ms"`   // init → the user's program, network up
	// Steps are the medians of the steps between, since the hand-over.
	Steps     map[string]float64 `json:"steps_ms,omitempty"`
	Initramfs int64              `json:"initramfs"` // without a user's program
	Init      int64              `json:"init"`      // stripped
	Vmlinuz   int64              `json:"vmlinuz"`
	Modules   int                `json:"modules"`
}

// spread notes of the newest result how far apart the rounds are that it was taken from.
func (r *Report) spread(of Steady) {
	r.Results[len(r.Results)-1].Spread = max(of.Proxy.Spread, of.Bare.Spread)
}

func (r *Report) target(name string, value, target float64, unit string) {
	r.Results = append(r.Results, Result{Name: name, Value: value, Target: target, Unit: unit, Missed: value > target})
}

// floor is target for a ratio that should not be less.
func (r *Report) floor(name string, value, target float64) {
	r.Results = append(r.Results, Result{Name: name, Value: value, Target: target, Floor: true, Missed: value < target})
}

// sizes takes what the image holds.
func (r *Report) sizes(initramfs, init int64, modules int, vmlinuz int64) {
	r.Boot.Initramfs, r.Boot.Init, r.Boot.Modules, r.Boot.Vmlinuz = initramfs, init, modules, vmlinuz
}

// boot takes one boot: when the kernel handed over and when the user's program
// started, in ms since the kernel's start, and the steps between, in ms since
// the hand-over.
func (r *Report) boot(kernel, user float64, steps map[string]float64) {
	r.boots.kernel = append(r.boots.kernel, kernel)
	r.boots.user = append(r.boots.user, user-kernel)
	if r.boots.steps == nil {
		r.boots.steps = make(map[string][]float64)
	}
	for name, at := range steps {
		r.boots.steps[name] = append(r.boots.steps[name], at)
	}
}

// move takes one move.
func (r *Report) move(m Move) { r.Moves = append(r.Moves, m) }

// round takes one round that a guest has measured by the clock. It may be called from any
// goroutine.
func (r *Report) round(clock Clock, guest string, rec record.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rounds == nil {
		r.rounds = make(map[series][]record.Record)
	}
	s := series{clock, guest, rec.Kind}
	r.rounds[s] = append(r.rounds[s], rec)
}

// both are the rounds of a guest with a proxy and of that with the bare NIC, and false
// where there is nothing to compare.
func (r *Report) both(clock Clock, guest string, kind record.Kind) (proxy, bare []record.Record, ok bool) {
	proxy, bare = r.rounds[series{clock, guest, kind}], r.rounds[series{clock, guestBare, kind}]
	return proxy, bare, len(proxy) > 0 && len(bare) > 0
}

// sum makes the report of what was taken. What was not measured is left out.
func (r *Report) sum() {
	r.Results, r.Steady, r.Recovery = nil, nil, nil
	for _, s := range []struct {
		kind   record.Kind
		unit   string
		target float64
	}{
		{record.UDP, "UDP send of 64 bytes", udpTarget},
		{record.UDPCall, "of that, the system call", 0},
		{record.TCP, "TCP send of 1 MiB", tcpTarget},
		{record.UDPReceive, "UDP receive of 64 bytes", udpTarget},
		{record.TCPReceive, "TCP receive of 1 MiB", tcpTarget},
	} {
		for _, with := range []string{guestProxy, guestShortcut} {
			proxy, bare, ok := r.both(GuestClock, with, s.kind)
			if !ok {
				continue
			}
			st := compare(s.unit, proxy, bare)
			st.With = with
			r.Steady = append(r.Steady, st)
			if s.target != 0 {
				r.target("instructions per "+s.unit+", "+with+"/bare", st.Least, s.target, "")
				r.spread(st)
			}
		}
	}
	r.sumThroughput()
	for _, clock := range []Clock{GuestClock, WallClock} {
		for _, way := range []Way{OtherSlot, SameSlot} {
			r.sumMoves(clock, way)
		}
	}
	if c := r.Crowd; c != nil {
		r.target(fmt.Sprintf("recovery of %d roles/the longest of one", c.Roles), c.Ratio, eightTarget, "")
	}
	for _, d := range r.Detection {
		r.target("resumed → detected "+d.Way+", longest", d.Took.Max, d.Target, "ms")
	}
	r.Boot.Kernel, r.Boot.HandOver = stats.Of(r.boots.kernel), stats.Of(r.boots.user)
	r.Boot.Steps = medians(r.boots.steps)
	if r.Race != nil {
		r.target("initramfs without a user's program, umbra/u-root", r.Race.sizes(), uRootSizeTarget, "")
		r.target("kernel's start → user's program/u-root's init", r.Race.times(), uRootTimeTarget, "")
	}
	if r.Boot.Initramfs > 0 {
		r.target("initramfs without the user's program", float64(r.Boot.Initramfs)/(1<<20), initramfsTarget>>20, "MiB")
		r.target("init, stripped", float64(r.Boot.Init)/(1<<20), initTarget>>20, "MiB")
	}
}

// compare compares the rounds of two guests.
func compare(unit string, proxy, bare []record.Record) Steady {
	proxy, bare = undisturbed(proxy), undisturbed(bare)
	work := func(r record.Record) float64 { return stats.Ratio(r.Work, float64(r.Count)) }
	answers := func(r record.Record) float64 {
		if r.Kind == record.TCPReceive {
			return stats.Ratio(float64(r.Sent), float64(r.Count))
		}
		return stats.Ratio(float64(r.Received), float64(r.Count))
	}
	st := Steady{
		Unit: unit, Proxy: stats.Of(column(proxy, work)), Bare: stats.Of(column(bare, work)),
		Answers: stats.Mean(column(append(slices.Clone(proxy), bare...), answers)),
	}
	st.Ratio, st.Least = stats.Ratio(st.Proxy.Median, st.Bare.Median), stats.Ratio(st.Proxy.Min, st.Bare.Min)
	return st
}

// undisturbed returns the half of the rounds in which the guest waited least.
// It waits when the peer, which this machine runs when it likes, is late, and
// waiting makes work: more interrupts for the same packets, tasks that sleep
// and wake. It is chosen by the waiting, not by the work.
func undisturbed(rounds []record.Record) []record.Record {
	wait := func(r record.Record) float64 { return float64(r.Elapsed) - r.Work }
	sorted := slices.SortedStableFunc(slices.Values(rounds), func(a, b record.Record) int {
		return cmp.Compare(wait(a), wait(b))
	})
	return sorted[:(len(sorted)+1)/2]
}

func column(rounds []record.Record, f func(record.Record) float64) []float64 {
	out := make([]float64, len(rounds))
	for i, r := range rounds {
		out[i] = f(r)
	}
	return out
}

func nicsOf(moves []Move) (nics []string) {
	for _, m := range moves {
		if !slices.Contains(nics, m.NIC) {
			nics = append(nics, m.NIC)
		}
	}
	return nics
}

// sumMoves sums up the moves one way that were timed by one clock.
func (r *Report) sumMoves(clock Clock, way Way) {
	moves := slices.DeleteFunc(slices.Clone(r.Moves), func(m Move) bool { return m.Clock != clock || m.Way != way })
	for _, nic := range nicsOf(moves) {
		rec := sumMovesTo(nic, way, moves)
		rec.Clock = clock
		r.Recovery = append(r.Recovery, rec)
		if clock == GuestClock {
			r.target(fmt.Sprintf("resumed → first frame on %s in %s slot, recovery/driver alone", nic, way.article()),
				rec.Ratio, recoveryTarget, "")
		}
	}
}

func sumMovesTo(nic string, way Way, moves []Move) Recovery {
	out := Recovery{NIC: nic, Way: way}
	var first, bare []float64
	for _, m := range moves {
		if m.NIC != nic {
			continue
		}
		total := m.Bare.Total(way)
		first, bare = append(first, m.FirstFrame), append(bare, total)
		if m.FirstFrame == slices.Min(first) {
			out.Driver, out.Stamps = m.Driver, m.Stamps
		}
		if total == slices.Min(bare) {
			out.Steps = m.Bare
		}
	}
	out.FirstFrame, out.Bare = stats.Of(first), stats.Of(bare)
	out.Ratio = stats.Ratio(out.FirstFrame.Min, out.Bare.Min)
	return out
}

func medians(samples map[string][]float64) map[string]float64 {
	out := make(map[string]float64, len(samples))
	for name, v := range samples {
		out[name] = stats.Of(v).Median
	}
	return out
}

// Render writes the report for people.
func (r *Report) Render(w io.Writer) {
	r.sum()
	if len(r.Steady) > 0 {
		fmt.Fprintln(w, "Steady state, instructions of the guest (median of the undisturbed half, ± spread)")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  per\twith\tproxy\tbare NIC\tratio\tleast\tratio\tanswers")
		for _, s := range r.Steady {
			fmt.Fprintf(t, "  %s\t%s\t%.0f ±%.2f%%\t%.0f ±%.2f%%\t%.3f\t%.0f/%.0f\t%.3f\t%.0f\n", s.Unit, s.With,
				s.Proxy.Median, 100*s.Proxy.Spread, s.Bare.Median, 100*s.Bare.Spread, s.Ratio, s.Proxy.Min, s.Bare.Min, s.Least, s.Answers)
		}
		t.Flush()
		fmt.Fprintln(w)
	}
	r.renderThroughput(w)
	for _, way := range []Way{OtherSlot, SameSlot} {
		r.renderRecovery(w, GuestClock, way, "by the guest's clock (instructions and waits, an instruction is 1 ns)")
		r.renderRecovery(w, WallClock, way, "by the wall clock (most of it the emulator's, which translates what runs once; no target)")
	}
	if r.Crowd != nil {
		r.Crowd.render(w)
	}
	r.renderDetection(w)
	renderPeers(w, r.Peers)
	if b := r.Boot; b.HandOver.N > 0 {
		fmt.Fprintf(w, "Boot, by the guest's clock (median of %d)\n", b.HandOver.N)
		fmt.Fprintf(w, "  kernel %.0f ms, then init → user's program with its network up %.0f ms\n", b.Kernel.Median, b.HandOver.Median)
		if len(b.Steps) > 0 {
			var names []string
			for _, s := range bootSteps {
				names = append(names, s.name)
			}
			fmt.Fprintf(w, "  where it goes, ms after the step before: %s\n", chain(names, b.Steps))
		}
		fmt.Fprintf(w, "  vmlinuz %.1f MiB, %d modules in the image\n\n", float64(b.Vmlinuz)/(1<<20), b.Modules)
	}
	if r.Race != nil {
		r.Race.render(w)
	}
	if len(r.Results) == 0 {
		return
	}
	fmt.Fprintln(w, "Targets")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	missed := 0
	for _, x := range r.Results {
		sign, word := "≤", "over target"
		if x.Floor {
			sign, word = "≥", "under target"
		}
		if x.Missed {
			missed++
		} else {
			word = "ok"
		}
		if x.Spread > 0 {
			word += fmt.Sprintf(", spread %.1f%%", 100*x.Spread)
		}
		fmt.Fprintf(t, "  %s\t%.4g %s\t%s %.3g\t%s\n", x.Name, x.Value, x.Unit, sign, x.Target, word)
	}
	t.Flush()
	fmt.Fprintf(w, "%d of %d missed\n", missed, len(r.Results))
}

// renderRecovery writes what was timed one way by one clock.
func (r *Report) renderRecovery(w io.Writer, clock Clock, way Way, how string) {
	recoveries := slices.DeleteFunc(slices.Clone(r.Recovery), func(x Recovery) bool { return x.Clock != clock || x.Way != way })
	if len(recoveries) == 0 {
		return
	}
	fmt.Fprintf(w, "Recovery in %s slot, resumed → first frame, %s\n", way.article(), how)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  NIC\tdriver\tfirst frame, ms\tdriver alone\t(probe + open + link; old unload; bus scan)\tratio\tmoves\tmedian\tratio")
	for _, x := range recoveries {
		fmt.Fprintf(t, "  %s\t%s\t%.1f\t%.1f\t(%.1f + %.1f + %.1f; %.1f; %.1f)\t%.2f\t%d\t%.1f/%.1f\t%.2f\n",
			x.NIC, x.Driver, x.FirstFrame.Min, x.Bare.Min, x.Steps.Probe, x.Steps.Open, x.Steps.Link, x.Steps.Unload, x.Steps.Scan,
			x.Ratio, x.FirstFrame.N, x.FirstFrame.Median, x.Bare.Median, stats.Ratio(x.FirstFrame.Median, x.Bare.Median))
	}
	t.Flush()
	fmt.Fprintln(w, "  where it goes, ms after the stamp before, of the fastest:")
	for _, x := range recoveries {
		fmt.Fprintf(w, "    %s: %s\n", x.NIC, chain(stampOrder, x.Stamps))
	}
	fmt.Fprintln(w)
}

// renderDetection writes how long guests did not know that they had moved.
func (r *Report) renderDetection(w io.Writer) {
	if len(r.Detection) == 0 {
		return
	}
	fmt.Fprintln(w, "Detection, resumed → detected, by the guest's clock")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \tshortest, ms\tmedian\tlongest\tmoves")
	for _, d := range r.Detection {
		fmt.Fprintf(t, "  %s\t%.2f\t%.2f\t%.2f\t%d\n", d.Way, d.Took.Min, d.Took.Median, d.Took.Max, d.Took.N)
	}
	t.Flush()
	fmt.Fprintln(w)
}

// Save writes the report as JSON.
func (r *Report) Save(name string) error {
	r.sum()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
