// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/gopacket/pcapgo"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Bounds of resumed → detected, in ms of the guest's time.
const (
	signalTarget  = 20   // with a VM generation id
	silenceTarget = 1000 // without any signal
)

// detections are the moves for each way to learn of one: the guest is somewhere
// between two looks at its devices when it is stopped.
const detections = 8

// detectRoom is how long the program in the guest may take to tell its clock.
const detectRoom = 10 * time.Second

// Detection is how long guests did not know that they had moved.
type Detection struct {
	Way    string       `json:"way"`
	Target float64      `json:"target_ms"`
	Causes []string     `json:"causes"` // of the recoveries, as the guest saw them
	Took   stats.Sample `json:"resumed_to_detected_ms"`
}

// detection moves a guest that has a VM generation id, and one that is told nothing.
func (b *bench) detection(ctx context.Context) error {
	for _, way := range []struct {
		Detection
		opts rig.Options
	}{
		{Detection{Way: "by the VM generation id", Target: signalTarget}, rig.Options{Mute: true}},
		{Detection{Way: "without a signal", Target: silenceTarget}, rig.Options{Mute: true, NoGeneration: true}},
	} {
		if err := b.detectionBy(ctx, &way.Detection, way.opts); err != nil {
			return fmt.Errorf("%s: %w", way.Way, err)
		}
		b.report.Detection = append(b.report.Detection, way.Detection)
	}
	return nil
}

// detectionBy takes the times of one way.
func (b *bench) detectionBy(ctx context.Context, d *Detection, opts rig.Options) error {
	name := "detected-" + fmt.Sprint(len(b.report.Detection))
	opts = GuestClock.options(opts)
	opts.Cmdline = "bench.load=clock"
	nic := func(move int) rig.NIC {
		return rig.NIC{Model: []string{"e1000", "rtl8139"}[move%2], Slot: slots[move%len(slots)]}
	}
	g, err := b.startHeard(ctx, name, opts, nic(0))
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.atRest(ctx); err != nil {
		return err
	}
	count := make([]uint64, 1)
	var took []float64
	for move := range detections {
		b.progress("detection %s, %d of %d", d.Way, move+1, detections)
		// Two hosts are there at a time, and both write.
		g.Dump = filepath.Join(b.work, fmt.Sprintf("%s-%d.pcap", name, move))
		tls, err := g.recover(ctx, count, nic(move+1))
		if err != nil {
			return err
		}
		at, ok := tls[0].Stamp(ctl.StampDetected)
		if !ok {
			return errors.New("a recovery without the stamp \"detected\"")
		}
		resumed, err := g.resumed(ctx)
		if err != nil {
			return err
		}
		took, d.Causes = append(took, ms(time.Duration(at)-resumed)), append(d.Causes, tls[0].Cause)
	}
	d.Took = stats.Of(took)
	return nil
}

// resumed returns when the guest went on where it is, by its monotonic clock.
func (g *guest) resumed(ctx context.Context) (time.Duration, error) {
	own, err := net.ParseMAC(g.Host.Machine.NICs[0].MAC)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, detectRoom, errNotInTime)
	defer cancel()
	for {
		f, err := os.Open(g.Dump)
		if err != nil {
			return 0, err
		}
		at, err := parseClock(f, own)
		f.Close()
		if !errors.Is(err, errNotOnWire) {
			return at, err
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(context.Cause(ctx), err)
		case <-time.After(rig.Poll):
		}
	}
}

// ticks are how many datagrams with the guest's clock must have been on their way
// for as short as the fastest, but for alike: those that a recovery held are late.
const (
	ticks = 3
	alike = time.Millisecond
)

// parseClock reads the capture of a NIC to which a guest has come, see wire, and
// returns when it went on, by its monotonic clock, which its datagrams tell.
func parseClock(in io.Reader, nic net.HardwareAddr) (time.Duration, error) {
	r, err := pcapgo.NewReader(in)
	if err != nil {
		return 0, err
	}
	var (
		resumed time.Duration
		ahead   []time.Duration // the wire's clock of the guest's
	)
	for {
		data, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break // QEMU writes on
		}
		if err != nil {
			return 0, err
		}
		wire := time.Duration(ci.Timestamp.UnixNano())
		if resumed == 0 && len(data) >= 14 && bytes.Equal(data[6:12], nic) {
			resumed = wire
		}
		_, tick, ok := bytes.Cut(data, []byte(record.Tick))
		if ok && len(tick) >= 8 {
			ahead = append(ahead, wire-time.Duration(binary.BigEndian.Uint64(tick)))
		}
	}
	slices.Sort(ahead)
	if resumed == 0 || len(ahead) < ticks || ahead[ticks-1]-ahead[0] > alike {
		return 0, fmt.Errorf("%w: a frame from %s, and %d datagrams with the guest's clock", errNotOnWire, nic, ticks)
	}
	return resumed - ahead[0], nil
}
