// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package shadow

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/pci"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// ErrCheck says that a check was asked with what cannot be read.
var ErrCheck = errors.New("bad check")

// A Keeper is a Shadow that knows beforehand whether Activate would fail with ErrKept, were
// another device found in the place of dev, and returns that error.
type Keeper interface {
	Keeps(dev drivers.Device) error
}

// expected is a device of the destination.
type expected struct {
	drivers.Device          // with the module that is tried first
	mac            string   // "" if it is not known
	claim          []string // the modules of the image that claim it, in the order in which they are tried
}

// Check says what becomes of the configured roles if the guest is moved. It changes
// nothing. Errors match ErrCheck.
func (m *Manager) Check(req ctl.Check) (ctl.CheckReport, error) {
	devs := make([]expected, len(req.Devices))
	for i, d := range req.Devices {
		var err error
		if devs[i], err = m.expect(d); err != nil {
			return ctl.CheckReport{}, err
		}
	}
	slices.SortStableFunc(devs, func(a, b expected) int { return compareAddresses(a.Address, b.Address) })
	report := ctl.CheckReport{Roles: []ctl.Forecast{}}
	for _, class := range m.opt.Classes {
		report.Roles = append(report.Roles, m.checkClass(class, req, devs)...)
	}
	return report, nil
}

func (m *Manager) checkClass(class Class, req ctl.Check, devs []expected) (out []ctl.Forecast) {
	var rs []*role
	var seats []Seat
	for _, r := range m.all() {
		if r.class == class && !r.auto {
			rs, seats = append(rs, r), append(seats, m.seat(r))
		}
	}
	p := passage{leaves: req.Leaves, unplug: req.Unplug, later: req.Later > 0}
	var of []expected
	for _, d := range devs {
		if class.Owns(d.Device) {
			id := class.Identify(d.Device)
			id.MAC = d.mac
			p.devices, p.drivable, of = append(p.devices, id), append(p.drivable, len(d.claim) > 0), append(of, d)
		}
	}
	p.occupied = func(address string) bool {
		return slices.ContainsFunc(devs, func(d expected) bool { return d.Address == address })
	}
	keeps := make([]error, len(rs))
	for i, r := range rs {
		keeps[i] = m.keeps(r)
	}
	for i, o := range lookOut(seats, p, func(i int) bool { return keeps[i] != nil }) {
		out = append(out, m.forecast(rs[i], seats[i], o, of, keeps[i]))
	}
	return out
}

func (m *Manager) keeps(r *role) error {
	m.mu.Lock()
	dev := r.dev
	m.mu.Unlock()
	if k, ok := r.shadow.(Keeper); ok && dev.Address != "" {
		return k.Keeps(dev)
	}
	return nil
}

// forecast puts into words what lookOut has decided for a role.
func (m *Manager) forecast(r *role, s Seat, o outlook, devs []expected, kept error) ctl.Forecast {
	m.mu.Lock()
	f := ctl.Forecast{Role: r.Name, Verdict: o.verdict, From: describe(r.dev)}
	m.mu.Unlock()
	if o.standby >= 0 && o.standby != o.device {
		f.Standby = devs[o.standby].Address
	}
	f.Reason = reasonOf(r.Role, s, o, devs, kept)
	switch o.verdict {
	case ctl.VerdictKept:
		f.Ways = []string{ctl.WayUnplug}
	case ctl.VerdictNoDriver:
		f.Device, f.IDs = devs[o.missed].Address, idsOf(devs[o.missed].Device)
	case ctl.VerdictStays:
		f.Device, f.IDs, f.Drivers = devs[o.device].Address, idsOf(devs[o.device].Device), devs[o.device].claim
	case ctl.VerdictTaken, ctl.VerdictStandby:
		m.foresee(r, s, devs[o.device], &f)
	}
	return f
}

// reasonOf says why a role is refused, or what else is worth knowing.
func reasonOf(r Role, s Seat, o outlook, devs []expected, kept error) string {
	missed := ""
	if o.missed >= 0 {
		missed = noDriver(devs[o.missed].Device)
	}
	switch {
	case o.verdict == ctl.VerdictKept:
		return fmt.Sprintf("%v; unplug it before the move, or leave %s empty there", kept, s.Device.Address)
	case o.verdict != ctl.VerdictNoDevice:
		return missed
	case len(devs) == 0:
		return "there is no " + r.Class + " device"
	case !r.Match.empty():
		return "no device fits its match rules"
	}
	return fmt.Sprintf("there is no %s device left for it, of %d", r.Class, len(devs))
}

