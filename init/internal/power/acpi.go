// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package power

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// The generic netlink family of drivers/acpi/event.c.
const (
	acpiFamily    = "acpi_event"
	acpiGroup     = "acpi_mc_group"
	acpiAttrEvent = 1 // ACPI_GENL_ATTR_EVENT
)

// ACPIEvent is struct acpi_genl_event of drivers/acpi/event.c.
type ACPIEvent struct {
	Class string // "button/power"
	Bus   string // "LNXPWRBN:00"
	Type  uint32
	Data  uint32
}

// Sizes of struct acpi_genl_event: two strings of fixed size, a byte of
// padding, two numbers in the machine's byte order.
const (
	acpiClassLen = 20
	acpiBusLen   = 15
	acpiEventLen = acpiClassLen + acpiBusLen + 1 + 4 + 4
)

// ErrACPIEvent says that an event is not as the kernel builds them.
var ErrACPIEvent = errors.New("malformed ACPI event")

// ParseACPIEvent reads the attributes of one event message.
func ParseACPIEvent(attrs []byte) (ACPIEvent, error) {
	ad, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return ACPIEvent{}, fmt.Errorf("%w: %w", ErrACPIEvent, err)
	}
	for ad.Next() {
		if ad.Type() != acpiAttrEvent {
			continue
		}
		b := ad.Bytes()
		if len(b) < acpiEventLen {
			return ACPIEvent{}, fmt.Errorf("%w: %d bytes", ErrACPIEvent, len(b))
		}
		text := func(b []byte) string {
			s, _, _ := bytes.Cut(b, []byte{0})
			return string(s)
		}
		return ACPIEvent{
			Class: text(b[:acpiClassLen]),
			Bus:   text(b[acpiClassLen : acpiClassLen+acpiBusLen]),
			Type:  binary.NativeEndian.Uint32(b[acpiEventLen-8:]),
			Data:  binary.NativeEndian.Uint32(b[acpiEventLen-4:]),
		}, nil
	}
	if err := ad.Err(); err != nil {
		return ACPIEvent{}, fmt.Errorf("%w: %w", ErrACPIEvent, err)
	}
	return ACPIEvent{}, fmt.Errorf("%w: no event in it", ErrACPIEvent)
}

// Asks returns what an event asks for: the power button means to power off.
// The sleep button and lids of laptops mean nothing to a server.
func (e ACPIEvent) Asks() (Action, bool) {
	if e.Class == "button/power" {
		return PowerOff, true
	}
	return "", false
}

// ErrNoACPI says that the kernel has no ACPI events: a machine without ACPI,
// such as a Xen PV guest.
var ErrNoACPI = errors.New("no ACPI events here")

// WatchACPI calls pressed for every event that asks for something, until ctx
// is done. The button itself is served by the kernel module "button", which
// may be loaded later.
func WatchACPI(ctx context.Context, pressed func(Request)) error {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("ACPI events: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	family, err := conn.GetFamily(acpiFamily)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoACPI, err)
	}
	joined := false
	for _, g := range family.Groups {
		if g.Name == acpiGroup {
			if err := conn.JoinGroup(g.ID); err != nil {
				return fmt.Errorf("ACPI events: join group: %w", err)
			}
			joined = true
		}
	}
	if !joined {
		return fmt.Errorf("%w: no group %s", ErrNoACPI, acpiGroup)
	}
	for {
		msgs, _, err := conn.Receive()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("ACPI events: %w", err)
		}
		for _, m := range msgs {
			event, err := ParseACPIEvent(m.Data)
			if err != nil {
				continue
			}
			if action, ok := event.Asks(); ok {
				pressed(Request{Action: action, Source: "power button"})
			}
		}
	}
}
