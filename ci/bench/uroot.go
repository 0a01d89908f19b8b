// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/uio/llog"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/bench/internal/stats"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image"
)

// Bounds of umbra over stock u-root.
const (
	uRootSizeTarget = 1.5 // initramfs without a user's program
	uRootTimeTarget = 1.1 // user's program over u-root's init
)

// Start is how long after the kernel's start, in ms of the guest's time, which counts an
// instruction as a nanosecond and runs with the host's where the guest idles.
type Start struct {
	Init    stats.Sample `json:"init_ms"`    // the kernel ran process 1
	Program stats.Sample `json:"program_ms"` // the user's program runs
}

// Race is umbra beside stock u-root.
type Race struct {
	// Sizes in bytes of the initramfs without a user's program, with the same modules.
	UmbraSize int64 `json:"umbra_initramfs"`
	URootSize int64 `json:"u_root_initramfs"`
	Umbra     Start `json:"umbra"`
	URoot     Start `json:"u_root"`
}

func (r *Race) sizes() float64 { return stats.Ratio(float64(r.UmbraSize), float64(r.URootSize)) }

// times compares umbra's way to the user's program with u-root's to its init alone. Each
// is the shortest: what a host does meanwhile only ever adds.
func (r *Race) times() float64 { return stats.Ratio(r.Umbra.Program.Min, r.URoot.Init.Min) }

func (r *Race) render(w io.Writer) {
	fmt.Fprintf(w, "Beside stock u-root, same kernel and modules, ms from the kernel's start by the guest's clock, shortest of %d\n", r.URoot.Init.N)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \tinitramfs without a user's program, MiB\tinit\tuser's program\tmedian")
	for _, x := range []struct {
		name string
		size int64
		Start
	}{{"umbra", r.UmbraSize, r.Umbra}, {"u-root", r.URootSize, r.URoot}} {
		fmt.Fprintf(t, "  %s\t%.2f\t%.0f\t%.0f\t%.0f\n", x.name, float64(x.size)/(1<<20), x.Init.Min, x.Program.Min, x.Program.Median)
	}
	t.Flush()
	fmt.Fprintln(w)
}

// uroot boots umbra and stock u-root by turns, with one kernel, its command line and its
// modules, and with one program that says when it was started. Umbra's service needs no
// role; u-root's init runs the program as its uinit, the first that it starts. Umbra loads
// drivers meanwhile, u-root none.
func (b *bench) uroot(ctx context.Context) error {
	empty, err := b.empty(ctx)
	if err != nil {
		return err
	}
	umbra, err := rig.Build(ctx, rig.GuestOptions{
		Dir: filepath.Join(b.out, "alone"), NoWitness: true, Options: b.image, Extra: b.loadService(),
	})
	if err != nil {
		return err
	}
	b.progress("building stock u-root")
	stock, size, err := b.buildURoot(ctx, empty)
	if err != nil {
		return fmt.Errorf("u-root: %w", err)
	}
	b.report.Race = &Race{UmbraSize: empty.Files[empty.Initramfs].Size, URootSize: size}
	racers := []*racer{
		{name: "umbra", bundle: umbra, took: &b.report.Race.Umbra},
		{name: "u-root", bundle: stock, took: &b.report.Race.URoot},
	}
	for i := range boots {
		b.progress("boot of umbra and of u-root %d of %d", i+1, boots)
		for _, r := range racers {
			if err := b.race(ctx, r, i); err != nil {
				return fmt.Errorf("boot of %s: %w", r.name, err)
			}
		}
	}
	return nil
}

// racer is an image that is booted several times.
type racer struct {
	name          string
	bundle        *image.Bundle
	init, program []float64
	took          *Start
}

