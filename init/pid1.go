// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/cgroup"
	"github.com/umbra-vm/umbra/init/internal/console"
	"github.com/umbra-vm/umbra/init/internal/control"
	"github.com/umbra-vm/umbra/init/internal/fdstore"
	"github.com/umbra-vm/umbra/init/internal/kmsg"
	"github.com/umbra-vm/umbra/init/internal/logs"
	"github.com/umbra-vm/umbra/init/internal/power"
	"github.com/umbra-vm/umbra/init/internal/supervise"
	"github.com/umbra-vm/umbra/init/internal/xenctl"
	"github.com/umbra-vm/umbra/init/notify"
	"golang.org/x/sys/unix"
)

// initLog is the name of init's own lines, of which logBytes are remembered.
const (
	initLog  = "init"
	logBytes = 256 << 10
)

// pid1 is the state of process 1. If it ends the kernel panics, so each of its
// goroutines is guarded and none of its errors is fatal.
type pid1 struct {
	log        *slog.Logger
	level      slog.LevelVar
	kmsg       atomic.Pointer[kmsg.Writer]
	console    *console.Console
	book       logs.Book
	following  atomic.Int32 // clients that may wait for a line
	reaper     *supervise.Reaper
	supervisor *supervise.Supervisor
	fds        fdstore.Store
	requests   chan power.Request
	faults     []string // of the configuration; set before anybody can ask
}

// beInit is process 1. It never returns.
func beInit() {
	p := &pid1{
		reaper:   supervise.NewReaper(),
		requests: make(chan power.Request, 8),
	}
	p.book.Limit(initLog, logBytes)
	p.console = console.New(os.Stdout)
	p.log = slog.New(kmsg.NewHandler(&p.level, p.toConsole, p.toKernel))
	p.supervisor = supervise.New(supervise.Config{
		Reaper: p.reaper,
		Output: p.output,
		Files:  &p.fds,
		Groups: cgroup.NewTree(cgroup.Root, "services"),
		Env:    []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/bbin", "HOME=/", "TERM=linux"},
		Logger: p.log,
	})
	p.guarded("boot", p.up)
	for {
		req := <-p.requests
		p.guarded("shutdown", func(context.Context) {
			p.log.Info(string(req.Action)+" asked for", "by", req.Source)
			p.supervisor.Stop()
		})
		p.guarded("end", func(context.Context) {
			err := power.End(p.log, req.Action, func() { p.console.Flush(time.Second) })
			p.log.Error("the machine does not go", "err", err)
		})
	}
}

// up brings the machine up. Nothing that fails keeps the rest from being tried.
func (p *pid1) up(context.Context) {
	p.background("console", func(context.Context) { p.console.Run() })
	p.log.Info("umbra " + version + " on " + boot.Describe())
	if err := p.earlyDevices(); err != nil {
		p.log.Error("early devices", "err", err)
	}
	p.background("random numbers", func(context.Context) {
		if err := boot.SeedRandom(); err != nil {
			p.log.Warn("programs may wait long", "err", err)
			return
		}
		p.log.Debug("random numbers are ready")
	})
	p.watchSignals()
	p.background("reaper", func(context.Context) { p.reaper.Run() })

	self := os.Args[0] // what the kernel executed; /proc is not there to tell
	if !filepath.IsAbs(self) {
		self = "/init"
	}
	table := boot.Table(self)
	if failed := boot.Create(p.log, table); failed > 0 {
		p.log.Warn("file systems and devices are incomplete", "failed", failed, "of", len(table))
	} else {
		p.log.Info("file systems and devices are ready")
	}
	cfg := p.configure(self)
	p.listen()
	p.background("power button", p.watchButton)
	p.background("Xen", p.watchXen)
	for _, s := range cfg.Services {
		p.book.Limit(s.Name, s.LogBytes)
	}
	for _, spec := range specs(cfg) {
		p.supervisor.Add(spec)
	}
}

// earlyDevices opens the console, if the kernel did not, and the kernel's log.
func (p *pid1) earlyDevices() error {
	err := boot.Devices.Create()
	err = errors.Join(err, boot.Console())
	k, kerr := kmsg.Open("umbra")
	if kerr == nil {
		p.kmsg.Store(k)
	}
	return errors.Join(err, kerr)
}

// toConsole is where people look: they see when and what.
func (p *pid1) toConsole(_ slog.Level, line string) {
	p.book.Add(initLog, line)
	p.console.Print(stamped(line))
}

