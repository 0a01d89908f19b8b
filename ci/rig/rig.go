// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package rig is one guest that moves between hosts on a test network: it
// starts QEMUs, migrates the guest from one to the next and asks the agent in
// it what happened. The demonstration, the VM tests and the benchmarks are
// built on it.
//
// It must not judge: what a move has to look like is its users' business.
package rig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/ci/testbed/vm"
	"github.com/umbra-vm/umbra/ci/testbed/vswitch"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Role is the role whose NIC changes, and the first where several do.
const Role = "net0"

// GuestMAC is the address of the guest's first NIC. The NICs of later hosts
// have other addresses, as real ones would.
const GuestMAC = "52:54:00:75:6d:00"

// roleMAC is GuestMAC.
var roleMAC = vswitch.MAC{0x52, 0x54, 0x00, 0x75, 0x6d, 0x00}

// A NIC is a direct-access device of one host, or a standby.
type NIC struct {
	Model string // QEMU's device name, e.g. "e1000"; empty for no NIC at all
	Slot  string // PCI slot, e.g. "2"
	MAC   string // GuestMAC if empty, of one that is no standby with another last byte
	// Standby says that QEMU itself moves the NIC to a host that has it too.
	Standby bool
	// Bed is the network that it is on, the Rig's if nil.
	Bed *testbed.Bed
}

// slots are those that a NIC can be in, unless Options say otherwise.
var slots = []string{"2", "3", "4", "5", "6"}

// rootPort is the id of the root port that a slot is.
func rootPort(slot string) string { return "port" + slot }

// Place returns where a NIC in a slot is plugged into: a bus of QEMU, empty for the
// root bus, and the address there.
func (o Options) Place(slot string) (bus, address string) {
	if o.RootPorts {
		return rootPort(slot), "0"
	}
	return "", slot
}

func (n NIC) String() string {
	if n.Model == "" {
		return "no NIC"
	}
	return fmt.Sprintf("%s in slot %s", n.Model, n.Slot)
}

// SlotsIn returns the slots that NICs can be in, in the order of the bus.
func (o Options) SlotsIn() []string {
	if o.Slots != nil {
		return o.Slots
	}
	return slots
}

// Options of a Rig. Bed, Bundle and Dir are required.
type Options struct {
	Bed    *testbed.Bed
	Bundle *image.Bundle
	Dir    string       // for sockets: keep it short
	Name   string       // of the hosts, in which a letter follows; "host" if empty
	Type   machine.Type // PC by default
	// Slots are those that a NIC can be in, in the order of the bus; 2 to 6 if nil.
	Slots []string
	// Kernel is the path of the kernel to start, the image's if empty.
	Kernel string
	// Cmdline is added to the image's kernel command line.
	Cmdline string
	// NoGeneration leaves the VM generation id device out.
	NoGeneration bool
	// Mute keeps the host from telling the guest that it moved.
	Mute bool
	// Console, if not nil, gives the writer that a host's console goes to.
	Console func(host string) io.Writer
	// OnLine, if not nil, is called for every line of a console.
	OnLine func(host string, l vm.Line)
	// OnEvent, if not nil, is called for every step of a migration.
	OnEvent func(migrate.Event)
	ICount  *int
	// Linkless has the network drop what is for a NIC that the guest has come to until
	// a driver sends on it. QEMU would keep it for the driver.
	Linkless bool
	// RootPorts makes every slot a PCI Express root port of its own, on Q35.
	RootPorts bool
	// NativeHotPlug leaves hot-plug of root ports to the guest's driver for them;
	// otherwise ACPI is in charge of it, as is QEMU's custom.
	NativeHotPlug bool
	// Dump, if not empty, is a file to which QEMU captures what the present
	// host's NIC sends, by the guest's clock; each host begins it anew.
	Dump string
	// Extra are further arguments of QEMU's.
	Extra  []string
	Logger *slog.Logger
}

// A Rig is a guest and the host that it is on.
type Rig struct {
	Options
	Host *vm.VM // where the guest is
	NICs []NIC  // what it has there

	hosts int
	// devices are how the direct NICs of each host are made, as QEMU's -device has it.
	devices map[*vm.VM][]string
}

// Start boots the guest on its first host.
func Start(ctx context.Context, opts Options, nics ...NIC) (*Rig, error) {
	r := &Rig{Options: opts, devices: make(map[*vm.VM][]string)}
	host, err := r.start(ctx, nics, "", false)
	if err != nil {
		return nil, err
	}
	r.Host, r.NICs = host, nics
	return r, nil
}

// Close ends the host that the guest is on.
func (r *Rig) Close() error { return r.Host.Close() }

// Prepare starts the next host, which waits for the guest, and returns it and
// the address that it waits at.
func (r *Rig) Prepare(ctx context.Context, nics ...NIC) (*vm.VM, string, error) {
	incoming := r.incoming()
	host, err := r.start(ctx, nics, incoming, false)
	return host, incoming, err
}

