// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image"
)

// Bounds of sizes, in bytes.
const (
	initramfsTarget = 16 << 20
	initTarget      = 12 << 20
)

// boots to take the median of.
const boots = 3

// stamped is a line of init or its daemons; its stamp is seconds since the
// kernel's start.
var stamped = regexp.MustCompile(`^umbra: ([0-9]+\.[0-9]+)s (.*)`)

// handOver begins init's first line, behind the stamp.
const handOver = "umbra "

// bootSteps are lines on the way, of which the first that matches counts. One
// that is not there any more is missing in the report, and nothing else.
var bootSteps = []struct {
	name string
	line *regexp.Regexp
}{
	{"agent started", regexp.MustCompile(`^shadowd: started`)},
	{"driver bound", regexp.MustCompile(`driver loaded`)},
	{"proxy and link up", regexp.MustCompile(`^` + rig.Role + ` .*passive mode`)},
	{"address", regexp.MustCompile(`^` + rig.Role + `: .* by DHCP`)},
	{"user's program", regexp.MustCompile(`^load: started`)},
}

// boot measures the sizes, and the way from the kernel's hand-over to the
// user's program. The program is started when its network is up.
func (b *bench) boot(ctx context.Context) error {
	if err := b.sizes(ctx); err != nil {
		return err
	}
	for i := range boots {
		b.progress("boot %d of %d", i+1, boots)
		if err := b.bootOnce(ctx, fmt.Sprintf("boot%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// bootOnce takes the time of one boot, by the guest's clock.
func (b *bench) bootOnce(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, moveLimit, errNotInTime)
	defer cancel()
	g, err := b.start(ctx, name, GuestClock.options(rig.Options{}), rig.NIC{Model: "e1000", Slot: slots[0]})
	if err != nil {
		return err
	}
	defer g.close()
	r, _, err := next(ctx, g.Host, 0, record.Start)
	if err != nil {
		return err
	}
	kernel, steps, err := readBoot(g.Host.Console.Tail(g.Host.Console.Next()))
	if err != nil {
		return fmt.Errorf("%w%s", err, lastLines(g.Host))
	}
	b.report.boot(kernel, ms(time.Duration(r.Boottime)), steps)
	return nil
}

var errNoHandOver = errors.New("init's first line is not on the console")

// readBoot reads a console: when the kernel handed over, in ms since its
// start, and how long after that each step was reached.
func readBoot(console []vm.Line) (kernel float64, steps map[string]float64, err error) {
	steps = make(map[string]float64)
	for _, line := range console {
		m := stamped.FindStringSubmatch(line.Text)
		if m == nil {
			continue
		}
		sec, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, nil, fmt.Errorf("stamp of %q: %w", line.Text, err)
		}
		if kernel == 0 {
			if strings.HasPrefix(m[2], handOver) {
				kernel = sec * 1000
			}
			continue
		}
		for _, s := range bootSteps {
			if _, known := steps[s.name]; !known && s.line.MatchString(m[2]) {
				steps[s.name] = sec*1000 - kernel
			}
		}
	}
	if kernel == 0 {
		return 0, nil, errNoHandOver
	}
	return kernel, steps, nil
}

// empty builds the image without a user's program.
func (b *bench) empty(ctx context.Context) (*image.Bundle, error) {
	return rig.Build(ctx, rig.GuestOptions{Dir: filepath.Join(b.out, "empty"), NoWitness: true, Options: b.image})
}

// sizes takes those of the image without a user's program.
func (b *bench) sizes(ctx context.Context) error {
	bundle, err := b.empty(ctx)
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
