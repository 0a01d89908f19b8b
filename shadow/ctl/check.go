// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Check asks what would become of the roles if the guest were moved. Nothing is changed.
type Check struct {
	// Devices are all that the destination has.
	Devices []CheckDevice `json:"devices"`
	// Leaves are the bus addresses in the guest of the devices that the move leaves
	// behind. Nil says that it is not known: then all but paravirtual ones are.
	Leaves []string `json:"leaves"`
	// Unplug are those that are unplugged beforehand.
	Unplug []string `json:"unplug,omitempty"`
	// Later counts devices that are plugged in when the guest has moved, and of which
	// nothing is known before.
	Later int `json:"later,omitempty"`
}

// A CheckDevice is a device of the destination, as far as it is known.
type CheckDevice struct {
	Address   string `json:"address"`             // where the guest will have it: "0000:00:05.0", or "vif-0" of Xen
	IDs       string `json:"ids,omitempty"`       // "8086:10d3"; a front end of Xen has none
	Subsystem string `json:"subsystem,omitempty"` // as IDs
	Class     string `json:"class,omitempty"`     // PCI class code, four or six digits; "0200", a NIC, if empty
	MAC       string `json:"mac,omitempty"`       // empty if it is not known
}

// CheckReport is the answer, role by role.
type CheckReport struct {
	Roles []Forecast `json:"roles"`
}

// The verdicts of a check.
const (
	VerdictTaken    = "taken"     // a device of the destination takes the role
	VerdictStays    = "stays"     // the role's device is moved with the guest
	VerdictStandby  = "standby"   // no device takes it, its standby carries
	VerdictLater    = "later"     // nothing takes it but what is plugged in later
	VerdictNoDriver = "no-driver" // the device that would take it has no driver in the image
	VerdictNoDevice = "no-device" // no device would take it
	VerdictKept     = "kept"      // the driver of its device could not let go of it
)

// The ways in which a role's device can be left behind.
const (
	WayUnprepared = "unprepared" // in use until the guest is stopped
	WayUnplug     = "unplug"     // unplugged before the guest moves
)

// What becomes of the role's MAC on another device.
const (
	MACOwn     = "own"     // the device has it
	MACGiven   = "given"   // the driver takes it: this guest has seen it do so
	MACRefused = "refused" // the driver keeps to the device's: this guest has seen it do so
	MACUnknown = "unknown" // until the device is there
)

// The sources of an expected gap.
const (
	GapMeasured  = "measured"  // by this guest, in its recoveries with the driver
	GapPublished = "published" // in umbra's README
)

// Forecast is what is known beforehand of one role.
type Forecast struct {
	Role    string `json:"role"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason,omitempty"` // why, if it is a refusal; else what is worth knowing
	From    string `json:"from,omitempty"`   // the device that it has, e.g. "e1000 at 0000:00:02.0"
	// Device is what takes the role there, Standby what stands by, by their addresses.
	Device  string `json:"device,omitempty"`
	IDs     string `json:"ids,omitempty"` // of Device
	Standby string `json:"standby,omitempty"`
	// Drivers claim the device, in the order in which they are tried. Driven says that
	// the first has driven such a device in this guest.
	Drivers []string `json:"drivers,omitempty"`
	Driven  bool     `json:"driven,omitempty"`
	Ways    []string `json:"ways,omitempty"`
	MAC     string   `json:"mac,omitempty"`
	// Deferred are the operations of the log that the driver has not been able to do
	// before. Of those in Unknown that is known when the device is there.
	Deferred []Deferred `json:"deferred,omitempty"`
	Unknown  []string   `json:"unknown,omitempty"`
	Gap      *Gap       `json:"gap,omitempty"`
}

// Gap is how long what is sent was held in earlier recoveries, in ms.
type Gap struct {
	Source     string  `json:"source"`
	Recoveries int     `json:"recoveries,omitempty"` // how many were measured
	MinMS      float64 `json:"min_ms"`
	MaxMS      float64 `json:"max_ms"`
}

// Refused reports whether the role would have nothing at the destination.
func (f Forecast) Refused() bool {
	return f.Verdict == VerdictNoDriver || f.Verdict == VerdictNoDevice || f.Verdict == VerdictKept
}

// Refused returns the forecasts that speak against the move.
func (r CheckReport) Refused() (out []Forecast) {
	for _, f := range r.Roles {
		if f.Refused() {
			out = append(out, f)
		}
	}
	return out
}

// ErrDevice is matched by the errors about a device that is written down wrongly.
var ErrDevice = errors.New("not a device")

var (
	pciAddress = regexp.MustCompile(`^(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	frontEnd   = regexp.MustCompile(`^[a-z]+-[0-9]+$`)
	macAddress = regexp.MustCompile(`^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$`)
	idPair     = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{4}$`)
	classCode  = regexp.MustCompile(`^[0-9a-f]{4}(?:[0-9a-f]{2})?$`)
)

// ParseCheckDevice reads a device as people write it: ids and address as lspci has them,
// "8086:10d3@0000:00:05.0", or a front end of Xen, "vif-0"; behind it, with commas,
// mac=, subsystem= and class=. The error names the part and matches ErrDevice.
func ParseCheckDevice(text string) (CheckDevice, error) {
	bad := func(what, value string) (CheckDevice, error) {
		return CheckDevice{}, fmt.Errorf("%w: %q: %s %q", ErrDevice, text, what, value)
	}
	var d CheckDevice
	parts := strings.Split(strings.ToLower(text), ",")
	ids, address, both := strings.Cut(parts[0], "@")
	switch {
	case !both && frontEnd.MatchString(ids):
		d.Address = ids
	case !both:
		return bad("want IDS@ADDRESS, not", parts[0])
	case !idPair.MatchString(ids):
		return bad("ids are four hexadecimal digits, a colon and four more, not", ids)
	case !pciAddress.MatchString(address):
		return bad("an address is like 0000:00:05.0, not", address)
	default:
		d.IDs, d.Address = ids, address
		if strings.Count(address, ":") == 1 {
			d.Address = "0000:" + address
		}
	}
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		var to *string
		var like *regexp.Regexp
		switch key {
		case "mac":
			to, like = &d.MAC, macAddress
		case "subsystem":
			to, like = &d.Subsystem, idPair
		case "class":
			to, like = &d.Class, classCode
		default:
			return bad("there are mac=, subsystem= and class=, not", part)
		}
		if *to != "" || !like.MatchString(value) {
			return bad("given twice, or wrong:", part)
		}
		*to = value
	}
	return d, nil
}

// ReadCheckDevices reads a list with one device a line. Empty lines, and what follows a
// '#', say nothing. Errors name the line.
func ReadCheckDevices(r io.Reader) (devices []CheckDevice, err error) {
	s := bufio.NewScanner(r)
	line := 0
	for s.Scan() {
		line++
		text, _, _ := strings.Cut(s.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		d, err := ParseCheckDevice(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		devices = append(devices, d)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", line+1, err)
	}
	return devices, nil
}
