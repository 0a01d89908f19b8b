// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image"
)

// loadPackage is the program that measures in the guest.
const loadPackage = "github.com/umbra-vm/umbra/ci/bench/load"

// build builds the one image that all benchmarks boot, and measures it.
func (b *bench) build(ctx context.Context) error {
	b.progress("building the guest's image")
	src, err := image.FindSource(ctx, b.image.Source)
	if err != nil {
		return err
	}
	b.image.Source = src
	dir, err := filepath.Abs(b.out)
	if err != nil {
		return err
	}
	load := filepath.Join(dir, "load")
	if err := goBuild(ctx, src, load, loadPackage); err != nil {
		return err
	}
	b.load = load
	b.bundle, err = rig.Build(ctx, rig.GuestOptions{
		Dir: dir, NoWitness: true, Options: b.image, Extra: b.loadService() + fmt.Sprintf("needs = [%q]\n", rig.Role),
	})
	return err
}

// loadArgs are the arguments of the program that measures.
var loadArgs = []string{discardAddr.String(), sourceAddr.String(), sinkAddr.String()}

// loadService describes the program that measures to the image.
func (b *bench) loadService() string {
	return fmt.Sprintf("[[service]]\nname = \"load\"\nexec = [\"/bin/load\", \"%s\"]\nfiles = [%q]\n"+
		"env = [\"GODEBUG=asyncpreemptoff=1\"]\nrestart = \"never\"\n", strings.Join(loadArgs, `", "`), b.load+":/bin/load")
}

func goBuild(ctx context.Context, src, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, said)
	}
	return nil
}

// errDone says that the program in the guest has ended in order.
var errDone = errors.New("the guest's program has ended")

// errGuest is matched by errors that the program in the guest reported.
var errGuest = errors.New("the guest's program failed")

// next returns the first record of one of the kinds on v's console at or behind
// line from, and the number of the line behind it.
func next(ctx context.Context, v *vm.VM, from int, kinds ...record.Kind) (record.Record, int, error) {
	for {
		line, err := v.Console.Wait(ctx, record.Mark+`\{`, from)
		if err != nil {
			return record.Record{}, from, fmt.Errorf("record of %v: %w%s", kinds, err, lastLines(v))
		}
		from = line.N + 1
		r, err := record.Parse(line.Text)
		if err != nil {
			return r, from, fmt.Errorf("%w: %q", err, line.Text)
		}
		switch {
		case slices.Contains(kinds, r.Kind):
			return r, from, nil
		case r.Kind == record.Fail:
			return r, from, fmt.Errorf("%w: %s%s", errGuest, r.Error, lastLines(v))
		case r.Kind == record.Done:
			return r, from, fmt.Errorf("record of %v: %w", kinds, errDone)
		}
	}
}
