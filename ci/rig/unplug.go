// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package rig

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/hotplug"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// PrepareEmpty is Prepare for a host that has none of nics yet but for standbys: they are
// plugged in when the guest is there.
func (r *Rig) PrepareEmpty(ctx context.Context, nics ...NIC) (*vm.VM, string, error) {
	incoming := r.incoming()
	host, err := r.start(ctx, nics, incoming, true)
	return host, incoming, err
}

// backEnds returns the machine with the back ends of its direct NICs and without these.
func backEnds(m machine.Machine) machine.Machine {
	var standbys []machine.NIC
	for _, n := range m.NICs {
		if !strings.HasPrefix(n.ID, machine.Direct) {
			standbys = append(standbys, n)
			continue
		}
		m.Extra = append(m.Extra, "-netdev", n.BackEndOptions())
	}
	m.NICs = standbys
	return m
}

// Replug migrates the guest to a host that PrepareEmpty has started: its NICs are
// unplugged, and those of the host plugged in, unless opts say otherwise. It is
// MoveTo else.
func (r *Rig) Replug(ctx context.Context, host *vm.VM, incoming string, opts hotplug.Options, nics ...NIC) (*migrate.Report, error) {
	opts.Incoming, opts.Logger, opts.OnEvent = incoming, r.Logger, r.OnEvent
	var err error
	if opts.Unplug, err = r.Devices(r.Host); err != nil {
		return nil, err
	}
	if opts.Plug == nil {
		if opts.Plug, err = r.Devices(host); err != nil {
			return nil, err
		}
	}
	report, err := hotplug.Run(ctx, r.Host.QMP, host.QMP, opts)
	if report == nil {
		if said := host.Stderr(); said != "" {
			err = fmt.Errorf("%w (the destination said: %s)", err, said)
		}
		host.Close()
		return nil, err
	}
	r.Moved(host, nics...)
	if err == nil && !r.Mute {
		err = r.tell(ctx, report)
	}
	return report, err
}

// Moved notes that somebody has migrated the guest to host, and ends the old one.
func (r *Rig) Moved(host *vm.VM, nics ...NIC) {
	r.Host.Close()
	r.Host, r.NICs = host, nics
}

// Devices are the direct NICs of a host, or those to be plugged into one that is empty.
func (r *Rig) Devices(host *vm.VM) (devices []hotplug.Device, err error) {
	for _, o := range r.devices[host] {
		d, err := hotplug.Parse(o)
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// Guest tells the guest where it is of what comes.
func (r *Rig) Guest() hotplug.Guest { return told{r} }

type told struct{ rig *Rig }

func (t told) Unplug(ctx context.Context, address string, within time.Duration) error {
	return t.rig.Call(ctx, ctl.CmdUnplug, ctl.Unplug{Device: address, Within: within.Nanoseconds()}, nil)
}

func (t told) Keep(ctx context.Context, address string) error {
	return t.Unplug(ctx, address, 0)
}
