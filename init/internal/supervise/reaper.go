// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEnded says that a process is no longer there to be signalled.
var ErrEnded = errors.New("process has ended")

// A Reaper starts processes and learns how they end. It is the only caller of
// wait4 in the process: os/exec and os.Process.Wait would race with it for the
// statuses, so nothing else may start processes.
//
// One lock is held while a process is started and while statuses are
// collected. A child that ends at once is therefore known before its status is
// read, and a PID is never signalled after it was given back to the kernel.
type Reaper struct {
	mu      sync.Mutex
	procs   map[int]*Process
	adopted int
}

// A Process is one started process.
type Process struct {
	PID     int
	Started time.Time

	reaper *Reaper
	done   chan struct{}
	exit   Exit // valid once done is closed
}

// NewReaper returns a Reaper. [Reaper.Run] must run for processes to end.
func NewReaper() *Reaper { return &Reaper{procs: make(map[int]*Process)} }

// Run collects the statuses of children, own and adopted, whenever the kernel
// says that there are some. It never returns.
func (r *Reaper) Run() {
	// One slot is enough: whatever ends after the slot was filled is
	// collected by the drain that empties it.
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for {
		r.drain()
		<-child
	}
}

// drain collects every status there is.
func (r *Reaper) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || pid <= 0:
			return // ECHILD, or nobody has ended
		case !ws.Exited() && !ws.Signaled():
			continue
		}
		r.ended(pid, ws)
	}
}

// ended notes the end of a process. The lock is held.
func (r *Reaper) ended(pid int, ws unix.WaitStatus) {
	p, ours := r.procs[pid]
	if !ours {
		r.adopted++
		return
	}
	delete(r.procs, pid)
	// What the process left behind in its group dies with it. The number
	// cannot have been given to another group: the kernel keeps it while
	// the group has a member.
	_ = unix.Kill(-pid, unix.SIGKILL)
	if ws.Signaled() {
		p.exit = Exit{Signal: ws.Signal()}
	} else {
		p.exit = Exit{Code: ws.ExitStatus()}
	}
	close(p.done)
}

// Start starts path as the leader of a session and process group of its own.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Process, error) {
	a := *attr
	sys := syscall.SysProcAttr{}
	if a.Sys != nil {
		sys = *a.Sys
	}
	sys.Setsid = true
	a.Sys = &sys
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &a)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &Process{PID: pid, Started: time.Now(), reaper: r, done: make(chan struct{})}
	r.procs[pid] = p
	return p, nil
}

// Adopted returns how many processes were reaped that the Reaper had not
// started: orphans.
func (r *Reaper) Adopted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.adopted
}

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit returns how the process ended. It may be called once Done is closed.
func (p *Process) Exit() Exit { return p.exit }

// Signal sends sig to the process and everything in its group. The error
// matches [ErrEnded] when the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	if _, alive := p.reaper.procs[p.PID]; !alive {
		return ErrEnded
	}
	if err := unix.Kill(-p.PID, sig); err != nil {
		return fmt.Errorf("signal %s to %d: %w", sig, p.PID, err)
	}
	return nil
}
