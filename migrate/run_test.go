// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/migrate/stream"
)

func TestGuestLivesOnBesideAnotherNIC(t *testing.T) {
	for _, tt := range []struct {
		name    string
		machine string
		nic     string // of the destination
	}{
		{"pc, e1000 to rtl8139 in the same slot", "pc", nicRTL8139},
		{"pc, e1000 to virtio-net in another slot", "pc", nicVirtio},
		{"q35, e1000 to rtl8139 in the same slot", "q35", nicRTL8139},
		{"q35, e1000 to virtio-net in another slot", "q35", nicVirtio},
		{"q35, e1000 to no NIC at all", "q35", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testContext(t)
			in := incomingAddr(t)
			src := startVM(ctx, t, "source", machineSpec{machine: tt.machine, nic: nicE1000})
			dst := startVM(ctx, t, "destination", machineSpec{machine: tt.machine, nic: tt.nic, incoming: in})
			before := src.lives(ctx)

			var stages []Stage
			rep, err := Run(ctx, src.qmp, dst.qmp, Options{
				Direct:   []string{"direct-net0"},
				Incoming: in,
				OnEvent: func(e Event) {
					if e.Stage != StageRAM {
						stages = append(stages, e.Stage)
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			after := dst.until(ctx, "it noticed the move", func(c [counters]uint32) bool { return c[counterMoved] == 1 })
			if after[counterLoops] <= before[counterLoops] {
				t.Errorf("loops went from %d to %d: memory was not carried over", before[counterLoops], after[counterLoops])
			}
			dst.lives(ctx)
			src.stands(ctx)
			if s := src.status(ctx); s != "postmigrate" {
				t.Errorf("source is %q, want postmigrate", s)
			}
			serial, err := os.ReadFile(filepath.Join(dst.dir, "serial"))
			if err != nil || string(serial) != "M" {
				t.Errorf("destination's serial port got %q, %v; want M", serial, err)
			}

			if len(rep.Dropped) != 1 || rep.Dropped[0].Name != "0000:00:02.0/e1000" {
				t.Errorf("dropped %v, want the e1000 alone", rep.Dropped)
			}
			if len(rep.Kept) < 10 || rep.Pages == 0 || rep.ZeroPages == 0 || rep.Bytes <= rep.Forwarded {
				t.Errorf("implausible report: %+v", rep)
			}
			if len(rep.Lines) != 0 {
				t.Errorf("repaired %v, but no line was asserted", rep.Lines)
			}
			if !rep.ResumedAt.After(rep.StoppedAt) || rep.Downtime <= 0 || rep.Total < rep.Downtime {
				t.Errorf("stopped %v, resumed %v, downtime %v, total %v", rep.StoppedAt, rep.ResumedAt, rep.Downtime, rep.Total)
			}
			if !strings.HasPrefix(rep.Machine, "pc-") {
				t.Errorf("machine %q", rep.Machine)
			}
			checkStages(t, stages)
			t.Logf("downtime %v, total %v, held %v, %d pages", rep.Downtime, rep.Total, rep.Held, rep.Pages)
		})
	}
}

// checkStages: the stages of a success come in order, but the source's STOP may
// arrive at any time before the end.
func checkStages(t *testing.T, got []Stage) {
	t.Helper()
	want := []Stage{StageConnected, StageDeviceState, StageForwarded, StageLoaded, StageResumed}
	stopped := false
	for _, s := range got {
		switch {
		case s == StageStopped:
			stopped = true
		case len(want) == 0 || s != want[0]:
			t.Fatalf("stages %v", got)
		default:
			want = want[1:]
		}
	}
	if len(want) > 0 || !stopped {
		t.Fatalf("stages %v lack %v", got, want)
	}
}

// A level-triggered line which a dropped device held is the trap: the firmware
// has raised the e1000's INTx and kept it masked, and unmasks it on the
// destination, where nobody is left to lower it.
func TestAssertedInterruptLine(t *testing.T) {
	for _, tt := range []struct {
		machine string
		keep    bool
		line    string
	}{
		{machine: "pc", line: "0000:00:02.0 INTA (PIRQ B, GSI [10])"},
		{machine: "q35", line: "0000:00:02.0 INTA (PIRQ G, GSI [22 11])"},
		{machine: "pc", keep: true},
		{machine: "q35", keep: true},
	} {
		name := tt.machine + ", repaired: no interrupt reaches the guest"
		if tt.keep {
			name = tt.machine + ", not repaired: interrupts without end"
		}
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			in := incomingAddr(t)
			src := startVM(ctx, t, "source", machineSpec{machine: tt.machine, nic: nicE1000, assert: true})
			dst := startVM(ctx, t, "destination", machineSpec{machine: tt.machine, nic: nicRTL8139, incoming: in})
			src.lives(ctx)
			if pic := src.pic(ctx); !pic.asserted(tt.machine) {
				t.Fatalf("the line is not asserted on the source, the test would prove nothing: %+v", pic)
			}
			rep, err := Run(ctx, src.qmp, dst.qmp, Options{
				Direct:    []string{"direct-net0"},
				Incoming:  in,
				KeepLines: tt.keep,
			})
			if err != nil {
				t.Fatal(err)
			}
			if tt.keep {
				dst.until(ctx, "interrupts poured in", func(c [counters]uint32) bool {
					return c[counterPIC] > 10000 || c[counterAPIC] > 10000
				})
				if pic := dst.pic(ctx); !pic.asserted(tt.machine) {
					t.Errorf("the line fell by itself: %+v", pic)
				}
				return
			}
			if len(rep.Lines) != 1 || rep.Lines[0].String() != tt.line {
				t.Errorf("repaired %v, want %s", rep.Lines, tt.line)
			}
			dst.until(ctx, "it noticed the move", func(c [counters]uint32) bool { return c[counterMoved] == 1 })
			c := dst.lives(ctx)
			if c[counterPIC] != 0 || c[counterAPIC] != 0 || c[counterSpurious] != 0 {
				t.Errorf("%d interrupts through the i8259s, %d through the I/O APIC, %d others; want none",
					c[counterPIC], c[counterAPIC], c[counterSpurious])
			}
			const timer = 1 << 0 // runs, masked
			if pic := dst.pic(ctx); pic.irr[0]&^timer != 0 || pic.irr[1] != 0 || pic.ioapic != "(none)" {
				t.Errorf("inputs latched on the destination: %+v", pic)
			}
		})
	}
}

func TestDirectDeviceBehindBridge(t *testing.T) {
	ctx := testContext(t)
	in := incomingAddr(t)
	bridges := []string{
		"-device", "pcie-root-port,id=rp0,chassis=1,slot=1,addr=4",
		"-device", "virtio-net-pci,id=behind,bus=rp0,romfile=",
	}
	src := startVM(ctx, t, "source", machineSpec{machine: "q35", nic: nicE1000, extra: bridges})
	dst := startVM(ctx, t, "destination", machineSpec{machine: "q35", incoming: in, extra: bridges[:2]})
	rep, err := Run(ctx, src.qmp, dst.qmp, Options{Direct: []string{"behind", "direct-net0"}, Incoming: in})
	if err != nil {
		t.Fatal(err)
	}
	want := []stream.Path{
		{Slots: []stream.Slot{{Device: 4}, {}}},
		{Slots: []stream.Slot{{Device: 2}}},
	}
	for i, p := range rep.Direct {
		if p.String() != want[i].String() {
			t.Errorf("device %d at %v, want %v", i, p, want[i])
		}
	}
	if len(rep.Dropped) != 2 {
		t.Errorf("dropped %v", rep.Dropped)
	}
	dst.lives(ctx)
}

// Every NIC that QEMU can emulate on a PC stays behind, on a machine with two
// processors, a disk and video memory.
func TestEveryNIC(t *testing.T) {
	models := []string{
		"e1000", "e1000-82544gc", "e1000-82545em", "e1000e", "i82550", "i82551", "i82557a", "i82557b",
		"i82557c", "i82558a", "i82558b", "i82559a", "i82559b", "i82559c", "i82559er", "i82562", "i82801",
		"ne2k_pci", "pcnet", "rtl8139", "tulip", "virtio-net-pci", "vmxnet3",
	}
	for _, machine := range []string{"pc", "q35"} {
		t.Run(machine, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			in := incomingAddr(t)
			common := append(diskArgs(t), "-smp", "2", "-m", "64", "-device", "VGA,addr=3,romfile=")
			src := machineSpec{machine: machine, nic: nicE1000, extra: slices.Clone(common)}
			opts := Options{Direct: []string{"direct-net0"}, Incoming: in, Deferred: true}
			for i, model := range models {
				id := fmt.Sprintf("nic%d", i)
				opts.Direct = append(opts.Direct, id)
				src.extra = append(src.extra, "-device", fmt.Sprintf("%s,id=%s,addr=%#x,romfile=", model, id, 7+i))
			}
			a := startVM(ctx, t, "source", src)
			b := startVM(ctx, t, "destination", machineSpec{machine: machine, incoming: "defer", extra: common})
			a.lives(ctx)
			rep, err := Run(ctx, a.qmp, b.qmp, opts)
			if err != nil {
				t.Fatal(err)
			}
			// Some have an EEPROM with a section of its own.
			for i, p := range rep.Direct {
				of := func(s stream.Section) bool { return strings.HasPrefix(s.Name, p.String()+"/") }
				if !slices.ContainsFunc(rep.Dropped, of) || slices.ContainsFunc(rep.Kept, of) {
					t.Errorf("%s at %v: dropped %v, kept %v", opts.Direct[i], p, rep.Dropped, rep.Kept)
				}
			}
			b.lives(ctx)
			a.stands(ctx)
		})
	}
}
