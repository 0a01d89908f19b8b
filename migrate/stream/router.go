// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"encoding/binary"
)

// A router is the south bridge's part in interrupt delivery: from slot and pin
// to one of the PIRQ inputs, and from there to global interrupts.
type router struct {
	counts []byte // irq_count of the root bus, a big-endian u32 per input

	route func(slot, pin int) int
	gsis  func(pirq int) []int
	level func(gsi int) bool
}

func (r *router) asserted(pirq int) bool {
	return binary.BigEndian.Uint32(r.counts[4*pirq:]) != 0
}

// router returns the interrupt router of the bus on which p is.
func (m *machine) router(p Path) (*router, error) {
	if p.Domain != 0 || p.Bus != 0 {
		return nil, missing(p.String(), ErrInterrupt, "it is not below the machine's first root bus")
	}
	switch {
	case m.byType("PIIX3", 0) != nil:
		return m.piix3(m.byType("PIIX3", 0))
	case m.byType("ICH9LPC", 0) != nil:
		return m.ich9(m.byType("ICH9LPC", 0))
	}
	return nil, missing(p.String(), ErrInterrupt, "neither a PIIX3 nor an ICH9 in this machine")
}

// counts returns irq_count of the root bus, which must have n inputs. Buses
// behind bridges have a PCIBUS section too, with no inputs.
func (m *machine) counts(n int) ([]byte, error) {
	for _, d := range m.devices {
		if d.vmsd != "PCIBUS" {
			continue
		}
		if b, ok := d.find("irq_count"); ok && len(b) == 4*n {
			return b, nil
		}
	}
	return nil, missing("PCIBUS", ErrInterrupt, "no bus with %d interrupt inputs", n)
}

// pciConfig returns the first 256 bytes of the configuration space of a device
// whose state QEMU describes in full.
func (d *device) pciConfig() ([]byte, error) {
	for _, s := range d.spans {
		if s.Type == "pci config" && len(s.data) >= 256 {
			return s.data[:256], nil
		}
	}
	return nil, d.unknown("its state has no configuration space")
}

// piix3 is the router of the i440FX machines: four inputs, rotated by slot
// (pci_slot_get_pirq in hw/pci-host/i440fx.c), each routed to one of the 16 ISA
// interrupts by a byte from 0x60 of the PIIX3's configuration space, 0x80 for
// none (hw/isa/piix3.c).
func (m *machine) piix3(d *device) (*router, error) {
	const inputs, pirqRoute = 4, 0x60
	config, err := d.pciConfig()
	if err != nil {
		return nil, err
	}
	counts, err := m.counts(inputs)
	if err != nil {
		return nil, err
	}
	r := &router{counts: counts}
	r.route = func(slot, pin int) int { return (slot + pin + inputs - 1) % inputs }
	r.gsis = func(pirq int) []int {
		if irq := int(config[pirqRoute+pirq]); irq < 16 {
			return []int{irq}
		}
		return nil
	}
	r.level = func(gsi int) bool {
		for pirq := range inputs {
			if int(config[pirqRoute+pirq]) == gsi && r.asserted(pirq) {
				return true
			}
		}
		return false
	}
	return r, nil
}

// ich9 is the router of the q35 machines: eight inputs, A to H (hw/isa/lpc_ich9.c).
// Each is wired to its own I/O APIC input, 16 to 23, and unless disabled to
// one of the ISA interrupts too. The ACPI interrupt, SCI, shares one of either.
func (m *machine) ich9(d *device) (*router, error) {
	const (
		inputs          = 8
		apicBase        = 16
		acpiControl     = 0x44
		routeA, routeE  = 0x60, 0x68
		routeDisabled   = 0x80
		routeMask       = 0x0f
		chipConfigBytes = 16 << 10
	)
	config, err := d.pciConfig()
	if err != nil {
		return nil, err
	}
	counts, err := m.counts(inputs)
	if err != nil {
		return nil, err
	}
	chip, ok := d.find("chip_config")
	sci, ok2 := d.find("sci_level")
	if !ok || !ok2 || len(chip) != chipConfigBytes || len(sci) != 4 {
		return nil, d.unknown("its state has no chip_config or no sci_level")
	}
	r := &router{counts: counts}
	r.route = func(slot, pin int) int { return ich9Route(chip, slot, pin) }
	isa := func(pirq int) (int, bool) {
		reg := config[routeA+pirq%4]
		if pirq >= 4 {
			reg = config[routeE+pirq%4]
		}
		return int(reg & routeMask), reg&routeDisabled == 0
	}
	r.gsis = func(pirq int) []int {
		gsis := []int{apicBase + pirq}
		if irq, on := isa(pirq); on {
			gsis = append(gsis, irq)
		}
		return gsis
	}
	sciGSI := map[byte]int{0: 9, 1: 10, 2: 11, 4: 20, 5: 21}
	r.level = func(gsi int) bool {
		if at, ok := sciGSI[config[acpiControl]&7]; ok && at == gsi && binary.BigEndian.Uint32(sci) != 0 {
			return true
		}
		if gsi >= apicBase {
			return r.asserted(gsi - apicBase)
		}
		for pirq := range inputs {
			if irq, on := isa(pirq); on && irq == gsi && r.asserted(pirq) {
				return true
			}
		}
		return false
	}
	return r, nil
}

// ich9Route is ich9_lpc_map_irq: slots 0 to 24 have fixed routes to E to H,
// slot 30 is the bridge to conventional PCI, and those of slots 25 to 31 are in
// registers D25IR to D31IR of the chip configuration (ICH9 datasheet, 10.1),
// little-endian, four bits for each pin.
func ich9Route(chip []byte, slot, pin int) int {
	registers := map[int]int{25: 0x3150, 26: 0x314c, 27: 0x3148, 28: 0x3146, 29: 0x3144, 31: 0x3140}
	if slot == 30 {
		return 4 + pin
	}
	if at, ok := registers[slot]; ok {
		return int(binary.LittleEndian.Uint16(chip[at:])>>(4*pin)) & 7
	}
	return 4 + (slot+pin)%4
}
