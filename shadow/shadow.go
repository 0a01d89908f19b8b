// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package shadow keeps roles alive while the hardware below them changes.
//
// A Manager puts a shadow around every driver load: in passive mode the
// shadow only listens and keeps the log of its device; when the device is no
// longer there (the guest was migrated, the device was pulled, its driver
// failed) the Manager takes the role through one recovery: active mode, the
// old driver out, the driver of the hardware that is there now in, the log
// replayed, what was held released, passive mode again.
//
// The package knows roles, devices and the order of a recovery. It must never
// know what a class does in a step (that is a Class's business), where a
// signal came from, or who supervises the process it runs in.
package shadow

import (
	"context"
	"errors"
	"fmt"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
)

// Errors a recovery ends with, for errors.Is.
var (
	// ErrVacant says that no device takes the role. The role stays in
	// active mode and the next signal tries again.
	ErrVacant = errors.New("no device for the role")
	// ErrSuperseded says that another migration began while this recovery
	// ran; the next recovery goes on from where it stopped.
	ErrSuperseded = errors.New("superseded by a newer signal")
	// ErrKept says that the driver of a device that is gone cannot be made
	// to let go of it as things are. The role stays in active mode, and every
	// signal tries again.
	ErrKept = errors.New("the old device cannot be given up")
)

// RoleError is a failure in one step of one role's recovery.
type RoleError struct {
	Role   string // e.g. "net0"
	Step   string // e.g. "open"
	Device string // bus address, empty where none was involved
	Err    error
}

func (e *RoleError) Error() string {
	if e.Device == "" {
		return fmt.Sprintf("role %s: %s: %v", e.Role, e.Step, e.Err)
	}
	return fmt.Sprintf("role %s: %s %s: %v", e.Role, e.Step, e.Device, e.Err)
}

func (e *RoleError) Unwrap() error { return e.Err }

// A Role is a logical device that outlives hardware.
type Role struct {
	Name  string // e.g. "net0"; also the name of its proxy
	Class string // the name of the Class that shadows it
	Match Match
	// Standby says which device stands by for that of the role.
	Standby Standby
}

// A Class makes the shadows of one device class. Adding a class to umbra is
// one implementation and one line where the agent is put together.
type Class interface {
	// Name is the class's name in roles and in the log's keys, e.g. "net".
	Name() string
	// Owns reports whether dev belongs to the class.
	Owns(dev drivers.Device) bool
	// Identify says what the match rules may ask of a device whose driver
	// is bound, e.g. the MAC of its interface.
	Identify(dev drivers.Device) Identity
	// New returns the shadow of a role, without touching any hardware. The
	// journal keeps what a successor of this process must know; it is
	// shared with the Manager, which records devices and timelines in it.
	New(role Role, j *journal.Journal) (Shadow, error)
}

// Preparer is a [Class] that readies itself for a recovery after its roles have booted:
// boot does not wait for that, but whoever is told that the guest is ready to move must.
type Preparer interface {
	Class
	// Prepare returns once everything is in force that a recovery counts on, or ctx
	// ends. What is not to be had is logged.
	Prepare(ctx context.Context)
}

// Alerter is a [Class] that can do something for its roles before anybody knows whose
// device is gone.
type Alerter interface {
	Class
	// Alert says that devices may be gone, as after a migration. It must not wait, and
	// do no harm if none is.
	Alert()
}

// A Shadow stands between one role's proxy and the driver that serves it. The
// Manager calls its steps one at a time, always in an order described there;
// each must be safe to repeat after a crash of the process in its middle.
type Shadow interface {
	// Activate enters active mode: from its return on, what applications
	// send is held. After an error that matches ErrKept the Manager leaves the
	// device and its driver alone.
	Activate(ctx context.Context, old Old, rec *Recovery) error
	// Detach takes the old device out of the proxy and harvests what its
	// driver had not sent.
	Detach(ctx context.Context, old Old, rec *Recovery) error
	// Open brings dev, whose driver is bound, below the proxy, with the
	// part of the log replayed that must come first.
	Open(ctx context.Context, dev drivers.Device, rec *Recovery) error
	// Complete waits until dev can carry data, replays the rest, releases
	// what was held, in order, and returns in passive mode.
	Complete(ctx context.Context, dev drivers.Device, rec *Recovery) error
	// Intact reports whether the proxy is in passive mode on dev already,
	// as a restarted agent may find it.
	Intact(ctx context.Context, dev drivers.Device) (bool, error)
	// Status fills in what only the class knows of the role.
	Status(st *ctl.RoleStatus)
	// Log returns the role's log for people and tools.
	Log() []ctl.LogEntry
}

// A Stander is a Shadow that can have a standby: a second device, which the hypervisor
// moves by itself, and over which data flow while the role has no device. To let it carry,
// the Manager takes the role through Open and Complete with it, as with any device.
// Its methods are called as a Shadow's are.
type Stander interface {
	Shadow
	// StandBy brings dev, whose driver is bound, below the proxy beside the role's
	// device, or notes that the role's device stands by from now on. It leaves
	// alone what is sent.
	StandBy(ctx context.Context, dev drivers.Device) error
	// Ready reports whether the standby could carry data now.
	Ready(ctx context.Context) bool
	// Dismiss takes a standby that does not carry out of the proxy. After an error
	// that matches ErrKept the Manager leaves the device and its driver alone.
	Dismiss(ctx context.Context, old Old) error
}

// Old is the device that a role had, and what its address holds now: Alive
// (the driver is being reloaded), Replaced, Reset, or Absent.
type Old struct {
	drivers.Device
	Verdict drivers.Verdict
	// Remove makes the kernel give the device up. The Manager does that
	// after Detach in any case, for what is gone only once the role is in
	// passive mode again; a shadow that cannot wait calls it itself.
	Remove func(ctx context.Context) error
	// LetGo takes the device's children away from their drivers: the virtio
	// device, not the function that offers it. It is faster than Remove.
	LetGo func(ctx context.Context) error
}

// Hardware is what a Manager needs of the hardware side; *drivers.Tree is the
// real one.
type Hardware interface {
	Scan(ctx context.Context) ([]drivers.Device, error)
	Load(ctx context.Context, dev drivers.Device) (drivers.Device, error)
	LoadModule(ctx context.Context, name, params string) error
	Unload(ctx context.Context, module string) error
	Prefetch(ctx context.Context, modules ...string) error
	Candidates(dev drivers.Device) ([]string, error)
	Remove(ctx context.Context, dev drivers.Device) error
	Unbind(ctx context.Context, dev drivers.Device) error
	Rescan(ctx context.Context) error
	PowerOn(ctx context.Context) (ports []string, err error)
	WaitPower(ctx context.Context) (lit bool, err error)
	SettlePower(ctx context.Context) error
	Verify(ctx context.Context, dev drivers.Device) (drivers.Verdict, error)
}
