// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/inventory"
	"github.com/umbra-vm/umbra/migrate/qmp"
)

const (
	// DefaultTimeout is how long a guest may take to let go of a device. PCI
	// Express waits for five seconds by itself, for somebody to press a button
	// once more.
	DefaultTimeout = 30 * time.Second

	// commandTimeout is how long QEMU may take to plug a device in, which for
	// VFIO includes that all of the guest's memory is pinned.
	commandTimeout = 2 * time.Minute
)

// Options of a move. Everything of migrate.Options holds; Direct are devices whose
// state stays behind and which do not block a migration.
type Options struct {
	migrate.Options

	// Unplug are the source's devices that block a migration, in the order in
	// which they are unplugged.
	Unplug []Device

	// Plug are the devices that the guest is given on the destination.
	Plug []Device

	// Timeout is how long the guest may take to let go of one device;
	// DefaultTimeout if 0.
	Timeout time.Duration

	// Guest, if not nil, is told of what comes. It is not needed: a guest that is
	// not told loses what its driver has under way when it is asked for a device.
	Guest Guest

	// OnStep, if not nil, is called when a step begins and when it is over.
	OnStep func(Step)
}

// A Guest is how the guest on the source can be told. Devices are named by their PCI
// addresses in the guest, e.g. "0000:00:02.0".
type Guest interface {
	// Unplug says that the device is about to be unplugged, which will be tried
	// for so long, and returns when the guest does without it.
	Unplug(ctx context.Context, address string, within time.Duration) error

	// Keep says that the device is not unplugged after all.
	Keep(ctx context.Context, address string) error
}

// An Op is what a step does.
type Op string

// Ops.
const (
	OpTell     Op = "tell"      // the guest, of what comes
	OpUnplug   Op = "unplug"    // from the source
	OpMigrate  Op = "migrate"   // the guest, to the destination
	OpPlug     Op = "plug"      // into the destination
	OpPlugBack Op = "plug back" // into the source, in a roll-back
	OpAwait    Op = "await"     // the guest's answer to an unplug, in a roll-back
)

// A Step is one as it happens.
type Step struct {
	Op     Op
	Device string // its id, "" for OpMigrate
	Over   bool
	Err    error // if it is over
}

// Run moves the guest of src to dst, without src's devices in opts.Unplug, and with
// dst's in opts.Plug. It returns a report if the guest runs on dst, be it with an
// error because it lacks a device there. Without a report the guest is on src and
// has its devices, or the error says what it lacks. ctx ends the attempt at any
// time before the guest is moved; after that, what has not been plugged in yet
// stays so.
//
// Errors: *migrate.OpError around the sentinels of this package and of migrate,
// those of migrate.Run, and the cause of the context's end; in an *Error unless
// nothing was changed.
func Run(ctx context.Context, src, dst *qmp.Client, opts Options) (*migrate.Report, error) {
	m := &move{src: src, dst: dst, opts: opts, migrate: migrate.Run}
	return m.run(ctx)
}

// move is one attempt.
type move struct {
	src, dst *qmp.Client
	opts     Options
	migrate  func(context.Context, *qmp.Client, *qmp.Client, migrate.Options) (*migrate.Report, error)
}

func (m *move) run(ctx context.Context) (*migrate.Report, error) {
	if m.opts.Timeout == 0 {
		m.opts.Timeout = DefaultTimeout
	}
	devices, err := m.check(ctx)
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, d := range devices {
		u := &unplugging{move: m, device: d}
		defer u.close()
		steps = append(steps, step{u.do, u.undo})
	}
	var report *migrate.Report
	steps = append(steps, step{do: func(ctx context.Context) error {
		m.notify(Step{Op: OpMigrate})
		report, err = m.migrate(ctx, m.src, m.dst, m.opts.Options)
		m.notify(Step{Op: OpMigrate, Over: true, Err: err})
		return err
	}})
	if err := run(ctx, m.opts.Timeout+commandTimeout, steps); err != nil {
		return nil, m.state(ctx, err)
	}
	if err := plug(ctx, m.dst, m.opts.Plug, m.notify); err != nil {
		return report, m.state(ctx, err)
	}
	return report, nil
}

func (m *move) notify(s Step) {
	if m.opts.OnStep != nil {
		m.opts.OnStep(s)
	}
}

