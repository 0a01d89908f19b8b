// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Command matrix moves guests from every NIC of QEMU to every other one and
// writes a table of it. It goes on where it stopped, as long as the guest is the
// same build.
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
	"sync"
	"syscall"
	"time"

	"github.com/umbra-vm/umbra/ci/matrix"
	"github.com/umbra-vm/umbra/image"
)

// errHarm ends the run with status 1.
var errHarm = errors.New("moves that must not be")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("matrix", flag.ContinueOnError)
	out := fs.String("out", "out/matrix.json", "`file` of the results")
	docs := fs.String("docs", "docs", "`directory` that gets all results, and the table for people, once there are all; \"\" for none")
	only := fs.String("only", "", "pairs to run: `words` that must all be in \"from → to (machine, slot)\" or \"from → to (machine, slot, first move)\"")
	jobs := fs.Int("jobs", 2, "guests at the same time")
	again := fs.Bool("again", false, "run pairs that have failed again")
	keep := fs.Bool("keep", false, "keep what other builds of the guest have resulted in")
	render := fs.Bool("render", false, "make the table for people anew of the results beside it, and run nothing")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *render {
		t, err := matrix.Load(filepath.Join(*docs, matrix.DataFile), "")
		if err != nil {
			return err
		}
		return t.Publish(*docs)
	}
	dir, err := os.MkdirTemp("", "um-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say("building the guest")
	bundle, err := matrix.Build(ctx, filepath.Join(filepath.Dir(*out), "matrix"), image.Options{Progress: func(string) {}})
	if err != nil {
		return err
	}
	build := bundle.Files[bundle.Initramfs].SHA256
	of := build
	if *keep {
		of = ""
	}
	table, err := matrix.Load(*out, of)
	if err != nil {
		return err
	}
	table.Kernel = bundle.Kernel.Release
	all := slices.DeleteFunc(matrix.AllPairs(), func(p matrix.Pair) bool { return !wanted(p, *only) })
	if *again {
		for _, r := range table.Harmed() {
			table.Drop(r.Pair)
		}
	}
	left := table.Left(all)
	say("%d of %d moves to make", len(left), len(all))
	consoles := filepath.Join(filepath.Dir(*out), "matrix")
	runner := &matrix.Runner{Bundle: bundle, Dir: dir, Console: func(trail string) io.WriteCloser {
		f, err := os.Create(filepath.Join(consoles, "console-"+trail+".log"))
		if err != nil {
			return nil
		}
		return f
	}}
	if err := trails(ctx, runner, matrix.Trails(left), *jobs, table, build, *out, len(left)); err != nil {
		return err
	}
	if *docs != "" && len(table.Left(matrix.AllPairs())) == 0 {
		if err := table.Publish(*docs); err != nil {
			return err
		}
	}
	harmed := table.Harmed()
	for _, r := range harmed {
		fmt.Printf("FAIL %v: %s\n", r.Pair, r.Harm())
	}
	if len(harmed) > 0 {
		return fmt.Errorf("%d of %d %w", len(harmed), len(table.Results), errHarm)
	}
	say("%d moves, no harm", len(table.Results))
	return nil
}

// trails runs trails side by side.
func trails(ctx context.Context, runner *matrix.Runner, todo [][]matrix.Pair, jobs int, table *matrix.Table, build, out string, total int) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		errs  []error
		done  int
		start = time.Now()
	)
	report := func(r matrix.Result) {
		mu.Lock()
		defer mu.Unlock()
		done++
		r.Build = build
		table.Add(r)
		if err := table.Save(out); err != nil {
			errs = append(errs, err)
		}
		word := "ok"
		if why := r.Harm(); why != "" {
			word = "FAIL: " + why
		}
		say("%3d of %d, %4.0f s: %v: stall %.0f ms, %d held, %d harvested, %d missing, %d reordered, %.1f MiB bulk: %s",
			done, total, time.Since(start).Seconds(), r.Pair, r.StallMS, r.Held, r.Harvested, r.Missing, r.Reordered, float64(r.BulkBytes)/(1<<20), word)
	}
	queue := make(chan int)
	for range jobs {
		wg.Go(func() {
			for i := range queue {
				if err := runner.Run(ctx, fmt.Sprint(i), todo[i], report); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range todo {
		select {
		case queue <- i:
		case <-ctx.Done():
		}
	}
	close(queue)
	wg.Wait()
	return errors.Join(errs...)
}

func wanted(p matrix.Pair, only string) bool {
	for _, w := range strings.Fields(only) {
		if !strings.Contains(p.String(), w) {
			return false
		}
	}
	return true
}

func say(format string, args ...any) { fmt.Printf("matrix: "+format+"\n", args...) }
