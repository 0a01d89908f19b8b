// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/umbra-vm/umbra/init/internal/cgroup"
	"golang.org/x/sys/unix"
)

// State is where a program is in its life.
type State string

// The states of a program.
const (
	Waiting State = "waiting" // for its needs
	Running State = "running"
	Backing State = "backing off" // ended, to be started again
	Ended   State = "ended"       // and will not be started again
	Stopped State = "stopped"     // by Supervisor.Stop
)

// drainLimit bounds the wait for a program's last words before its end is
// told; a grandchild may hold the pipe open for ever.
const drainLimit = 200 * time.Millisecond

// killLimit bounds the wait for a process to end after SIGKILL. One that is
// stuck in the kernel does not end, and must not keep the machine from going
// off.
const killLimit = 3 * time.Second

// service is one program and the goroutine that looks after it.
type service struct {
	spec Spec
	sup  *Supervisor
	log  *slog.Logger

	stop     chan struct{} // closed to ask for the stop
	stopOnce sync.Once
	done     chan struct{} // closed when the program was stopped

	// Of the goroutine alone.
	proc     *Process
	drained  <-chan struct{}
	resume   time.Time // end of the back-off
	group    *cgroup.Group
	oomKills int // in the group, before the present start

	mu     sync.Mutex // guards status
	status Status
}

// run looks after the program until it was stopped. A panic in a step is
// logged and the step repeated: the state is in the struct, not on the stack.
func (s *service) run() {
	defer close(s.done)
	for s.guardedStep() {
	}
}

func (s *service) guardedStep() (more bool) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("init made a mistake and goes on", "panic", r, "stack", string(debug.Stack()))
			time.Sleep(time.Second)
			more = true
		}
	}()
	return s.step()
}

// step waits for what can happen in the present state and acts on it. It
// reports whether there is a next step.
func (s *service) step() bool {
	switch s.state() {
	case Waiting:
		return s.stepWaiting()
	case Running:
		return s.stepRunning()
	case Backing:
		timer := time.NewTimer(time.Until(s.resume))
		defer timer.Stop()
		select {
		case <-timer.C:
			s.set(func(st *Status) { st.State = Waiting })
			return true
		case <-s.stop:
		}
	case Ended:
		<-s.stop
	}
	s.set(func(st *Status) { st.State = Stopped })
	return false
}

func (s *service) stepWaiting() bool {
	told := false
	for {
		missing, changed := s.sup.missing(s.spec.Needs)
		if len(missing) == 0 {
			break
		}
		if !told {
			told = true
			s.log.Info("waits for " + strings.Join(missing, " and "))
		}
		select {
		case <-changed:
		case <-s.stop:
			s.set(func(st *Status) { st.State = Stopped })
			return false
		}
	}
	select {
	case <-s.stop:
		s.set(func(st *Status) { st.State = Stopped })
		return false
	default:
	}
	if err := s.start(); err != nil {
		// A program that cannot be started is one that ended at once.
		s.log.Error("did not start", "err", err)
		s.after(Exit{Code: 127}, 0)
		return true
	}
	s.set(func(st *Status) {
		st.State, st.PID, st.Since = Running, s.proc.PID, s.proc.Started
		st.Starts++
	})
	s.log.Info("started", "pid", s.proc.PID)
	if !s.spec.Oneshot {
		s.provide()
	}
	return true
}

func (s *service) stepRunning() bool {
	select {
	case <-s.proc.Done():
	case <-s.stop:
		exit, ended := s.terminate()
		s.killGroup()
		if ended {
			s.log.Info("stopped", "exit", exit)
		} else {
			s.log.Error("does not die, left behind", "pid", s.proc.PID)
		}
		s.set(func(st *Status) { st.State, st.PID = Stopped, 0 })
		return false
	}
	uptime := time.Since(s.proc.Started)
	s.killGroup()
	awaitClosed(s.drained, drainLimit)
	exit := s.proc.Exit()
	exit.OutOfMemory = s.countOOMKills()
	s.after(exit, uptime)
	if s.spec.Oneshot && (exit.OK() || exit.Asks()) {
		s.provide()
	}
	return true
}

// provide lets those start that need the program.
func (s *service) provide() {
	if s.spec.Provides != "" {
		s.sup.SetRole(s.spec.Provides, true)
	}
}

