// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/umbra-vm/umbra/migrate/qmp"
)

// A Device is how one device is plugged in.
type Device struct {
	Driver string // QEMU's name of the model
	ID     string

	// Options are all others, as device_add takes them.
	Options map[string]any
}

// Parse reads a device's options in either form in which QEMU's -device has them:
// "e1000,id=direct-net0,netdev=n0", where a comma in a value is doubled, or a JSON
// object. The id is required: it is the device's name from then on. Errors match
// ErrOptions.
func Parse(option string) (Device, error) {
	options, err := parse(option)
	if err != nil {
		return Device{}, fmt.Errorf("%w: %q: %w", ErrOptions, option, err)
	}
	d := Device{Options: options}
	for _, o := range []struct {
		key   string
		value *string
	}{{"driver", &d.Driver}, {"id", &d.ID}} {
		*o.value, _ = options[o.key].(string)
		if *o.value == "" {
			return Device{}, fmt.Errorf("%w: %q has no %s", ErrOptions, option, o.key)
		}
		delete(options, o.key)
	}
	return d, nil
}

func parse(option string) (map[string]any, error) {
	options := make(map[string]any)
	if strings.HasPrefix(option, "{") {
		return options, json.Unmarshal([]byte(option), &options)
	}
	const comma = "\x00" // stands for a doubled one
	for i, o := range strings.Split(strings.ReplaceAll(option, ",,", comma), ",") {
		key, value, set := strings.Cut(strings.ReplaceAll(o, comma, ","), "=")
		switch {
		case !set && i == 0:
			key, value = "driver", key
		case !set:
			value = "on"
		}
		if _, twice := options[key]; twice || key == "" {
			return nil, fmt.Errorf("option %q is given twice or has no name", key)
		}
		options[key] = value
	}
	return options, nil
}

// arguments are those of device_add.
func (d Device) arguments() map[string]any {
	a := maps.Clone(d.Options)
	a["driver"], a["id"] = d.Driver, d.ID
	return a
}

// root is where QEMU keeps the devices that were given an id.
const root = "/machine/peripheral"

// peripherals returns the models of all devices that have an id, by that.
func peripherals(ctx context.Context, c *qmp.Client) (map[string]string, error) {
	var list []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	err := c.Execute(ctx, "qom-list", map[string]string{"path": root}, &list)
	if notFound(err) {
		return nil, nil // no device has ever had one
	}
	out := make(map[string]string)
	for _, e := range list {
		if model, ok := strings.CutPrefix(e.Type, "child<"); ok {
			out[e.Name] = strings.TrimSuffix(model, ">")
		}
	}
	return out, err
}

func notFound(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e) && e.Class == qmp.ClassDeviceNotFound
}

// known checks model and names of the options against what QEMU knows.
func (d Device) known(ctx context.Context, c *qmp.Client) error {
	var list []struct {
		Name string `json:"name"`
	}
	err := c.Execute(ctx, "device-list-properties", map[string]string{"typename": d.Driver}, &list)
	switch {
	case notFound(err):
		return fmt.Errorf("%w: QEMU has no model %q (an alias does not do)", ErrOptions, d.Driver)
	case err != nil:
		return err
	}
	names := []string{"bus"}
	for _, e := range list {
		names = append(names, e.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(d.Options)) {
		if !slices.Contains(names, key) {
			return fmt.Errorf("%w: model %q has no option %q", ErrOptions, d.Driver, key)
		}
	}
	return nil
}

// placed returns the device with what QEMU says of its place and its MAC where the
// options leave them to QEMU. Options that are not the device's are refused: with
// them another one would come back.
func (d Device) placed(ctx context.Context, c *qmp.Client) (Device, error) {
	d.Options = maps.Clone(d.Options)
	for _, p := range []struct {
		option, property string
		fill             bool // if it is not given
		text             func(any) string
		same             func(given, is string) bool
	}{
		{"netdev", "netdev", false, text, exactly},
		{"drive", "drive", false, text, exactly},
		{"mac", "mac", true, text, strings.EqualFold},
		{"bus", "parent_bus", true, base, func(given, is string) bool { return path.Base(given) == is }},
		{"addr", "addr", true, slot, func(given, is string) bool { return function(given) == function(is) }},
	} {
		value, err := d.property(ctx, c, p.property)
		if qmp.Refused(err) {
			continue // not every device has one
		}
		if err != nil {
			return d, err
		}
		is := p.text(value)
		given, ok := d.Options[p.option]
		switch {
		case ok && !p.same(fmt.Sprint(given), is):
			return d, fmt.Errorf("%w: its %s is %q, not %q", ErrOptions, p.option, is, fmt.Sprint(given))
		case !ok && p.fill && is != "":
			d.Options[p.option] = is
		}
	}
	return d, nil
}

func (d Device) property(ctx context.Context, c *qmp.Client, name string) (value any, err error) {
	err = c.Execute(ctx, "qom-get", map[string]string{"path": root + "/" + d.ID, "property": name}, &value)
	return value, err
}

func exactly(a, b string) bool { return a == b }

func text(v any) string { return fmt.Sprint(v) }

// base is the name of the bus at a path.
func base(v any) string {
	p, _ := v.(string)
	if p == "" {
		return "" // not on any
	}
	return path.Base(p)
}

// slot writes a PCI device's number, as QEMU tells it, in the form in which QEMU
// takes it; "" for what is none. A number would be taken for a slot.
func slot(v any) string {
	n, ok := v.(float64)
	if !ok || n < 0 || n > 0xff {
		return ""
	}
	return fmt.Sprintf("%x.%x", int(n)>>3, int(n)&7)
}

// function reads slot and function as QEMU does: two hexadecimal numbers, the
// second of which may be missing.
func function(s string) [2]int {
	var at [2]int
	before, after, _ := strings.Cut(s, ".")
	for i, part := range []string{before, after} {
		fmt.Sscanf(strings.TrimPrefix(part, "0x"), "%x", &at[i])
	}
	return at
}