// state adds to an error what both sides are now.
func (m *move) state(ctx context.Context, err error) error {
	return &Error{err, stateOf(ctx, m.src, m.opts.Unplug), stateOf(ctx, m.dst, m.opts.Plug)}
}

// check asks both sides all that can be asked before anything is changed. It returns
// the source's devices as they are plugged back.
func (m *move) check(ctx context.Context) ([]Device, error) {
	if err := migrate.Check(ctx, m.src, m.dst, m.opts.Options); err != nil {
		return nil, err
	}
	there, err := peripherals(ctx, m.src)
	if err != nil {
		return nil, opError("list the source's devices", "", err)
	}
	var devices []Device
	for i, d := range m.opts.Unplug {
		if d, err = m.checkSource(ctx, there, d); err == nil && twice(m.opts.Unplug[:i], d) {
			err = fmt.Errorf("%w: it is named twice", ErrOptions)
		}
		if err != nil {
			return nil, opError("check the source's device", d.ID, err)
		}
		devices = append(devices, d)
	}
	if there, err = peripherals(ctx, m.dst); err != nil {
		return nil, opError("list the destination's devices", "", err)
	}
	for i, d := range m.opts.Plug {
		if err = d.known(ctx, m.dst); err == nil && (there[d.ID] != "" || twice(m.opts.Plug[:i], d)) {
			err = ErrInUse
		}
		if err != nil {
			return nil, opError("check the destination's device", d.ID, err)
		}
	}
	return devices, nil
}

func (m *move) checkSource(ctx context.Context, there map[string]string, d Device) (Device, error) {
	model, ok := there[d.ID]
	switch {
	case !ok:
		return d, migrate.ErrNoDevice
	case slices.Contains(m.opts.Direct, d.ID):
		return d, fmt.Errorf("%w: it cannot be unplugged and left behind", ErrOptions)
	case model != d.Driver:
		return d, fmt.Errorf("%w: its model is %q, not %q", ErrOptions, model, d.Driver)
	}
	if err := d.known(ctx, m.src); err != nil {
		return d, err
	}
	return d.placed(ctx, m.src)
}

func twice(before []Device, d Device) bool {
	return slices.ContainsFunc(before, func(o Device) bool { return o.ID == d.ID })
}

// unplugging is the step that takes one device from the source.
type unplugging struct {
	*move
	device Device

	address string // in the guest, "" if it was not told
	events  *qmp.Subscription
	pending bool      // the guest was asked and has not answered
	until   time.Time // when it should have
}

func (u *unplugging) close() {
	if u.events != nil {
		u.events.Close()
	}
}

func (u *unplugging) do(ctx context.Context) error {
	u.tell(ctx)
	u.notify(Step{Op: OpUnplug, Device: u.device.ID})
	err := u.ask(ctx)
	if err == nil {
		err = u.answer(ctx)
	}
	u.notify(Step{Op: OpUnplug, Device: u.device.ID, Over: true, Err: err})
	return opError("unplug", u.device.ID, err)
}

// tell has the guest do without the device. If it cannot be told, it finds out.
func (u *unplugging) tell(ctx context.Context) {
	if u.opts.Guest == nil || ctx.Err() != nil {
		return
	}
	address, err := inventory.Address(ctx, u.src, u.device.ID)
	if err == nil && address == "" {
		return // not PCI
	}
	u.notify(Step{Op: OpTell, Device: u.device.ID})
	if err == nil {
		u.address = address
		ctx, cancel := context.WithTimeout(ctx, u.opts.Timeout)
		err = u.opts.Guest.Unplug(ctx, address, 2*u.opts.Timeout)
		cancel()
	}
	u.notify(Step{Op: OpTell, Device: u.device.ID, Over: true, Err: err})
}

// keep has the guest use the device again.
func (u *unplugging) keep(ctx context.Context) {
	if u.address == "" {
		return
	}
	u.notify(Step{Op: OpTell, Device: u.device.ID})
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	err := u.opts.Guest.Keep(ctx, u.address)
	u.notify(Step{Op: OpTell, Device: u.device.ID, Over: true, Err: err})
}

