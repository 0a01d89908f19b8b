// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package vm runs QEMU virtual machines as Go values.
//
// A [VM] is a started machine.Machine: its monitor is connected, its console
// is read from the first byte and kept, and its process cannot outlive the
// program that started it. The package must never know what the guest is or
// what a test wants of it; it starts, listens and ends.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate/qmp"
)

// ErrExited is matched by errors that say QEMU ended.
var ErrExited = errors.New("QEMU exited")

// ExitError says how QEMU ended.
type ExitError struct {
	Name   string // of the machine
	State  string // "exit status 1", "signal: killed"
	Stderr string // the end of what QEMU wrote to its standard error
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("vm %s: %v: %s", e.Name, ErrExited, e.State)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// Is makes errors.Is(err, ErrExited) true.
func (e *ExitError) Is(target error) bool { return target == ErrExited }

// Options says how a machine is run; the zero value is ready to use.
type Options struct {
	// Program is QEMU; machine.Program if empty.
	Program string

	// Dir is for the machine's sockets; a directory of its own, removed at the
	// end, if empty. Socket paths have 107 bytes at most, so keep it short.
	Dir string

	// Log is where the console's bytes also go, unaltered; nil for nowhere.
	Log io.Writer

	// OnLine is called for each line of the console, in order, while nothing
	// else is read from it.
	OnLine func(Line)
}

// A VM is a running, or ended, virtual machine.
type VM struct {
	Machine machine.Machine // as it was started, socket paths filled in
	QMP     *qmp.Client
	Console *Console

	cmd     *exec.Cmd
	tempDir string
	stderr  tail
	unhook  func() bool
	killed  atomic.Bool // by us, on purpose
	done    chan struct{}
	exit    error // valid once done is closed

	closeOnce sync.Once
}

// Start starts m and connects to its monitor. The machine runs until it ends
// itself, ctx ends or it is closed; Close must be called in every case. Where m
// leaves QMP, Ctl or the console open, Start fills them in; a console that m
// sends elsewhere is not seen here.
func Start(ctx context.Context, m machine.Machine, opts Options) (*VM, error) {
	v := &VM{Console: newConsole(opts.Log, opts.OnLine), done: make(chan struct{})}
	if m.Name == "" {
		m.Name = "vm"
	}
	dir := opts.Dir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "umbra-"); err != nil {
			return nil, fmt.Errorf("vm %s: %w", m.Name, err)
		}
		v.tempDir = dir
	}
	if m.QMP == "" {
		m.QMP = filepath.Join(dir, m.Name+".qmp")
	}
	if m.Ctl == "" {
		m.Ctl = filepath.Join(dir, m.Name+".ctl")
	}
	if m.Console.Kind == machine.ToNull {
		m.Console.Kind = machine.ToStdio
	}
	v.Machine = m
	if err := v.launch(ctx, opts.Program); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func (v *VM) launch(ctx context.Context, program string) error {
	name := v.Machine.Name
	args, err := v.Machine.Args()
	if err != nil {
		close(v.done)
		return fmt.Errorf("vm %s: %w", name, err)
	}
	if program == "" {
		program = machine.Program
	}
	v.cmd = exec.Command(program, args...)
	v.cmd.Stdout = v.Console
	v.cmd.Stderr = &v.stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a Ctrl-C at the terminal is for us, who end it in order
	}
	started := make(chan error)
	go v.run(started)
	if err := <-started; err != nil {
		return fmt.Errorf("vm %s: %w", name, err)
	}
	v.unhook = context.AfterFunc(ctx, v.Kill)

	dial, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-v.done:
			cancel(ErrExited)
		case <-dial.Done():
		}
	}()
	if v.QMP, err = qmp.Dial(dial, v.Machine.QMP); err != nil {
		if errors.Is(context.Cause(dial), ErrExited) || errors.Is(err, qmp.ErrGone) {
			<-v.done
			if v.exit != nil {
				return v.exit
			}
		}
		return fmt.Errorf("vm %s: %w", name, err)
	}
	return nil
}

// run starts QEMU and waits for its end on one thread: the parent-death signal
// of prctl(2) is sent when the thread that forked ends, not the process.
func (v *VM) run(started chan<- error) {
	runtime.LockOSThread()
	defer close(v.done)
	defer v.Console.end()
	if err := v.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	err := v.cmd.Wait()
	if err != nil && !v.killed.Load() {
		v.exit = &ExitError{v.Machine.Name, v.cmd.ProcessState.String(), v.stderr.String()}
	}
}

// PID returns the process id of QEMU.
func (v *VM) PID() int { return v.cmd.Process.Pid }

// Stderr returns the end of what QEMU itself had to say.
func (v *VM) Stderr() string { return v.stderr.String() }

// Done is closed when QEMU has ended and its console was read to the end.
func (v *VM) Done() <-chan struct{} { return v.done }

// Wait waits for QEMU's end: nil if it exited with status 0 or was ended by
// Kill, Quit or Close, else an *ExitError, which matches [ErrExited].
func (v *VM) Wait(ctx context.Context) error {
	select {
	case <-v.done:
		return v.exit
	case <-ctx.Done():
		return fmt.Errorf("vm %s: wait for its end: %w", v.Machine.Name, context.Cause(ctx))
	}
}

// WaitConsole returns the first line of the console, from the beginning of
// what is kept, that matches pattern; see [Console.Wait].
func (v *VM) WaitConsole(ctx context.Context, pattern string) (Line, error) {
	line, err := v.Console.Wait(ctx, pattern, 0)
	if err != nil {
		return line, fmt.Errorf("vm %s: %w", v.Machine.Name, err)
	}
	return line, nil
}

// Quit asks QEMU to end and waits until it has. The guest is not asked.
func (v *VM) Quit(ctx context.Context) error {
	v.killed.Store(true)
	err := v.QMP.Execute(ctx, "quit", nil, nil)
	if err != nil && !errors.Is(err, qmp.ErrGone) {
		return err
	}
	return v.Wait(ctx)
}

// Kill ends QEMU at once, as a host that loses power does.
func (v *VM) Kill() {
	v.killed.Store(true)
	// An error means that the process is gone: nothing else signals a child.
	_ = v.cmd.Process.Kill()
}

// Close kills the machine if it still runs, waits for its end and removes what
// Start made. It is safe to call it twice.
func (v *VM) Close() error {
	v.closeOnce.Do(func() {
		if v.unhook != nil {
			v.unhook()
		}
		if v.cmd != nil && v.cmd.Process != nil {
			v.Kill()
		}
		<-v.done
		if v.QMP != nil {
			v.QMP.Close()
		}
		if v.tempDir != "" {
			os.RemoveAll(v.tempDir)
		}
	})
	return nil
}

// tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailLen = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b) - tailLen; n > 0 {
		t.b = bytes.Clone(t.b[n:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
