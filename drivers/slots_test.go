// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package drivers_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/drivers/drivertest"
	"github.com/umbra-vm/umbra/drivers/pci"
)

// port returns a port with a hot-plug slot.
func port(address string, slot drivertest.Slot) drivertest.Function {
	return drivertest.Function{
		Address: address, IDs: pci.IDs{Vendor: 0x1b36, Device: 0x000c}, Class: 0x060400,
		Bridge: true, Slot: slot,
	}
}

// behind returns an e1000 behind a port.
func behind(port, address string) drivertest.Function {
	f := e1000
	f.Address, f.Behind = address, port
	return f
}

const (
	port2 = "0000:00:02.0"
	port5 = "0000:00:05.0"
	card2 = "0000:01:00.0"
	card5 = "0000:02:00.0"
)

// powers returns what became of the power of slots since the event before first.
func powers(m *drivertest.Machine, first int) (out []string) {
	for _, e := range m.Events()[first:] {
		if strings.HasPrefix(e, "power ") {
			out = append(out, e)
		}
	}
	return out
}

func TestSlots(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		boot   []drivertest.Function
		change func(*drivertest.Machine)
		later  func(*drivertest.Machine) // between PowerOn and SettlePower
		lit    []string                  // ports
		events []string                  // of power
		found  bool                      // the card behind port5
	}{
		{
			rule:   "a card in a slot that is believed to be empty is found, and keeps its power",
			boot:   []drivertest.Function{port(port5, drivertest.SlotOff)},
			change: func(m *drivertest.Machine) { m.Plug(behind(port5, card5)) },
			lit:    []string{port5},
			events: []string{"power on " + port5},
			found:  true,
		},
		{
			rule:   "a slot that is empty loses its power again",
			boot:   []drivertest.Function{port(port2, drivertest.SlotOff), port(port5, drivertest.SlotOff)},
			change: func(m *drivertest.Machine) { m.Plug(behind(port5, card5)) },
			lit:    []string{port2, port5},
			events: []string{"power on " + port2, "power on " + port5, "power off " + port2},
			found:  true,
		},
		{
			rule: "a slot that holds a device of the kernel's is not touched, even if it has no power",
			boot: []drivertest.Function{port(port5, drivertest.SlotOn), behind(port5, card5)},
			change: func(m *drivertest.Machine) {
				m.Poke(port5, drivertest.SlotControl+1, 0x07)
			},
			found: true,
		},
		{
			rule:  "a slot that has power is not touched",
			boot:  []drivertest.Function{port(port5, drivertest.SlotOn)},
			found: false,
		},
		{
			rule: "a bridge without a slot is not touched",
			boot: []drivertest.Function{{Address: port5, Class: 0x060400, Bridge: true}},
		},
		{
			rule:   "a card that comes meanwhile keeps the power that it was given",
			boot:   []drivertest.Function{port(port5, drivertest.SlotOff)},
			later:  func(m *drivertest.Machine) { m.Poke(port5, drivertest.SlotControl+2, 0x40) },
			lit:    []string{port5},
			events: []string{"power on " + port5},
		},
		{
			rule:   "a slot that somebody has switched off meanwhile stays as it is",
			boot:   []drivertest.Function{port(port5, drivertest.SlotOff)},
			later:  func(m *drivertest.Machine) { m.Poke(port5, drivertest.SlotControl+1, 0x07) },
			lit:    []string{port5},
			events: []string{"power on " + port5},
		},
		{
			rule:   "what a killed process has lit is taken over",
			boot:   []drivertest.Function{port(port5, drivertest.SlotOn)},
			change: func(m *drivertest.Machine) { m.Poke(port5, drivertest.SlotControl+1, 0x02) },
			lit:    []string{port5},
			events: []string{"power off " + port5},
		},
		{
			rule:  "a port that is gone is forgotten",
			boot:  []drivertest.Function{port(port5, drivertest.SlotOff)},
			later: func(m *drivertest.Machine) { m.Pull(port5) },
			lit:   []string{port5}, events: []string{"power on " + port5},
		},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			t.Parallel() // it waits for cards that do not come
			m, tree := machine(t, nil, tt.boot...)
			if tt.change != nil {
				tt.change(m)
			}
			first := len(m.Events())
			ports, err := tree.PowerOn(t.Context())
			if err != nil || !slices.Equal(ports, tt.lit) {
				t.Errorf("ports %q, error %v; want %q", ports, err, tt.lit)
			}
			if tt.later != nil {
				tt.later(m)
			}
			// Too early, and therefore nothing.
			early := len(powers(m, first))
			if err := tree.SettlePower(t.Context()); err != nil || len(powers(m, first)) != early {
				t.Errorf("before the wait: %q, error %v", powers(m, first), err)
			}
			if lit, err := tree.WaitPower(t.Context()); err != nil || lit != (len(tt.lit) > 0) {
				t.Errorf("there are slots to settle: %t, error %v", lit, err)
			}
			if err := tree.Rescan(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is nothing left
				if err := tree.SettlePower(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if got := powers(m, first); !slices.Equal(got, tt.events) {
				t.Errorf("events %q, want %q", got, tt.events)
			}
			if lit, err := tree.WaitPower(t.Context()); err != nil || lit {
				t.Errorf("after all: slots to settle %t, error %v", lit, err)
			}
			if _, err := tree.Device(t.Context(), card5); (err == nil) != tt.found {
				t.Errorf("the card: error %v", err)
			}
		})
	}
}

// refusing is a kernel that is locked down.
type refusing struct{ *drivertest.Machine }

func (refusing) WriteConfig(string, int64, []byte) error { return unix.EPERM }

func TestPowerErrors(t *testing.T) {
	m, _ := machine(t, nil, port(port2, drivertest.SlotOff), port(port5, drivertest.SlotOff))
	tree := m.Tree(drivers.WithKernel(refusing{m}))
	ports, err := tree.PowerOn(t.Context())
	var op *drivers.OpError
	if len(ports) > 0 || !errors.Is(err, unix.EPERM) || !errors.As(err, &op) {
		t.Errorf("a kernel that does not let itself be written to: ports %q, error %v", ports, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tree = m.Tree()
	if _, err := tree.PowerOn(ctx); !errors.Is(err, context.Canceled) || len(powers(m, 0)) > 0 {
		t.Errorf("a context that has ended: error %v, events %q", err, m.Events())
	}
	if _, err := tree.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lit, err := tree.WaitPower(ctx); !lit || !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that has ended: %t, %v", lit, err)
	}
}

// Status lies beside control in the same four bytes, and what is written to it is
// cleared.
func TestPowerOnWritesControlAlone(t *testing.T) {
	m, _ := machine(t, nil, port(port5, drivertest.SlotOff))
	k := &writes{Machine: m}
	if _, err := m.Tree(drivers.WithKernel(k)).PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(k.registers) != 1 || k.offset != drivertest.SlotControl || len(k.registers[0]) != 2 ||
		binary.LittleEndian.Uint16(k.registers[0])&(1<<10) != 0 {
		t.Errorf("wrote %x at %#x", k.registers, k.offset)
	}
}

type writes struct {
	*drivertest.Machine
	offset    int64
	registers [][]byte
}

func (w *writes) WriteConfig(path string, offset int64, register []byte) error {
	w.offset, w.registers = offset, append(w.registers, register)
	return w.Machine.WriteConfig(path, offset, register)
}