// race boots an image once.
func (b *bench) race(ctx context.Context, x *racer, round int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	g, err := b.start(ctx, fmt.Sprintf("race-%s%d", x.name, round), rig.Options{
		Bundle: x.bundle, ICount: new(int), Cmdline: fmt.Sprintf("uroot.uinitargs=%q", strings.Join(loadArgs, " ")),
	}, rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return err
	}
	defer g.close()
	r, _, err := next(ctx, g.Host, 0, record.Start)
	if err != nil {
		return err
	}
	x.init, x.program = append(x.init, ms(time.Duration(r.Init))), append(x.program, ms(time.Duration(r.Boottime)))
	x.took.Init, x.took.Program = stats.Of(x.init), stats.Of(x.program)
	return nil
}

// buildURoot builds what u-root's own command builds by default, with the modules of like,
// and returns an image of like's kernel and u-root's archive, to which the program that
// measures is added, and the size of the archive without it.
func (b *bench) buildURoot(ctx context.Context, like *image.Bundle) (*image.Bundle, int64, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/u-root/u-root")
	cmd.Dir = b.image.Source
	source, err := cmd.Output()
	if err != nil {
		return nil, 0, fmt.Errorf("its source: %w", err)
	}
	base := uimage.DefaultRamfs()
	modules, err := modulesOf(filepath.Join(like.Dir, like.Initramfs))
	if err != nil {
		return nil, 0, err
	}
	if err := cpio.WriteRecords(base, modules); err != nil {
		return nil, 0, err
	}
	archive, temp := filepath.Join(b.work, "u-root.cpio"), filepath.Join(b.work, "u-root")
	if err := os.Mkdir(temp, 0o755); err != nil {
		return nil, 0, err
	}
	err = uimage.Create(new(llog.Logger),
		uimage.WithReplaceEnv(golang.Default(golang.DisableCGO(), golang.WithGOOS("linux"), golang.WithGOARCH("amd64"),
			golang.WithWorkingDir(strings.TrimSpace(string(source))))),
		uimage.WithTempDir(temp), uimage.WithBaseArchive(base), uimage.WithCPIOOutput(archive),
		uimage.WithInit("init"), uimage.WithShell("gosh"), uimage.WithBusyboxCommands("github.com/u-root/u-root/cmds/core/*"),
		// Its own flags, but for that which compiles the standard library each time.
		uimage.WithBusyboxBuildOpts(&golang.BuildOpts{ExtraArgs: []string{"-a=false"}}))
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(archive)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		return nil, 0, err
	}
	stock := *like
	stock.Dir = temp
	size, err := packLike(filepath.Join(temp, "empty"), records)
	if err != nil {
		return nil, 0, err
	}
	program, err := os.ReadFile(b.load)
	if err != nil {
		return nil, 0, err
	}
	records = append(records, cpio.StaticFile("bin/load", string(program), 0o755), cpio.Symlink("bin/uinit", "load"))
	if _, err := packLike(filepath.Join(temp, stock.Initramfs), records); err != nil {
		return nil, 0, err
	}
	kernel, err := filepath.Abs(filepath.Join(like.Dir, image.KernelFile))
	if err != nil {
		return nil, 0, err
	}
	return &stock, size, os.Symlink(kernel, filepath.Join(temp, image.KernelFile))
}

// modulesOf returns what an image's archive has below /lib/modules.
func modulesOf(initramfs string) ([]cpio.Record, error) {
	f, err := os.Open(initramfs)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	whole, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", initramfs, err)
	}
	var modules []cpio.Record
	err = cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(whole)), func(r cpio.Record) error {
		if strings.HasPrefix(r.Name, "lib/modules") {
			modules = append(modules, r)
		}
		return nil
	})
	if err == nil && len(modules) == 0 {
		err = fmt.Errorf("%s has no modules", initramfs)
	}
	return modules, err
}

// packLike writes an archive compressed as those of package image are, and returns its size.
func packLike(name string, records []cpio.Record) (int64, error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return 0, err
	}
	w := cpio.NewDedupWriter(cpio.Newc.Writer(z))
	if err := errors.Join(cpio.WriteRecordsAndDirs(w, records), cpio.WriteTrailer(w), z.Close()); err != nil {
		return 0, fmt.Errorf("pack %s: %w", name, err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