// alreadyAsked is how QEMU refuses to ask a guest that has not answered yet, an earlier
// attempt for instance; it has no other word for it (qmp_device_del).
const alreadyAsked = "already in the process of unplug"

// ask has QEMU ask the guest. The end of the context does not cut off QEMU's word on
// whether it did.
func (u *unplugging) ask(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	u.events = u.src.Subscribe("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
	u.until = time.Now().Add(u.opts.Timeout)
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), u.until)
	defer cancel()
	err := u.src.Execute(ctx, "device_del", map[string]string{"id": u.device.ID}, nil)
	if qmp.Refused(err) && strings.Contains(err.Error(), alreadyAsked) {
		err = nil
	}
	u.pending = !qmp.Refused(err)
	return err
}

// answer waits for the guest's.
func (u *unplugging) answer(ctx context.Context) error {
	ctx, cancel := context.WithDeadlineCause(ctx, u.until, fmt.Errorf("%w, for %v", ErrUnanswered, u.opts.Timeout))
	defer cancel()
	e, err := u.events.Wait(ctx, func(e qmp.Event) bool { return e.Text("device") == u.device.ID })
	if err != nil {
		return err
	}
	u.pending = false
	if e.Event.Event != "DEVICE_DELETED" {
		return ErrGuestRefused
	}
	return nil
}

// undo gives the device back, if it is gone.
func (u *unplugging) undo(ctx context.Context) error {
	if u.pending && time.Now().Before(u.until) {
		u.notify(Step{Op: OpAwait, Device: u.device.ID})
		err := u.answer(ctx)
		u.notify(Step{Op: OpAwait, Device: u.device.ID, Over: true, Err: err})
	}
	there, err := peripherals(ctx, u.src)
	defer u.keep(ctx)
	if err == nil && there[u.device.ID] != "" {
		if u.pending {
			return opError("roll back", u.device.ID, ErrPending)
		}
		return nil
	}
	u.notify(Step{Op: OpPlugBack, Device: u.device.ID})
	if err == nil {
		err = add(ctx, u.src, u.device)
	}
	u.notify(Step{Op: OpPlugBack, Device: u.device.ID, Over: true, Err: err})
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotPluggedBack, err)
	}
	return opError("roll back", u.device.ID, err)
}

func add(ctx context.Context, c *qmp.Client, d Device) error {
	return c.Execute(ctx, "device_add", d.arguments(), nil)
}

// Plug gives the guest of c devices, as Run does after a move. Those that it has by
// their ids are left as they are, so that what has failed once can be repeated. A
// device that cannot be plugged in does not keep the others from it: the error then
// matches ErrNotPlugged. All others are refusals, before anything was changed.
func Plug(ctx context.Context, c *qmp.Client, devices []Device, onStep func(Step)) error {
	status, err := c.Status(ctx)
	if err != nil {
		return opError("check the machine", "", err)
	}
	if status != "running" && status != "paused" {
		return opError("check the machine", "", fmt.Errorf("%w: its state is %q", ErrNotReady, status))
	}
	there, err := peripherals(ctx, c)
	if err != nil {
		return opError("list devices", "", err)
	}
	var missing []Device
	for i, d := range devices {
		err := d.known(ctx, c)
		if err == nil && (there[d.ID] != "" && there[d.ID] != d.Driver || twice(devices[:i], d)) {
			err = ErrInUse
		}
		if err != nil {
			return opError("check device", d.ID, err)
		}
		if there[d.ID] == "" {
			missing = append(missing, d)
		}
	}
	return plug(ctx, c, missing, func(s Step) {
		if onStep != nil {
			onStep(s)
		}
	})
}

// plug tries all devices. A command that QEMU was given is waited for even if the
// context ends.
func plug(ctx context.Context, c *qmp.Client, devices []Device, notify func(Step)) error {
	var errs []error
	for _, d := range devices {
		notify(Step{Op: OpPlug, Device: d.ID})
		err := context.Cause(ctx)
		if err == nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
			err = add(ctx, c, d)
			cancel()
		}
		notify(Step{Op: OpPlug, Device: d.ID, Over: true, Err: err})
		if err != nil {
			errs = append(errs, opError("plug", d.ID, fmt.Errorf("%w: %w", ErrNotPlugged, err)))
		}
	}
	return errors.Join(errs...)
}