// noDriver says for a person that nothing drives a device.
func noDriver(d drivers.Device) string {
	if ids := idsOf(d); ids != "" {
		return fmt.Sprintf("the device at %s (%s) has no driver in this image", d.Address, ids)
	}
	return fmt.Sprintf("the device at %s has no driver in this image", d.Address)
}

// idsOf is "" for a front end of Xen, which has none.
func idsOf(d drivers.Device) string {
	if d.IDs == (pci.IDs{}) {
		return ""
	}
	return d.IDs.String()
}

// foresee fills in what the role has learned of the driver of dev.
func (m *Manager) foresee(r *role, s Seat, dev expected, f *ctl.Forecast) {
	m.mu.Lock()
	lessons, done, now, passive := slices.Clone(r.lessons), slices.Clone(r.done), r.dev, r.passive
	m.mu.Unlock()
	if passive {
		lessons = append(lessons, m.lesson(r, now))
	}
	ids := r.class.Identify(dev.Device).IDs
	l, exact := recall(lessons, ids, dev.claim)
	f.Device, f.IDs, f.Driven = dev.Address, idsOf(dev.Device), exact
	f.Drivers = slices.Clone(dev.claim)
	if exact { // the others are not asked, or have refused it before
		f.Drivers = []string{l.Driver}
	}
	f.Deferred, f.Unknown = l.foresee(r.shadow.Log())
	standby := f.Verdict == ctl.VerdictStandby
	if len(f.Drivers) > 0 { // a standby is driven by something that no module claims, if the kernel has it built in
		f.Gap = gapOf(done, f.Drivers[0], standby)
	}
	if standby {
		return // it has the role's MAC already, and is not left behind
	}
	f.Ways = []string{ctl.WayUnprepared, ctl.WayUnplug}
	switch {
	case s.MAC == "":
	case is(s.MAC, dev.mac):
		f.MAC = ctl.MACOwn
	case l.MAC != "":
		f.MAC = l.MAC
	default:
		f.MAC = ctl.MACUnknown
	}
}

// expect makes the device that a scan would find of what the host knows of it.
func (m *Manager) expect(d ctl.CheckDevice) (expected, error) {
	e := expected{mac: d.MAC}
	if d.Address == "" {
		return e, fmt.Errorf("%w: a device without an address", ErrCheck)
	}
	if kind, _, front := strings.Cut(d.Address, "-"); front && d.IDs == "" {
		e.Device = drivers.ExpectFrontend(kind, d.Address)
	} else {
		class := d.Class
		if class == "" {
			class = "0200"
		}
		var n [3]uint64
		for i, part := range []struct {
			name, text string
			bits       int
		}{{"ids", d.IDs, 32}, {"subsystem", d.Subsystem, 32}, {"class", class, 24}} {
			if i == 1 && part.text == "" {
				continue
			}
			var err error
			if n[i], err = strconv.ParseUint(strings.ReplaceAll(part.text, ":", ""), 16, part.bits); err != nil {
				return e, fmt.Errorf("%w: device at %q: %s: %w", ErrCheck, d.Address, part.name, err)
			}
		}
		if len(class) == 4 { // without the programming interface
			n[2] <<= 8
		}
		e.Device = drivers.ExpectPCI(d.Address, pci.IDs{
			Vendor: uint16(n[0] >> 16), Device: uint16(n[0]),
			SubsystemVendor: uint16(n[1] >> 16), SubsystemDevice: uint16(n[1]),
		}, uint32(n[2]))
	}
	e.claim = m.claims(&e.Device)
	return e, nil
}

// claims returns the modules that would do the work of a device, none if it or what it
// is the transport of has none, and notes in it those that are tried first.
func (m *Manager) claims(d *drivers.Device) []string {
	names, err := m.hw.Candidates(*d)
	if err != nil {
		return nil
	}
	d.Module = names[0]
	if len(d.Children) == 0 {
		return names
	}
	return m.claims(&d.Children[0])
}

// compareAddresses orders as a scan does: those of PCI, then others.
func compareAddresses(a, b string) int {
	x, errX := pci.ParseAddress(a)
	y, errY := pci.ParseAddress(b)
	switch {
	case errX == nil && errY == nil:
		return x.Compare(y)
	case errX == nil:
		return -1
	case errY == nil:
		return 1
	}
	return strings.Compare(a, b)
}