// toKernel is where machines look, from the moment the device is there.
func (p *pid1) toKernel(level slog.Level, line string) {
	if k := p.kmsg.Load(); k != nil {
		k.Print(level, line)
	}
}

// stamped puts the time since the kernel's start in front of a line.
func stamped(line string) string {
	return fmt.Sprintf("umbra: %.2fs %s", boot.Uptime().Seconds(), line)
}

// output gives a program a pipe whose lines go into the book and to the console. Lines
// of our own daemons look like ours.
func (p *pid1) output(name string) (*os.File, <-chan struct{}, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	show := func(line string) {
		p.book.Add(name, line)
		if isDaemon(name) {
			line = stamped(line)
		} else {
			line = name + ": " + line
		}
		p.console.PrintWait(line)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		defer r.Close()
		p.guarded("output of "+name, func(context.Context) { console.Lines(r, show) })
	}()
	return w, drained, nil
}

// listen opens the control socket.
func (p *pid1) listen() {
	server, err := control.Listen(notify.Path, p, p.log)
	if err != nil {
		p.log.Error("nobody can speak with init", "err", err)
		return
	}
	p.background("control socket", func(context.Context) {
		if err := server.Serve(); err != nil {
			p.log.Error("control socket", "err", err)
		}
	})
}

// Handle implements control.Handler.
func (p *pid1) Handle(req notify.Request, fd int) notify.Reply {
	var err error
	switch req.Op {
	case notify.FDStore:
		err = p.fds.Put(req.Name, fd)
	case notify.FDRemove:
		err = p.fds.Remove(req.Name)
	case notify.Ready, notify.Unready:
		if up := req.Op == notify.Ready; p.supervisor.SetRole(req.Name, up) {
			p.log.Debug("network", "role", req.Name, "up", up)
		}
	case notify.Recorded:
		p.supervisor.SetRole(req.Name+recorded, true)
	case notify.PowerOff:
		p.ask(power.Request{Action: power.PowerOff, Source: "control socket"})
	case notify.Reboot:
		p.ask(power.Request{Action: power.Reboot, Source: "control socket"})
	case notify.Halt:
		p.ask(power.Request{Action: power.Halt, Source: "control socket"})
	case notify.Report:
		return notify.Reply{OK: true, Status: p.report()}
	case notify.Logs:
		return p.lines(req)
	}
	if err != nil {
		return notify.Reply{Error: err.Error()}
	}
	return notify.Reply{OK: true}
}

// ask passes a request on. Those that come after the first are of no interest.
func (p *pid1) ask(req power.Request) {
	select {
	case p.requests <- req:
	default:
	}
}

// watchSignals passes on what signals ask for.
func (p *pid1) watchSignals() {
	c := make(chan os.Signal, 8)
	signal.Notify(c, power.Signals()...)
	p.background("signals", func(context.Context) {
		for sig := range c {
			s, ok := sig.(syscall.Signal)
			if !ok {
				continue
			}
			if action, asks := power.FromSignal(s); asks {
				p.ask(power.Request{Action: action, Source: "signal " + unix.SignalName(s)})
			}
		}
	})
}

// watchButton passes on what the power button asks for.
func (p *pid1) watchButton(ctx context.Context) {
	p.keepWatching("power button", power.ErrNoACPI, func() error { return power.WatchACPI(ctx, p.ask) })
}

// watchXen passes on what the Xen toolstack asks for.
func (p *pid1) watchXen(ctx context.Context) {
	p.keepWatching("xenstore", xenctl.ErrNoXen, func() error { return xenctl.Watch(ctx, p.ask) })
}

// keepWatching watches again after a failure, unless it is that there is
// nothing to watch.
func (p *pid1) keepWatching(what string, absent error, watch func() error) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := watch()
		if errors.Is(err, absent) {
			p.log.Debug("no "+what, "err", err)
			return
		}
		p.log.Warn("does not hear the "+what, "again_in", wait, "err", err)
		time.Sleep(wait)
	}
}

// background runs f on a goroutine of its own, again if it panics.
func (p *pid1) background(name string, f func(context.Context)) {
	go func() {
		for !p.guarded(name, f) {
			time.Sleep(time.Second)
		}
	}()
}

// guarded runs f and reports whether it returned; if it panics, that is logged.
func (p *pid1) guarded(name string, f func(context.Context)) (returned bool) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error(fmt.Sprintf("%s: panic: %v\n%s", name, r, debug.Stack()))
		}
	}()
	f(context.Background())
	return true
}
