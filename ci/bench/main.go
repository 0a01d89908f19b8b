// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command bench measures what umbra costs, as ratios of two things measured
// side by side in one run, so that the machine it runs on cancels out:
//
//   - steady: instructions of the guest for sending and for receiving, proxy
//     against bare NIC;
//   - throughput: TCP streams both ways by the wall clock, proxy against bare NIC, over a
//     link with a line rate, and as fast as they go, to stand beside what the steady state
//     says of a guest that its processor bounds;
//   - recovery: resumed until the first frame on the new NIC, against what its
//     driver, and in the same slot the old one, needs alone;
//   - eight: the recovery of eight roles at once against that of one;
//   - detection: resumed until the guest knows that it moved;
//   - peers: how long connections with a Linux guest stand still after a recovery,
//     against how long the guest was away;
//   - boot: kernel hand-over until the user's program runs with its network,
//     and the sizes of what is booted;
//   - u-root: size, and the kernel's start until a user's program runs, against stock
//     u-root with the same kernel and modules.
//
// Each number is printed with its target, and as over or under if it misses that, and at
// the end how many do. The exit status is 1 only if something could not be measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
	"github.com/umbra-vm/umbra/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

// parts are the benchmarks by name, in the order in which they run.
var parts = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"boot", (*bench).boot},
	{"u-root", (*bench).uroot},
	{"recovery", (*bench).recovery},
	{"eight", (*bench).eight},
	{"detection", (*bench).detection},
	{"steady", (*bench).steady},
	{"throughput", (*bench).throughput},
	{"peers", (*bench).peers},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// bench is one run.
type bench struct {
	out     string // directory of results
	work    string // directory of sockets: a short path
	image   image.Options
	nics    []string
	rounds  int
	clocks  []Clock
	ways    []Way
	cmdline string // added to that of every guest
	load    string // path of the program that measures

	say    io.Writer
	bundle *image.Bundle
	report Report
}

func run(ctx context.Context, args []string, say io.Writer) (err error) {
	b := &bench{say: say}
	var only, nics, clocks, ways string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&b.out, "out", "out/bench", "`directory` of bench.json, the consoles and the image")
	fs.StringVar(&only, "only", strings.Join(partNames(), ","), "`benchmarks` to run")
	fs.StringVar(&nics, "nics", "virtio-net-pci,rtl8139,vmxnet3,e1000", "NICs to recover to, `names` as QEMU's")
	fs.IntVar(&b.rounds, "rounds", 3, "moves to each NIC, each way")
	fs.StringVar(&clocks, "clocks", "guest,wall", "`clocks` to time the moves by")
	fs.StringVar(&ways, "ways", "other,same", "`ways` to move: the new NIC is in another slot, or in the same")
	fs.StringVar(&b.cmdline, "cmdline", "", "`words` to add to the kernel command line of every guest")
	fs.StringVar(&b.image.CacheDir, "cache", "", "`directory` that keeps kernels and tools between builds")
	if err := fs.Parse(args); err != nil {
		return errors.Join(errUsage, err)
	}
	if fs.NArg() > 0 || b.rounds < 1 {
		fs.Usage()
		return errUsage
	}
	b.nics = strings.Split(nics, ",")
	if b.clocks, err = words(clocks, GuestClock, WallClock); err != nil {
		return fmt.Errorf("-clocks: %w", err)
	}
	if b.ways, err = words(ways, OtherSlot, SameSlot); err != nil {
		return fmt.Errorf("-ways: %w", err)
	}
	chosen, err := words(only, partNames()...)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "ubench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)

	start := time.Now()
	if err := b.build(ctx); err != nil {
		return err
	}
	var errs []error
	for _, p := range parts {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		if err := p.run(b, ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	b.report.Seconds = time.Since(start).Seconds()
	fmt.Fprintln(say)
	b.report.Render(say)
	errs = append(errs, b.report.Save(filepath.Join(b.out, "bench.json")))
	return errors.Join(errs...)
}

// words reads a list of some of the known words.
func words[W ~string](list string, known ...W) (out []W, err error) {
	for _, w := range strings.Split(list, ",") {
		if !slices.Contains(known, W(w)) {
			return nil, fmt.Errorf("%q is none of %q", w, known)
		}
		out = append(out, W(w))
	}
	return out, nil
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(b.say, "bench: "+format+"\n", args...)
}

// bed opens a test network with its sockets in a directory of that name.
func (b *bench) bed(ctx context.Context, name string, taps ...vswitch.Tap) (bed *testbed.Bed, dir string, err error) {
	dir = filepath.Join(b.work, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, "", err
	}
	bed, err = testbed.Open(ctx, testbed.Options{Dir: dir, Taps: taps})
	return bed, dir, err
}

// console makes the log of a guest's consoles.
func (b *bench) console(guest string) (*os.File, error) {
	return os.Create(filepath.Join(b.out, "console-"+guest+".log"))
}

// lastLines is what a person wants to see of a guest that did not do its part.
func lastLines(v *vm.VM) string {
	var s strings.Builder
	for _, l := range v.Console.Tail(20) {
		fmt.Fprintf(&s, "\n\t| %s", l.Text)
	}
	return s.String()
}