// after decides what follows an end.
func (s *service) after(exit Exit, uptime time.Duration) {
	var series int
	s.set(func(st *Status) { series = st.Series })
	d := Decide(s.spec.Restart, s.spec.Backoff, exit, uptime, series)
	level := slog.LevelWarn
	if exit.OK() || exit.Asks() {
		level = slog.LevelInfo
	}
	if d.Restart {
		s.resume = time.Now().Add(d.After)
		s.log.Log(context.Background(), level, "ended, starts again", "exit", exit, "ran", uptime, "in", d.After)
	} else {
		s.log.Log(context.Background(), level, "ended: "+d.Reason, "exit", exit, "ran", uptime)
	}
	s.set(func(st *Status) {
		st.State, st.PID, st.Since = Ended, 0, time.Now()
		if d.Restart {
			st.State = Backing
		}
		st.Series, st.LastExit = d.Series, exit.String()
	})
}

// terminate asks the program to end and insists if it does not.
func (s *service) terminate() (exit Exit, ended bool) {
	for _, try := range []struct {
		sig   syscall.Signal
		limit time.Duration
	}{{unix.SIGTERM, s.spec.StopTimeout}, {unix.SIGKILL, killLimit}} {
		if err := s.proc.Signal(try.sig); err != nil && !errors.Is(err, ErrEnded) {
			s.log.Warn("cannot be signalled", "err", err)
		}
		if awaitClosed(s.proc.Done(), try.limit) {
			return s.proc.Exit(), true
		}
		if try.sig == unix.SIGTERM {
			s.log.Warn("did not end in time, is killed", "limit", try.limit)
		}
	}
	return Exit{}, false
}

// killGroup kills what the program left behind.
func (s *service) killGroup() {
	if s.group == nil {
		return
	}
	if err := s.group.Kill(); err != nil {
		s.log.Warn("what it left behind goes on", "err", err)
	}
}

// countOOMKills reports whether the kernel killed any of the group since it last counted.
func (s *service) countOOMKills() (more bool) {
	if s.group == nil {
		return false
	}
	n, err := s.group.OOMKills()
	if err != nil {
		s.log.Warn("it is not known why it ended", "err", err)
		return false
	}
	more = n > s.oomKills
	s.oomKills = n
	return more
}

// joinGroup makes the program a child of its control group, which the caller closes.
func (s *service) joinGroup(sys *syscall.SysProcAttr) (close func() error, err error) {
	limits := s.spec.Limits
	if limits == nil || s.sup.groups == nil {
		return func() error { return nil }, nil
	}
	s.group, err = s.sup.groups.Make(s.spec.Name, *limits)
	if err != nil && *limits == (cgroup.Limits{}) {
		s.log.Warn("what it leaves behind may go on", "err", err)
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := s.group.Open()
	if err != nil {
		return nil, err
	}
	sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
	return dir.Close, nil
}

// start starts the program once.
func (s *service) start() error {
	out, drained, err := s.sup.output(s.spec.Name)
	if err != nil {
		return err
	}
	defer out.Close()
	stdin, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer stdin.Close()
	attr := &syscall.ProcAttr{
		Dir:   s.spec.Dir,
		Files: []uintptr{stdin.Fd(), out.Fd(), out.Fd()},
		Sys:   new(syscall.SysProcAttr),
	}
	leave, err := s.joinGroup(attr.Sys)
	if err != nil {
		return err
	}
	defer leave()
	if s.spec.Terminal != "" {
		tty, err := os.OpenFile(s.spec.Terminal, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		defer tty.Close()
		attr.Files = []uintptr{tty.Fd(), tty.Fd(), tty.Fd()}
		attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	}
	launch := func(fds []int, env []string) error {
		for _, fd := range fds {
			attr.Files = append(attr.Files, uintptr(fd))
		}
		attr.Env = environment(s.sup.env, s.spec.Env, env)
		s.proc, err = s.sup.reaper.Start(s.spec.Path, s.spec.Argv, attr)
		return err
	}
	if s.spec.KeepsFDs && s.sup.files != nil {
		err = s.sup.files.Lend(launch)
	} else {
		err = launch(nil, nil)
	}
	if err != nil {
		return err
	}
	s.drained = drained
	if adj := s.spec.OOMScoreAdj; adj != 0 {
		name := "/proc/" + strconv.Itoa(s.proc.PID) + "/oom_score_adj"
		if err := os.WriteFile(name, []byte(strconv.Itoa(adj)), 0o644); err != nil {
			s.log.Debug("may be killed when memory is short", "err", err)
		}
	}
	return nil
}

// environment joins lists of NAME=value. Of one name the last counts, and it alone is
// given: which of two a program sees is its own choice.
func environment(lists ...[]string) (env []string) {
	at := make(map[string]int)
	for _, kv := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(kv, "=")
		if i, known := at[name]; known {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

func (s *service) askStop() { s.stopOnce.Do(func() { close(s.stop) }) }

func (s *service) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.State
}

func (s *service) set(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}

// awaitClosed waits until c is closed, at most for limit.
func awaitClosed(c <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}
