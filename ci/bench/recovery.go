// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/peer"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// recoveryTarget bounds resumed → first frame over the driver's own time, which in the
// same slot is that of the old driver's unload too.
const recoveryTarget = 1.25

// A Way says where a move's new NIC is.
type Way string

const (
	// OtherSlot leaves the old driver for after the recovery.
	OtherSlot Way = "other"
	// SameSlot makes it part of it: a bus scan does not see what is in a slot that
	// the kernel believes to be taken.
	SameSlot Way = "same"
)

// article is how one says it of a slot.
func (w Way) article() string {
	if w == SameSlot {
		return "the same"
	}
	return "another"
}

// slots of the NICs, by turns.
var slots = []string{"2", "5"}

// moveLimit bounds one move with its recovery. A guest that needs longer is
// broken, not slow.
const moveLimit = 5 * time.Minute

var errNotInTime = errors.New("the guest was not there in time")

// watch is how often the switch is asked where the role's MAC is.
const watch = 200 * time.Microsecond

// A Clock is what recoveries are timed by.
type Clock string

const (
	// GuestClock counts the guest's instructions, one a nanosecond, and what it
	// waits: the same on every machine, and the same again.
	GuestClock Clock = "guest"
	// WallClock is the host's. The emulator that a guest comes to has translated
	// none of its code yet, and a recovery is code that runs once: most of the
	// time is the translator's. The driver alone has less to be translated.
	WallClock Clock = "wall"
)

// recovery times recoveries by each of the clocks.
func (b *bench) recovery(ctx context.Context) error {
	var errs []error
	for _, c := range b.clocks {
		errs = append(errs, b.recoveryBy(ctx, c))
	}
	return errors.Join(errs...)
}

// recoveryBy moves two guests from NIC to NIC, by turns: one with umbra, and one
// in which a program does nothing but probe, open and wait for the link.
func (b *bench) recoveryBy(ctx context.Context, clock Clock) error {
	full, err := b.startFull(ctx, clock)
	if err != nil {
		return err
	}
	defer full.close()
	bare, err := b.startBare(ctx, clock)
	if err != nil {
		return err
	}
	defer bare.close()

	for _, way := range b.ways {
		for i := range b.rounds * len(b.nics) {
			from := full.NICs[0]
			nic := rig.NIC{Model: b.nics[i%len(b.nics)], Slot: from.Slot}
			if way == OtherSlot {
				nic.Slot = slots[(slices.Index(slots, from.Slot)+1)%len(slots)]
			} else if nic.Model == from.Model {
				return fmt.Errorf("a move from %s to the same in the same slot: name several NICs", from)
			}
			b.progress("recovery by the %s's clock, %d of %d: %s → %s", clock, i+1, b.rounds*len(b.nics), from, nic)
			m, err := b.pair(ctx, full, bare, nic)
			if err != nil {
				return fmt.Errorf("move to %s: %w", nic, err)
			}
			m.Clock, m.Way = clock, way
			b.report.move(m)
		}
	}
	return nil
}

// options are those of a guest that is timed by the clock.
func (c Clock) options(opts rig.Options) rig.Options {
	if c == GuestClock {
		opts.ICount = new(int)
	}
	return opts
}

// pair moves both guests to the same kind of NIC.
func (b *bench) pair(ctx context.Context, full *fullGuest, bare *bareGuest, nic rig.NIC) (Move, error) {
	m := Move{NIC: nic.Model, Slot: nic.Slot}
	if err := full.move(ctx, nic, &m); err != nil {
		return m, err
	}
	if err := bare.move(ctx, nic, &m); err != nil {
		return m, fmt.Errorf("driver alone: %w", err)
	}
	return m, nil
}

// guest is a rig with what it stands on.
type guest struct {
	*rig.Rig
	bed *testbed.Bed
	log io.Closer
	// listener hears what the guest sends to discardAddr; nil for nobody.
	listener *peer.Host
}

func (g *guest) close() {
	g.Rig.Close()
	if g.listener != nil {
		g.listener.Close()
	}
	g.bed.Close()
	g.log.Close()
}

// start starts a guest, of the one image unless the options say otherwise.
func (b *bench) start(ctx context.Context, name string, opts rig.Options, nics ...rig.NIC) (*guest, error) {
	bed, dir, err := b.bed(ctx, name)
	if err != nil {
		return nil, err
	}
	log, err := b.console(name)
	if err != nil {
		bed.Close()
		return nil, err
	}
	if opts.Bundle == nil {
		opts.Bundle = b.bundle
	}
	opts.Bed, opts.Dir = bed, dir
	opts.Cmdline += " " + b.cmdline
	opts.Console = func(host string) io.Writer {
		fmt.Fprintf(log, "\n--- %s\n", host)
		return log
	}
	r, err := rig.Start(ctx, opts, nics...)
	if err != nil {
		bed.Close()
		log.Close()
		return nil, err
	}
	return &guest{Rig: r, bed: bed, log: log}, nil
}

// fullGuest is a guest with umbra.
type fullGuest struct {
	*guest
	clock Clock
	mac   vswitch.MAC
	count uint64 // recoveries so far
}

