// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"os"
	"path/filepath"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image"
)

// Bounds of sizes, in bytes.
const (
	initramfsTarget = 16 << 20
	initTarget      = 12 << 20
)

// boots to take the median of.
const boots = 3

// handOver is init's first line; its stamp is seconds since the kernel's start.
var handOver = regexp.MustCompile(`^umbra: ([0-9]+\.[0-9]+)s umbra `)

// boot measures the sizes, and the way from the kernel's hand-over to the
// user's program. The program is started when its network is up.
func (b *bench) boot(ctx context.Context) error {
	if err := b.sizes(ctx); err != nil {
		return err
	}
	for i := range boots {
		b.progress("boot %d of %d", i+1, boots)
		kernel, user, err := b.bootOnce(ctx, fmt.Sprintf("boot%d", i))
		if err != nil {
			return err
		}
		b.report.boot(kernel, user)
	}
	return nil
}

// bootOnce returns when the kernel handed over and when the user's program
// started, in ms since the kernel's start.
func (b *bench) bootOnce(ctx context.Context, name string) (kernel, user float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	g, err := b.start(ctx, name, rig.Options{}, rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return 0, 0, err
	}
	defer g.close()
	r, _, err := next(ctx, g.Host, 0, record.Start)
	if err != nil {
		return 0, 0, err
	}
	line, err := g.Host.WaitConsole(ctx, handOver.String())
	if err != nil {
		return 0, 0, err
	}
	kernel, err = parseHandOver(line.Text)
	return kernel, ms(time.Duration(r.Boottime)), err
}

// parseHandOver reads the stamp of init's first line, in ms.
func parseHandOver(line string) (float64, error) {
	m := handOver.FindStringSubmatch(line)
	if m == nil {
		return 0, fmt.Errorf("not init's first line: %q", line)
	}
	s, err := strconv.ParseFloat(m[1], 64)
	return s * 1000, err
}

// sizes builds the image without a user's program.
func (b *bench) sizes(ctx context.Context) error {
	dir, err := filepath.Abs(filepath.Join(b.out, "empty"))
	if err != nil {
		return err
	}
	bundle, err := rig.Build(ctx, rig.GuestOptions{Dir: dir, NoWitness: true, Options: b.image})
	if err != nil {
		return err
	}
	initFile := filepath.Join(b.work, "init")
	pkg := b.image.Init
	if pkg == "" {
		pkg = "./init"
	}
	if err := goBuild(ctx, b.image.Source, initFile, pkg); err != nil {
		return err
	}
	info, err := os.Stat(initFile)
	if err != nil {
		return err
	}
	b.report.sizes(bundle.Files[bundle.Initramfs].Size, info.Size(), len(bundle.Modules), bundle.Files[image.KernelFile].Size)
	return nil
}