// incoming is where the next host waits for the guest.
func (r *Rig) incoming() string {
	return "unix:" + filepath.Join(r.Dir, fmt.Sprintf("in%d", r.hosts))
}

// id is the id of the n-th NIC of a host.
func (n NIC) id(i int) string {
	if n.Standby {
		return fmt.Sprintf("standby%d", i)
	}
	return fmt.Sprintf("%snet%d", machine.Direct, i)
}

// stays reports whether the n-th NIC of a host is left behind in a move to one with nics.
func (n NIC) stays(i int, nics []NIC) bool {
	return n.Model != "" && !(n.Standby && i < len(nics) && nics[i] == n)
}

// start starts a host with nics, or only with what they are to be plugged into.
func (r *Rig) start(ctx context.Context, nics []NIC, incoming string, empty bool) (*vm.VM, error) {
	name := cmp.Or(r.Name, "host") + "-" + string(rune('A'+r.hosts%26))
	host := r.hosts
	r.hosts++
	m := machine.Machine{
		Name:     name,
		Kernel:   cmp.Or(r.Kernel, filepath.Join(r.Bundle.Dir, image.KernelFile)),
		Initrd:   filepath.Join(r.Bundle.Dir, r.Bundle.Initramfs),
		Cmdline:  r.Bundle.Cmdline + " " + r.Cmdline,
		MemoryMB: r.Bundle.Machine.MemoryMB,
		Type:     r.Type,
		Incoming: incoming,
		ICount:   r.ICount,
	}
	if !r.NoGeneration {
		m.GenerationID = fmt.Sprintf("756d6272-6100-4000-8000-%012x", host)
	}
	for i, nic := range nics {
		if nic.Model == "" {
			continue
		}
		bed := nic.Bed
		if bed == nil {
			bed = r.Bed
		}
		port := fmt.Sprintf("%s-%d", name, host)
		if i > 0 {
			port += fmt.Sprintf("-%d", i)
		}
		netdev, cable, err := bed.Plug(port)
		if err != nil {
			return nil, err
		}
		if r.Linkless && incoming != "" {
			cable.Await(roleMAC)
		}
		switch {
		case nic.MAC != "":
		case nic.Standby:
			nic.MAC = GuestMAC
		default:
			nic.MAC = fmt.Sprintf("%s%02x", GuestMAC[:len(GuestMAC)-2], host)
		}
		n := machine.NIC{ID: nic.id(i), Model: nic.Model, MAC: nic.MAC, Netdev: netdev}
		n.Bus, n.Address = r.Place(nic.Slot)
		m.NICs = append(m.NICs, n)
	}
	if r.RootPorts {
		for _, slot := range r.SlotsIn() {
			m.Ports = append(m.Ports, machine.RootPort{ID: rootPort(slot), Address: slot})
		}
	}
	if r.NativeHotPlug {
		m.Extra = append(m.Extra, "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
	}
	if r.Dump != "" && len(m.NICs) > 0 {
		m.Extra = append(m.Extra, "-object", "filter-dump,id=dump,netdev="+machine.Netdev(m.NICs[0].ID)+",queue=rx,file="+r.Dump)
	}
	m.Extra = append(m.Extra, r.Extra...)
	var devices []string
	for _, n := range m.NICs {
		if strings.HasPrefix(n.ID, machine.Direct) {
			devices = append(devices, n.DeviceOptions())
		}
	}
	if empty {
		m = backEnds(m)
	}
	opts := vm.Options{Dir: r.Dir}
	if r.Console != nil {
		opts.Log = r.Console(name)
	}
	if r.OnLine != nil {
		opts.OnLine = func(l vm.Line) { r.OnLine(name, l) }
	}
	started, err := vm.Start(ctx, m, opts)
	if err == nil {
		r.devices[started] = devices
	}
	return started, err
}

// Move migrates the guest to a new host with nics, ends the old host, and tells
// the guest, unless the Rig is mute. If the migration fails, the guest is
// where it was and the new host is ended.
func (r *Rig) Move(ctx context.Context, nics ...NIC) (*migrate.Report, error) {
	host, incoming, err := r.Prepare(ctx, nics...)
	if err != nil {
		return nil, err
	}
	return r.MoveTo(ctx, host, incoming, nics...)
}

// MoveTo is Move to a host that Prepare has started.
func (r *Rig) MoveTo(ctx context.Context, host *vm.VM, incoming string, nics ...NIC) (*migrate.Report, error) {
	opts := migrate.Options{Incoming: incoming, Logger: r.Logger, OnEvent: r.OnEvent}
	for i, nic := range r.NICs {
		if nic.stays(i, nics) {
			opts.Direct = append(opts.Direct, nic.id(i))
		}
	}
	report, err := migrate.Run(ctx, r.Host.QMP, host.QMP, opts)
	if err != nil {
		said := host.Stderr()
		host.Close()
		if said != "" {
			err = fmt.Errorf("%w (the destination said: %s)", err, said)
		}
		return nil, err
	}
	r.Host.Close()
	r.Host, r.NICs = host, nics
	if !r.Mute {
		err = r.tell(ctx, report)
	}
	return report, err
}

func (r *Rig) tell(ctx context.Context, report *migrate.Report) error {
	c, err := r.Ctl(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, ctl.CmdMigrated, ctl.Migrated{
		Generation: r.Host.Machine.GenerationID,
		ResumedAgo: time.Since(report.ResumedAt).Nanoseconds(),
	}, nil)
}

// Ctl connects to the agent in the guest.
func (r *Rig) Ctl(ctx context.Context) (*ctl.Client, error) {
	return ctl.Dial(ctx, r.Host.Machine.Ctl, nil)
}

// Call asks the agent one thing.
func (r *Rig) Call(ctx context.Context, cmd string, args, out any) error {
	c, err := r.Ctl(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, cmd, args, out)
}

// Status asks the agent for its status.
func (r *Rig) Status(ctx context.Context) (ctl.Status, error) {
	var st ctl.Status
	err := r.Call(ctx, ctl.CmdStatus, nil, &st)
	return st, err
}

// RoleStatus asks for the status of one role.
func (r *Rig) RoleStatus(ctx context.Context, role string) (ctl.RoleStatus, error) {
	st, err := r.Status(ctx)
	if err != nil {
		return ctl.RoleStatus{}, err
	}
	for _, rs := range st.Roles {
		if rs.Name == role {
			return rs, nil
		}
	}
	return ctl.RoleStatus{}, fmt.Errorf("guest has no role %s", role)
}

// ErrNoTimeline says that a role has fewer timelines than were asked for.
var ErrNoTimeline = errors.New("no such timeline")

// Timelines asks for all timelines of the role; the first one is of the boot.
func (r *Rig) Timelines(ctx context.Context) ([]ctl.Timeline, error) {
	var tls []ctl.Timeline
	err := r.Call(ctx, ctl.CmdTimeline, ctl.RoleArgs{Role: Role}, &tls)
	return tls, err
}

// Settled is the agent's line when nothing of a boot or a recovery is left to do: all is
// in memory that the next one needs.
const Settled = "drivers prefetched"

// Poll is how often the waiting methods ask the agent.
const Poll = 100 * time.Millisecond

// WaitPassive waits until the role has had n timelines, boot included, that
// ended in passive mode, and returns the n-th.
func (r *Rig) WaitPassive(ctx context.Context, n int) (ctl.Timeline, error) {
	var last error
	for {
		tls, err := r.Timelines(ctx)
		if err == nil && len(tls) >= n {
			tl := tls[n-1]
			if _, done := tl.Stamp(ctl.StampPassive); done {
				return tl, nil
			}
			err = fmt.Errorf("recovery of %s is not over: %s", tl.Role, tl.Error)
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return ctl.Timeline{}, errors.Join(context.Cause(ctx), last, fmt.Errorf("%w: %d", ErrNoTimeline, n))
		case <-time.After(Poll):
		}
	}
}

// WaitRecovery waits until a recovery of the role with a number above after is over,
// and returns its timeline, and the number of the last that is.
func (r *Rig) WaitRecovery(ctx context.Context, after uint64) (tl ctl.Timeline, last uint64, err error) {
	for {
		tls, err := r.Timelines(ctx)
		// A recovery is numbered once it is over.
		if i := slices.IndexFunc(tls, func(tl ctl.Timeline) bool { return tl.Recovery > after }); err == nil && i >= 0 {
			return tls[i], LastRecovery(tls), nil
		}
		select {
		case <-ctx.Done():
			return ctl.Timeline{}, after, errors.Join(context.Cause(ctx), err)
		case <-time.After(Poll):
		}
	}
}

// LastRecovery is the number of the last recovery that is over.
func LastRecovery(tls []ctl.Timeline) (last uint64) {
	for _, tl := range tls {
		last = max(last, tl.Recovery)
	}
	return last
}

// WaitRole waits until the role's status is as ok says.
func (r *Rig) WaitRole(ctx context.Context, ok func(ctl.RoleStatus) bool) (ctl.RoleStatus, error) {
	var last ctl.RoleStatus
	for {
		st, err := r.RoleStatus(ctx, Role)
		if err == nil {
			if last = st; ok(st) {
				return st, nil
			}
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("%w; role %s is %s: %s", context.Cause(ctx), Role, last.Mode, last.Message)
		case <-time.After(Poll):
		}
	}
}