func (b *bench) startFull(ctx context.Context, clock Clock) (*fullGuest, error) {
	opts := clock.options(rig.Options{Dump: filepath.Join(b.work, "wire.pcap")})
	g, err := b.start(ctx, "umbra-by-"+string(clock), opts, rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return nil, err
	}
	f := &fullGuest{guest: g, clock: clock}
	bound, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	if err := f.booted(bound); err != nil {
		err = fmt.Errorf("%w%s", err, lastLines(g.Host))
		g.close()
		return nil, err
	}
	return f, nil
}

func (f *fullGuest) booted(ctx context.Context) error {
	if _, _, err := next(ctx, f.Host, 0, record.Start); err != nil {
		return err
	}
	if _, err := f.Host.WaitConsole(ctx, rig.Settled); err != nil {
		return err
	}
	st, err := f.RoleStatus(ctx, rig.Role)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(st.MAC)
	if err != nil || len(mac) != len(f.mac) {
		return fmt.Errorf("role %s: MAC %q: %w", rig.Role, st.MAC, err)
	}
	f.mac = vswitch.MAC(mac)
	tls, err := f.Timelines(ctx)
	if err != nil {
		return err
	}
	f.count = rig.LastRecovery(tls)
	return nil
}

// move moves the guest and waits until it is ready for the next move.
func (f *fullGuest) move(ctx context.Context, nic rig.NIC, m *Move) error {
	host, incoming, err := f.Prepare(ctx, nic)
	if err != nil {
		return err
	}
	// The host lives as long as ctx, the wait does not.
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	ports := f.bed.Switch.Ports()
	first := f.firstFrame(ctx, ports[len(ports)-1].Name())
	report, err := f.MoveTo(ctx, host, incoming, nic)
	if err != nil {
		return err
	}
	// The guest is not asked before: to answer is work too.
	at, ok := <-first
	if !ok {
		return fmt.Errorf("no frame from the new NIC%s", lastLines(host))
	}
	var tl ctl.Timeline
	tl, f.count, err = f.WaitRecovery(ctx, f.count)
	if err != nil {
		return fmt.Errorf("%w%s", err, lastLines(host))
	}
	m.From, m.To = tl.From, tl.To
	m.FirstFrame = ms(at.Sub(report.ResumedAt))
	if f.clock == GuestClock {
		own, err := net.ParseMAC(host.Machine.NICs[0].MAC)
		if err != nil {
			return err
		}
		w, err := readWire(f.Dump, own, f.mac[:])
		if err != nil {
			return err
		}
		m.FirstFrame = ms(w.first.Sub(w.resumed))
		// The host tells by its own clock when it resumed the guest.
		tl.Stamps = slices.DeleteFunc(tl.Stamps, func(s ctl.Stamp) bool { return s.Name == ctl.StampResumed })
	}
	m.Stamps = tl.Milliseconds()
	_, err = host.WaitConsole(ctx, rig.Settled)
	return err
}

// firstFrame tells when the role's MAC is first seen on a port. The channel is
// closed without a time if it is not seen.
//
// The emulator itself announces each NIC after a migration, by the NIC's own
// address; the role's comes from the guest alone.
func (f *fullGuest) firstFrame(ctx context.Context, port string) <-chan time.Time {
	seen := make(chan time.Time, 1)
	go func() {
		defer close(seen)
		for ctx.Err() == nil {
			if f.bed.Switch.Stations()[f.mac] == port {
				seen <- time.Now()
				return
			}
			time.Sleep(watch)
		}
	}()
	return seen
}

// bareGuest is a guest in which drivers run, and nothing else.
type bareGuest struct{ *guest }

func (b *bench) startBare(ctx context.Context, clock Clock) (*bareGuest, error) {
	opts := clock.options(rig.Options{Cmdline: "rdinit=/bin/load", NoGeneration: true, Mute: true})
	g, err := b.start(ctx, "bare-by-"+string(clock), opts, rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return nil, err
	}
	bound, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	if _, _, err := next(bound, g.Host, 0, record.Bare); err != nil {
		g.close()
		return nil, err
	}
	return &bareGuest{g}, nil
}

func (g *bareGuest) move(ctx context.Context, nic rig.NIC, m *Move) error {
	host, incoming, err := g.Prepare(ctx, nic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	if _, err := g.MoveTo(ctx, host, incoming, nic); err != nil {
		return err
	}
	r, _, err := next(ctx, host, 0, record.Bare)
	if err != nil {
		return err
	}
	m.Driver = r.Driver
	m.Bare = Bare{
		Unload: ms(time.Duration(r.Unload)), Scan: ms(time.Duration(r.Scan)),
		Probe: ms(time.Duration(r.Probe)), Open: ms(time.Duration(r.Open)), Link: ms(time.Duration(r.Link)),
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// stampOrder are the stamps up to the first frame, which the NIC sends right
// after "link".
var stampOrder = []string{
	ctl.StampDetected, ctl.StampActive, ctl.StampHarvested, ctl.StampUnloaded,
	ctl.StampScanned, ctl.StampProbed, ctl.StampOpened, ctl.StampLink,
}

// chain tells, in the order of time, what each of the named points added.
func chain(names []string, at map[string]float64) string {
	reached := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ok := at[name]
		return !ok
	})
	slices.SortStableFunc(reached, func(a, b string) int { return cmp.Compare(at[a], at[b]) })
	var words []string
	last := 0.0
	for _, name := range reached {
		words = append(words, fmt.Sprintf("%s +%.0f", name, at[name]-last))
		last = at[name]
	}
	return strings.Join(words, ", ")
}
