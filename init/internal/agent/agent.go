// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package agent puts the shadow together: hardware, classes, signals, and the
// commands that people and the host give it. It is the one place where a
// device class is registered.
//
// It decides nothing about a recovery, which is the shadow's business, and may
// be killed at any instant: what must outlive it is with PID 1 and in the
// journals.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/xenstore"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/charshadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/netshadow"
	"github.com/umbra-vm/umbra/shadow/netshadow/hold"
	"github.com/umbra-vm/umbra/shadow/signals"
)

// stateDir is on a tmpfs: it outlives the agent, and not the boot.
const stateDir = "/run/umbra"

// sourceHost is the signal of the host that moved the guest.
const sourceHost signals.Source = "host"

// Store keeps open files beyond the agent's life; PID 1's client is one.
type Store interface {
	Put(ctx context.Context, name string, f *os.File) error
}

// Recording tells who waits for it that the settings of a role are recorded; PID 1's
// client does.
type Recording func(ctx context.Context, role string) error

// PID1 knows the programs of the guest; its client does.
type PID1 interface {
	Services(ctx context.Context) ([]ctl.Service, error)
	Lines(ctx context.Context, args ctl.LogsArgs) (ctl.Logs, error)
}

// Options of an agent.
type Options struct {
	Config    *config.Config
	Faults    []string // why it is not what was asked for
	Store     Store
	Inherited map[string]*os.File // what a predecessor left in the Store
	Recording Recording
	PID1      PID1
	Data      func() *ctl.Data // what became of it, nil if the guest is to have none
	Update    func() *ctl.Update
	Moved     func() // called when the guest is found to have moved, maybe more than once
	Version   string
	Logger    *slog.Logger
}

