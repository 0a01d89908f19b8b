// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/migrate/inventory"
	"github.com/umbra-vm/umbra/migrate/qmp"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// checking is what the flags of umbra check say.
type checking struct {
	to, from string
	devices  []string
	list     string
	direct   []string
	timeout  time.Duration
	json     bool
}

func newCheck() *cobra.Command {
	var c checking
	cmd := &cobra.Command{
		Use:   "check DIR|SOCKET --to QMP | --device DEVICE... | --devices FILE",
		Short: "say what would become of a running guest's roles elsewhere",
		Long: `Check asks the shadow agent of a running guest what it would do with the devices of
a destination, and changes nothing: which device would take each role, with which
driver of the image, which settings it cannot have, how the role can be moved, and
how long its traffic would be held. If a role would have nothing there, the exit
code is 3.

DIR is the directory of a machine started by umbra run, SOCKET the control socket of
any other. The destination is a QEMU that waits for the guest, by its monitor, or a
list, one device a line as lspci -n has it: IDS@ADDRESS, the address being the one in
the guest, and after commas mac=, subsystem= and class= if known.`,
		Example: `  umbra check /run/a --to /run/b/qmp.sock
  umbra check out/app --device 8086:10d3@0000:00:05.0,mac=52:54:00:12:34:57
  umbra check /run/a/ctl.sock --devices host-b.txt --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd.Context(), args[0], cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.to, "to", "", "QMP socket of a QEMU that waits for the guest")
	f.StringArrayVar(&c.devices, "device", nil, "a device of the destination, `IDS@ADDRESS[,mac=MAC]` (repeatable)")
	f.StringVar(&c.list, "devices", "", "`FILE` with a list of them, - for standard input")
	f.StringVar(&c.from, "from", "", "QMP socket of the QEMU that runs the guest (default DIR's)")
	f.StringSliceVar(&c.direct, "direct", nil, "QEMU id of a device whose state stays behind (repeatable; default all but paravirtual ones)")
	f.DurationVar(&c.timeout, "timeout", 5*time.Second, "how long to wait for each answer")
	f.BoolVar(&c.json, "json", false, "print JSON")
	cmd.MarkFlagsOneRequired("to", "device", "devices")
	cmd.MarkFlagsMutuallyExclusive("to", "device")
	cmd.MarkFlagsMutuallyExclusive("to", "devices")
	return cmd
}

func (c *checking) run(ctx context.Context, place string, stdout io.Writer) error {
	s, err := c.survey(place)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		side, path string
		to         **qmp.Client
	}{{"source", c.from, &s.src}, {"destination", c.to, &s.dst}} {
		if m.path == "" {
			continue
		}
		if *m.to, err = dialQMP(ctx, m.side, m.path, c.timeout); err != nil {
			return err
		}
		defer (*m.to).Close()
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	client, err := dialCtl(ctx, place)
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := s.ask(ctx, client)
	if err != nil {
		return err
	}
	if err := c.print(stdout, r); err != nil {
		return err
	}
	return r.verdict()
}

// survey reads the list, and finds the source's monitor.
func (c *checking) survey(place string) (s survey, err error) {
	s.direct, s.known = c.direct, len(c.direct) > 0
	if info, err := os.Stat(place); err == nil && info.IsDir() && c.from == "" {
		c.from = filepath.Join(place, qmpSocket)
	}
	if s.known && c.from == "" {
		return s, &codeError{exitUsage, errors.New("--direct is about a source: --from is missing")}
	}
	for _, text := range c.devices {
		d, err := ctl.ParseCheckDevice(text)
		if err != nil {
			return s, &codeError{exitUsage, fmt.Errorf("--device: %w", err)}
		}
		s.devices = append(s.devices, d)
	}
	if c.list == "" {
		return s, nil
	}
	in := os.Stdin
	if c.list != "-" {
		if in, err = os.Open(c.list); err != nil {
			return s, refused(err)
		}
		defer in.Close()
	}
	listed, err := ctl.ReadCheckDevices(in)
	if err != nil {
		return s, &codeError{exitUsage, fmt.Errorf("--devices %s: %w", c.list, err)}
	}
	s.devices = append(s.devices, listed...)
	return s, nil
}

func (c *checking) print(w io.Writer, r checkReport) error {
	if c.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	for _, why := range r.Blocked {
		fmt.Fprintf(w, "QEMU would not migrate the guest before a device is unplugged: %s\n", why)
	}
	return ctl.RenderCheck(w, r.CheckReport)
}

// survey collects what a guest is asked about.
type survey struct {
	src, dst *qmp.Client // nil if they cannot be asked
	devices  []ctl.CheckDevice
	direct   []string // by their QEMU ids, as unplug
	known    bool     // direct and unplug are all that stays behind
	leaves   []string // what stays behind, by its address in the guest, if src is nil
	unplug   []string
	later    int
}

// checkReport is what the guest says of its roles, and QEMU of the guest.
type checkReport struct {
	ctl.CheckReport
	// Blocked is why QEMU would refuse to migrate the guest as it is.
	Blocked []string `json:"blocked,omitempty"`
}

// verdict is nil unless a role would have nothing.
func (r checkReport) verdict() error {
	var why []string
	for _, f := range r.Refused() {
		why = append(why, f.String())
	}
	if why == nil {
		return nil
	}
	return refused(fmt.Errorf("refused: %s", strings.Join(why, "; ")))
}

// ask has the guest judge what the hosts have.
func (s survey) ask(ctx context.Context, guest *ctl.Client) (r checkReport, err error) {
	req := ctl.Check{Devices: s.devices, Leaves: s.leaves, Later: s.later}
	var here, there []inventory.Device
	if s.src != nil {
		if here, err = inventory.List(ctx, s.src); err != nil {
			return r, fmt.Errorf("list the source's devices: %w", err)
		}
		if r.Blocked, err = inventory.Blocked(ctx, s.src); err != nil {
			return r, fmt.Errorf("ask the source: %w", err)
		}
	}
	if s.dst != nil {
		if there, err = inventory.List(ctx, s.dst); err != nil {
			return r, fmt.Errorf("list the destination's devices: %w", err)
		}
		for _, d := range inventory.Arriving(there, here) {
			req.Devices = append(req.Devices, checkDevice(d))
		}
	}
	if s.known {
		direct := addresses(here, s.direct)
		if len(direct) != len(s.direct) {
			return r, refused(fmt.Errorf("not all of %s are PCI devices of the source", strings.Join(s.direct, ", ")))
		}
		req.Unplug = addresses(here, s.unplug)
		req.Leaves = append(direct, req.Unplug...)
	}
	return r, guest.Call(ctx, ctl.CmdCheck, req, &r.CheckReport)
}

// addresses are those of PCI devices in the guest, by their QEMU ids. It is not nil.
func addresses(devices []inventory.Device, ids []string) []string {
	out := []string{}
	for _, d := range devices {
		if slices.Contains(ids, d.ID) {
			out = append(out, d.Address)
		}
	}
	return out
}

// checkDevice is a device as the guest is asked about it.
func checkDevice(d inventory.Device) ctl.CheckDevice {
	out := ctl.CheckDevice{
		Address: d.Address, IDs: fmt.Sprintf("%04x:%04x", d.Vendor, d.Device), Class: fmt.Sprintf("%04x", d.Class), MAC: d.MAC,
	}
	if d.SubVendor != 0 {
		out.Subsystem = fmt.Sprintf("%04x:%04x", d.SubVendor, d.SubDevice)
	}
	return out
}

// check asks the guest before a migration. A guest that cannot be asked is no reason
// against it.
func (m *migration) check(ctx context.Context, src, dst *qmp.Client, stderr io.Writer) error {
	if m.fromCtl == "" {
		fmt.Fprintln(stderr, "umbra: not checked whether the guest can drive what the destination has: --from-ctl is missing")
		return nil
	}
	s := survey{src: src, dst: dst, direct: m.Direct, known: true, later: len(m.Plug)}
	for _, d := range m.Unplug {
		s.unplug = append(s.unplug, d.ID)
	}
	return m.askSource(ctx, s, 5*time.Second, stderr)
}

// askSource asks the guest through the source's control socket.
func (m *migration) askSource(ctx context.Context, s survey, timeout time.Duration, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	guest, err := ctl.Dial(ctx, m.fromCtl, nil)
	var r checkReport
	if err == nil {
		defer guest.Close()
		r, err = s.ask(ctx, guest)
	}
	if err != nil {
		fmt.Fprintf(stderr, "umbra: not checked whether the guest can drive what the destination has: %v\n", err)
		return nil
	}
	if m.verbose {
		if err := ctl.RenderCheck(stderr, r.CheckReport); err != nil {
			return err
		}
	}
	if err := r.verdict(); err != nil {
		if m.force {
			fmt.Fprintf(stderr, "umbra: going on, as --force says: %v\n", err)
			return nil
		}
		return fmt.Errorf("%w (--force moves the guest all the same)", err)
	}
	return nil
}
