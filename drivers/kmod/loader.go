// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package kmod loads and unloads kernel modules with what they depend on.
//
// It does for Go programs what libkmod does for modprobe(8): Index reads the
// files depmod(8) writes, Plan turns names into an order of steps, Loader walks
// the steps. The state of modules is never remembered but asked of the kernel
// (/sys/module), because other programs load and unload modules too.
//
// The package does not know devices: which module a device wants is its
// caller's question.
package kmod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers/internal/sysfs"
	"github.com/umbra-vm/umbra/drivers/modalias"
)

// A Loader loads modules of an Index into a Kernel. Its methods may be called
// from any number of goroutines: one module is loaded by one of them, and the
// others wait for it.
//
// No system call here can be interrupted: a context that ends stops the work
// between two calls.
type Loader struct {
	index  *Index
	kernel Kernel
	dir    string // <sysfs>/module
	log    *slog.Logger

	mu       sync.Mutex
	changing map[string]chan struct{} // closed when the call on that module is back
}

// NewLoader returns a Loader that asks for the state of modules below sysfs,
// usually /sys.
func NewLoader(index *Index, kernel Kernel, sysfs string, log *slog.Logger) *Loader {
	return &Loader{
		index:    index,
		kernel:   kernel,
		dir:      filepath.Join(sysfs, "module"),
		log:      log,
		changing: make(map[string]chan struct{}),
	}
}

// Load loads the module called name, or those name is an alias of, after what
// they need and before their "post" soft dependencies. params go to the named
// modules only, in the form "key=value key=value". A module that is loaded or
// built in is a success, unless there are params: ErrLoaded.
func (l *Loader) Load(ctx context.Context, name, params string) error {
	plan, err := l.index.Plan(name)
	if err != nil {
		return err
	}
	if len(plan.Targets) == 0 && params != "" {
		return &OpError{"load", modalias.Normalize(name), fmt.Errorf("%w: %w", ErrLoaded, ErrBuiltin)}
	}
	return errors.Join(l.run(ctx, plan, params, 1)...)
}

