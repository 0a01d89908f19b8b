// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"context"
	"fmt"
	"math"

	"github.com/umbra-vm/umbra/migrate/qmp"
	"github.com/umbra-vm/umbra/migrate/stream"
)

// capabilities which may be on: they do not change what the stream looks like.
// Any other that is on, at either end, is refused by name (qapi/migration.json).
var capabilities = map[string]bool{
	"auto-converge":       true,
	"events":              true,
	"late-block-activate": true,
	"validate-uuid":       true,
	"zero-blocks":         true,
}

// prepare checks everything that can be checked, and sets both sides up. The
// source's guest has not been touched when it fails.
func (m *migration) prepare(ctx context.Context) error {
	if err := m.check(ctx); err != nil {
		return err
	}
	if err := m.configureSource(ctx); err != nil {
		return opError("configure the source", err)
	}
	return opError("configure the destination", m.configureDestination(ctx))
}

// check asks both sides and changes nothing.
func (m *migration) check(ctx context.Context) error {
	for _, side := range []struct {
		op     string
		client *qmp.Client
		want   string
		err    error
		lost   error
	}{
		{"check the source", m.src, "running", ErrNotRunning, ErrSourceLost},
		{"check the destination", m.dst, "inmigrate", ErrNotIncoming, ErrDestinationLost},
	} {
		status, err := side.client.Status(ctx)
		if err != nil {
			return opError(side.op, lost(side.client, side.lost, err))
		}
		if status != side.want {
			return opError(side.op, fmt.Errorf("%w: its state is %q", side.err, status))
		}
		if err := checkCapabilities(ctx, side.client); err != nil {
			return opError(side.op, err)
		}
	}
	return m.resolve(ctx)
}

func checkCapabilities(ctx context.Context, c *qmp.Client) error {
	var list []struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	if err := c.Execute(ctx, "query-migrate-capabilities", nil, &list); err != nil {
		return err
	}
	for _, e := range list {
		if e.State && !capabilities[e.Capability] {
			return fmt.Errorf("%w: %s is on", ErrCapability, e.Capability)
		}
	}
	var params struct {
		TLS string `json:"tls-creds"`
	}
	if err := c.Execute(ctx, "query-migrate-parameters", nil, &params); err != nil {
		return err
	}
	if params.TLS != "" {
		return fmt.Errorf("%w: the relay cannot read a stream encrypted with tls-creds", ErrCapability)
	}
	return nil
}

func setCapabilities(ctx context.Context, c *qmp.Client, names ...string) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	var list []capability
	for _, n := range names {
		list = append(list, capability{n, true})
	}
	return c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": list}, nil)
}

func (m *migration) configureSource(ctx context.Context) error {
	if err := setCapabilities(ctx, m.src, "events"); err != nil {
		return err
	}
	params := map[string]int64{"max-bandwidth": math.MaxInt32 << 10}
	if m.opts.BandwidthBps > 0 {
		params["max-bandwidth"] = m.opts.BandwidthBps
	}
	if m.opts.DowntimeLimit > 0 {
		params["downtime-limit"] = m.opts.DowntimeLimit.Milliseconds()
	}
	return m.src.Execute(ctx, "migrate-set-parameters", params, nil)
}

// configureDestination makes the destination load what comes, but neither start
// it nor take the disks before it is told to go on.
func (m *migration) configureDestination(ctx context.Context) error {
	if err := setCapabilities(ctx, m.dst, "events", "late-block-activate"); err != nil {
		return err
	}
	if err := m.dst.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if !m.opts.Deferred {
		return nil
	}
	return m.dst.Execute(ctx, "migrate-incoming", map[string]string{"uri": m.opts.Incoming}, nil)
}

// A pciDevice is what query-pci says of one device (qapi/misc.json).
type pciDevice struct {
	Slot     uint8  `json:"slot"`
	Function uint8  `json:"function"`
	ID       string `json:"qdev_id"`
	Bridge   *struct {
		Devices []pciDevice `json:"devices"`
	} `json:"pci_bridge"`
}

// A pciBus is a root bus with all that is below it.
type pciBus struct {
	Bus     uint8       `json:"bus"`
	Devices []pciDevice `json:"devices"`
}

// resolve finds where the direct-access devices sit.
func (m *migration) resolve(ctx context.Context) error {
	var buses []pciBus
	if err := m.src.Execute(ctx, "query-pci", nil, &buses); err != nil {
		return opError("list PCI devices", lost(m.src, ErrSourceLost, err))
	}
	for _, id := range m.opts.Direct {
		path, err := pathOf(buses, id)
		if err != nil {
			return &OpError{Op: "resolve device", Device: id, Err: err}
		}
		m.report.Direct = append(m.report.Direct, path)
	}
	return nil
}

func pathOf(buses []pciBus, id string) (stream.Path, error) {
	for _, b := range buses {
		if slots, dev := search(b.Devices, id); dev != nil {
			if dev.Bridge != nil {
				return stream.Path{}, fmt.Errorf("%w: it is a bridge", ErrNoDevice)
			}
			return stream.Path{Bus: b.Bus, Slots: slots}, nil
		}
	}
	return stream.Path{}, ErrNoDevice
}

func search(devices []pciDevice, id string) ([]stream.Slot, *pciDevice) {
	for i := range devices {
		d := &devices[i]
		here := stream.Slot{Device: d.Slot, Function: d.Function}
		if id != "" && d.ID == id {
			return []stream.Slot{here}, d
		}
		if d.Bridge == nil {
			continue
		}
		if below, found := search(d.Bridge.Devices, id); found != nil {
			return append([]stream.Slot{here}, below...), found
		}
	}
	return nil, nil
}