// Run is the agent. It returns when ctx ends, or because it cannot work.
func Run(ctx context.Context, opt Options) error {
	hw, err := drivers.New(drivers.WithLogger(opt.Logger))
	if err != nil {
		return err
	}
	reloads := make(chan shadow.Signal)
	m, err := newManager(ctx, opt, hw, reloads)
	if err != nil {
		return err
	}
	host := signals.NewManual(sourceHost)
	commands := handlers(opt, m, host, reloads)
	srv := ctl.NewServer(commands, opt.Logger)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		l, err := ctl.Listen(ctl.SocketPath)
		if err != nil {
			return err
		}
		return srv.Serve(ctx, l)
	})
	if opt.Config.Status.Enabled() {
		g.Go(func() error { return serveLook(ctx, commands, opt.Logger) })
	}
	// The port appears when its driver is loaded, which is the Manager's
	// doing, and only on hosts that have one.
	g.Go(func() error { return srv.ServePort(ctx, ctl.PortName) })
	if path, err := channel(xenstore.Open, ctl.PortName); err != nil {
		opt.Logger.Warn("no port to the host by xenstore", "err", err)
	} else if path != "" {
		g.Go(func() error { return srv.ServeTerminal(ctx, path) })
	}
	g.Go(func() error {
		return m.Run(ctx, listen(ctx, opt, m, host, reloads))
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func newManager(ctx context.Context, opt Options, hw *drivers.Tree, reloads chan<- shadow.Signal) (*shadow.Manager, error) {
	net, err := netClass(ctx, opt, hw, reloads)
	if err != nil {
		return nil, err
	}
	mo := shadow.Options{
		Hardware: hw,
		Classes:  []shadow.Class{net},
		Generic:  charshadow.New(charshadow.Sysfs{}, opt.Logger),
		Modules:  slices.Concat(netshadow.Modules(), opt.Config.Modules),
		Prefetch: opt.Config.Prefetch,
		StateDir: stateDir,
		Expedite: expedite(opt.Logger),
		Logger:   opt.Logger,
	}
	for _, r := range opt.Config.Roles {
		mo.Roles = append(mo.Roles, shadow.Role{
			Name: r.Name, Class: string(r.Class),
			Match:   shadow.Match(r.Match),
			Standby: shadow.Standby{Pair: shadow.Pairing(r.Standby.Pair), Match: shadow.Match(r.Standby.Match)},
		})
	}
	return shadow.NewManager(mo)
}

// pinDir is where eBPF programs outlive the agent; PID 1 mounts the file system.
const pinDir = "/sys/fs/bpf/umbra"

// rcuExpedited is the kernel's switch for short grace periods at the price of
// some interrupts (Documentation/RCU): right for the length of a recovery, wrong
// for a machine at work.
const rcuExpedited = "/sys/kernel/rcu_expedited"

// How much this process's heap may grow before it is collected, in percent of what is
// in use (GOGC): Go's default, and that of a recovery, which a collection holds up for
// 5 ms (ci/bench, by the guest's clock). In use are a few MiB and what was harvested; most
// of the garbage are buffers of 64 KiB for the kernel's answers.
const (
	heapGrowth     = 100
	heapGrowthBusy = 400
)

// expedite returns the function that turns what makes a recovery short on and off,
// after turning the kernel's part off: a killed predecessor may have left it on.
func expedite(log *slog.Logger) func(bool) {
	set := func(on bool) {
		v, growth := []byte("0"), heapGrowth
		if on {
			v, growth = []byte("1"), heapGrowthBusy
		}
		debug.SetGCPercent(growth)
		if err := os.WriteFile(rcuExpedited, v, 0); err != nil {
			log.Debug("grace periods keep their length", "err", err)
		}
	}
	set(false)
	return set
}

func netClass(ctx context.Context, opt Options, hw *drivers.Tree, reloads chan<- shadow.Signal) (shadow.Class, error) {
	if !opt.Config.Shadow.Enabled() {
		return netshadow.NewPlain(hw, opt.Logger), nil
	}
	limits := make(map[string]netshadow.Limits)
	for _, r := range opt.Config.Roles {
		l := netshadow.Limits{
			Hold:   hold.Limits{Bytes: int(r.Hold.Bytes), Frames: r.Hold.Frames},
			Hasten: r.Hasten.Enabled(), Shortcut: r.Shortcut.Enabled(),
		}
		if r.MAC != "" {
			mac, err := net.ParseMAC(r.MAC)
			if err != nil {
				return nil, fmt.Errorf("role %s: mac: %w", r.Name, err)
			}
			l.MAC = mac
		}
		limits[r.Name] = l
	}
	return netshadow.New(ctx, netshadow.Options{
		Hardware: hw, Store: store{opt.Store, opt.Inherited}, Roles: limits, Logger: opt.Logger,
		PinDir: pinDir, FrameDir: stateDir, Recording: tellRecording(ctx, opt),
		Reload: func(role string) {
			go func() {
				select {
				case reloads <- shadow.Signal{Cause: ctl.CauseReload, At: shadow.Now(), Role: role}:
				case <-ctx.Done():
				}
			}()
		},
	})
}

// tellRecording returns the function that tells of each role once, until it is heard:
// services wait for that.
func tellRecording(ctx context.Context, opt Options) func(role string) {
	var told sync.Map
	return func(role string) {
		if _, before := told.LoadOrStore(role, true); before {
			return
		}
		go func() {
			for {
				err := opt.Recording(ctx, role)
				if err == nil || ctx.Err() != nil {
					return
				}
				opt.Logger.Warn("services wait longer than they need", "role", role, "err", err)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		}()
	}
}

type store struct {
	Store
	inherited map[string]*os.File
}

func (s store) Inherited(name string) (*os.File, bool) {
	f, ok := s.inherited[name]
	return f, ok
}

// listen merges every source of "look at your devices" into one channel. A
// source that this machine does not have costs nothing but its speed: the
// identity check finds a migration without any of the others.
func listen(ctx context.Context, opt Options, m *shadow.Manager, host *signals.Manual, reloads <-chan shadow.Signal) <-chan shadow.Signal {
	log := opt.Logger
	watchers := []signals.Watcher{host}
	if g, err := signals.NewGenerationID(); err == nil {
		watchers = append(watchers, g)
	} else {
		log.Info("no signal by VM generation id", "why", err)
	}
	if x, err := signals.NewXenstore(log); err == nil {
		watchers = append(watchers, x)
	} else if !errors.Is(err, xenstore.ErrNoXen) {
		log.Warn("no signal by xenstore", "err", err)
	}
	if u, err := signals.NewUevents(log); err == nil {
		watchers = append(watchers, u)
	} else {
		log.Warn("no signal by uevents", "err", err)
	}
	watchers = append(watchers, signals.NewPoll(log, 0, signals.Check{
		Device: "every role",
		Moved:  func(ctx context.Context) (bool, error) { return m.Changed(ctx), nil },
	}))

	in := signals.Merge(ctx, log, watchers...)
	out := make(chan shadow.Signal)
	go func() {
		defer close(out)
		for {
			var sig shadow.Signal
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				sig = signalOf(s)
				switch {
				case sig.Cause == ctl.CauseMigration:
					log.Info("told of a migration", "by", string(s.Source))
				case sig.Stalled:
					log.Info("stood still, or had no time", "check", s.Detail)
				}
				if sig.Cause == ctl.CauseMigration || s.Source == signals.Identity || sig.Stalled {
					opt.Moved()
				}
			case sig = <-reloads:
			}
			select {
			case out <- sig:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// signalOf says what a source's signal means for the roles.
func signalOf(s signals.Migrated) shadow.Signal {
	switch s.Source {
	case sourceHost:
		return shadow.Signal{Cause: ctl.CauseMigration, At: shadow.Now(), Resumed: s.At}
	case signals.Generation, signals.XenStore:
		return shadow.Signal{Cause: ctl.CauseMigration, At: s.At}
	case signals.Stall:
		return shadow.Signal{Cause: string(s.Source), At: s.At, Stalled: true, Quiet: true}
	case signals.Uevent:
		sig := shadow.Signal{Cause: ctl.CauseHotplug, At: s.At}
		if s.Detail == "remove" {
			sig.Removed = s.Device
		}
		return sig
	}
	return shadow.Signal{Cause: "identity " + string(s.Source), At: s.At, Quiet: true}
}

func handlers(opt Options, m *shadow.Manager, host *signals.Manual, reloads chan<- shadow.Signal) map[string]ctl.Handler {
	return map[string]ctl.Handler{
		ctl.CmdStatus: ctl.Handle(func(context.Context, struct{}) (any, error) { return status(opt, m) }),
		ctl.CmdLog:    ctl.Handle(func(_ context.Context, a ctl.RoleArgs) (any, error) { return m.Log(a.Role) }),
		ctl.CmdTimeline: ctl.Handle(func(_ context.Context, a ctl.RoleArgs) (any, error) {
			return m.Timelines(a.Role)
		}),
		ctl.CmdClock:    ctl.Handle(func(context.Context, struct{}) (any, error) { return ctl.ReadClock() }),
		ctl.CmdServices: ctl.Handle(func(ctx context.Context, _ struct{}) (any, error) { return opt.PID1.Services(ctx) }),
		ctl.CmdLogs:     ctl.Handle(func(ctx context.Context, a ctl.LogsArgs) (any, error) { return opt.PID1.Lines(ctx, a) }),
		ctl.CmdMigrated: ctl.Handle(func(_ context.Context, a ctl.Migrated) (any, error) {
			host.Notify(time.Duration(a.ResumedAgo), "", "generation "+a.Generation)
			return nil, nil
		}),
		ctl.CmdReload: ctl.Handle(func(ctx context.Context, a ctl.RoleArgs) (any, error) {
			return reload(ctx, m, a.Role, reloads)
		}),
		ctl.CmdCheck: ctl.Handle(func(_ context.Context, a ctl.Check) (any, error) {
			report, err := m.Check(a)
			if errors.Is(err, shadow.ErrCheck) {
				return nil, &ctl.RemoteError{Code: ctl.CodeBadRequest, Message: err.Error()}
			}
			return report, err
		}),
		ctl.CmdUnplug: ctl.Handle(func(ctx context.Context, a ctl.Unplug) (any, error) {
			return nil, unplug(ctx, m, a, reloads)
		}),
	}
}

func status(opt Options, m *shadow.Manager) (ctl.Status, error) {
	clock, err := ctl.ReadClock()
	if err != nil {
		return ctl.Status{}, err
	}
	st := ctl.Status{
		Version: opt.Version, Shadow: string(config.On), Hostname: opt.Config.Hostname,
		Boottime: clock.Boottime, Roles: m.Roles(), Recoveries: m.Recoveries(),
		Faults: opt.Faults, Data: opt.Data(), Update: opt.Update(),
	}
	if !opt.Config.Shadow.Enabled() {
		st.Shadow = string(config.Off)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		st.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if tls, err := m.Timelines(""); err == nil && len(tls) > 0 {
		st.LastTimeline = &tls[len(tls)-1]
	}
	return st, nil
}

// reload gives a role's device a freshly loaded driver and returns the
// timeline of it.
func reload(ctx context.Context, m *shadow.Manager, role string, reloads chan<- shadow.Signal) (ctl.Timeline, error) {
	before, err := m.Timelines(role)
	if err != nil {
		return ctl.Timeline{}, err
	}
	select {
	case reloads <- shadow.Signal{Cause: ctl.CauseReload, At: shadow.Now(), Role: role}:
	case <-ctx.Done():
		return ctl.Timeline{}, ctx.Err()
	}
	var last uint64
	for _, tl := range before {
		last = max(last, tl.Recovery)
	}
	for {
		now, err := m.Timelines(role)
		if err != nil {
			return ctl.Timeline{}, err
		}
		for _, tl := range now {
			if tl.Recovery > last && tl.Cause == ctl.CauseReload {
				return tl, nil
			}
		}
		select {
		case <-ctx.Done():
			return ctl.Timeline{}, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// unplug gives up a device that the host is about to take away, or has it looked at
// again. A device that no role has is not missed by one.
func unplug(ctx context.Context, m *shadow.Manager, a ctl.Unplug, to chan<- shadow.Signal) error {
	has := func(r ctl.RoleStatus) bool { return a.Within > 0 && (r.Device == a.Device || r.Standby == a.Device) }
	sig := shadow.Signal{Cause: ctl.CauseUnplug, At: shadow.Now(), Unplug: a.Device, UnplugBy: shadow.Now() + a.Within}
	switch {
	case a.Within <= 0:
		m.Keeps(a.Device)
		sig = shadow.Signal{Cause: ctl.CauseHotplug, At: shadow.Now()}
	case a.Device == "" || !slices.ContainsFunc(m.Roles(), has):
		return nil
	}
	select {
	case to <- sig:
	case <-ctx.Done():
		return ctx.Err()
	}
	for slices.ContainsFunc(m.Roles(), has) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