// Prefetch loads all modules called names with what they need, as many at a
// time as there are processors. Each module that cannot be loaded is in the
// error; the rest is loaded all the same. One that says that it has no business
// on this machine (ENODEV, as xen_pcifront says but in a PV guest) is no error.
func (l *Loader) Prefetch(ctx context.Context, names ...string) error {
	var errs []error
	known := make([]string, 0, len(names))
	for _, name := range names {
		if _, err := l.index.Plan(name); err != nil {
			errs = append(errs, err)
			continue
		}
		known = append(known, name)
	}
	plan, err := l.index.Plan(known...)
	if err != nil {
		return err
	}
	for _, err := range l.run(ctx, plan, "", runtime.GOMAXPROCS(0)) {
		if errors.Is(err, unix.ENODEV) {
			l.log.Debug("module not for this machine", "err", err)
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// run takes the steps of plan, at most limit at a time, and returns the errors of the
// targets.
func (l *Loader) run(ctx context.Context, plan Plan, params string, limit int) []error {
	target := make(map[int]bool, len(plan.Targets))
	for _, i := range plan.Targets {
		target[i] = true
	}
	type outcome struct {
		done chan struct{}
		err  error // valid once done is closed
	}
	outcomes := make([]outcome, len(plan.Steps))
	for i := range outcomes {
		outcomes[i].done = make(chan struct{})
	}
	// A step starts only after every step it waits for has, so those hold
	// tokens or are done, and the oldest of them waits for nobody.
	tokens := make(chan struct{}, limit)
	for i, step := range plan.Steps {
		tokens <- struct{}{}
		go func() {
			defer func() { close(outcomes[i].done); <-tokens }()
			for _, j := range step.After {
				<-outcomes[j].done
			}
			for _, j := range step.Needs {
				if <-outcomes[j].done; outcomes[j].err != nil {
					outcomes[i].err = &OpError{"load", step.Module.Name, fmt.Errorf("it needs %s: %w", plan.Steps[j].Module.Name, outcomes[j].err)}
					return
				}
			}
			own := ""
			if target[i] {
				own = params
			}
			outcomes[i].err = l.load(ctx, step.Module, own)
		}()
	}
	var errs []error
	for i := range outcomes {
		<-outcomes[i].done
		switch err := outcomes[i].err; {
		case err == nil:
		case target[i]:
			errs = append(errs, err)
		case errors.Is(err, unix.ENODEV):
			// As it should be for a soft dependency, crc32c_intel on a processor
			// without the instruction; of another one the target's error tells.
			l.log.Debug("module not for this machine", "module", plan.Steps[i].Module.Name, "err", err)
		default:
			l.log.Info("module not loaded", "module", plan.Steps[i].Module.Name, "err", err)
		}
	}
	return errs
}

// load makes m live.
func (l *Loader) load(ctx context.Context, m *Module, params string) error {
	release, err := l.acquire(ctx, m.Name)
	if err != nil {
		return &OpError{"load", m.Name, err}
	}
	defer release()
	err = l.settled(ctx, m.Name, func() error {
		if l.State(m.Name) == Live {
			return unix.EEXIST
		}
		f, err := os.Open(m.Path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoModule, err)
		}
		defer f.Close()
		start := time.Now()
		if err := l.kernel.InitModule(f, params); err != nil {
			return err
		}
		l.log.Debug("module loaded", "module", m.Name, "params", params, "took", time.Since(start))
		return nil
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		// The kernel answers so only when the other one's init has succeeded
		// (kernel/module/main.c, module_patient_check_exists).
		if params == "" {
			return nil
		}
		err = ErrLoaded
	case errors.Is(err, ErrNoModule):
	default:
		err = explain(err)
	}
	return &OpError{"load", m.Name, err}
}

// Unload removes the module called name from the kernel; one that is not loaded
// is a success. ErrInUse names the holders, ErrBuiltin is for good.
//
// What the module needed stays loaded, unlike after modprobe -r: those modules
// drive no hardware, the next driver often needs the same ones, and each
// removal waits for a grace period of the kernel's. Unload them by name if
// their memory matters.
func (l *Loader) Unload(ctx context.Context, name string) error {
	name = modalias.Normalize(name)
	if m, ok := l.index.Module(name); ok && m.Builtin {
		return &OpError{"unload", name, ErrBuiltin}
	}
	release, err := l.acquire(ctx, name)
	if err != nil {
		return &OpError{"unload", name, err}
	}
	defer release()
	start := time.Now()
	err = l.settled(ctx, name, func() error { return l.kernel.DeleteModule(name) })
	switch {
	case err == nil:
		l.log.Debug("module unloaded", "module", name, "took", time.Since(start))
		return nil
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("%w%s: %w", ErrInUse, l.holders(name), err)
	case errors.Is(err, unix.EBUSY) && l.State(name) == Live:
		err = fmt.Errorf("%w: it has no exit function: %w", ErrInUse, err)
	}
	return &OpError{"unload", name, err}
}

// acquire waits until no other goroutine of this Loader loads or unloads the
// module and returns the function that lets the next one in.
func (l *Loader) acquire(ctx context.Context, name string) (release func(), err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.mu.Lock()
		wait, taken := l.changing[name]
		if !taken {
			done := make(chan struct{})
			l.changing[name] = done
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.changing, name)
				l.mu.Unlock()
				close(done)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

const (
	busyTries    = 500
	busyInterval = 10 * time.Millisecond
)

// settled repeats call while it says EBUSY because another program loads or
// unloads the module, at most for about five seconds.
func (l *Loader) settled(ctx context.Context, name string, call func() error) error {
	again := true
	for try := 1; ; try++ {
		err := call()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		switch l.State(name) {
		case Live:
			return err // and always will be: it cannot be unloaded
		case Absent:
			// The other one's attempt ended in between, so a second call tells;
			// what it says comes from the module itself.
			if !again {
				return err
			}
			again = false
			continue
		}
		if try >= busyTries {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		select {
		case <-time.After(busyInterval):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// A State is where a module is in its life.
type State string

// The states the kernel shows in /sys/module/NAME/initstate.
const (
	Absent  State = ""       // not loaded, or built in
	Coming  State = "coming" // its init function runs
	Live    State = "live"
	Leaving State = "going" // its exit function runs
)

// State returns the state of a loadable module. A built-in one is Absent.
func (l *Loader) State(name string) State {
	state, err := sysfs.Read(filepath.Join(l.dir, modalias.Normalize(name)), "initstate")
	if err != nil {
		return Absent
	}
	return State(state)
}

// holders describes who holds a module, for an error text.
func (l *Loader) holders(name string) string {
	var text string
	if entries, err := os.ReadDir(filepath.Join(l.dir, name, "holders")); err == nil && len(entries) > 0 {
		names := make([]string, len(entries))
		for i, e := range entries {
			names[i] = e.Name()
		}
		text = " by " + strings.Join(names, ", ")
	}
	if count, err := sysfs.Read(filepath.Join(l.dir, name), "refcnt"); err == nil {
		text += " (reference count " + count + ")"
	}
	return text
}
