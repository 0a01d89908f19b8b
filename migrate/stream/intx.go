// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"encoding/binary"
	"fmt"
)

// A Line is an interrupt line that a dropped device held when the source was
// stopped.
type Line struct {
	Device string // path of the device
	Pin    string // "INTA" to "INTD"
	PIRQ   int    // input of the machine's interrupt router, from 0

	// GSIs are the inputs of the I/O APIC, those below 16 also of the
	// i8259s, which were lowered. One that another device holds too is not
	// among them.
	GSIs []int
}

func (l Line) String() string {
	return fmt.Sprintf("%s %s (PIRQ %c, GSI %v)", l.Device, l.Pin, 'A'+l.PIRQ, l.GSIs)
}

// releaseLines lowers every interrupt line that a dropped device holds.
//
// In QEMU (hw/pci/pci.c) a device that changes its pin changes irq_count of the
// root bus at the router input it is wired to, and the router sets the level of
// one or two global interrupts to "irq_count of any input routed here is not
// zero". All of it is in the stream: the pins in the device, irq_count in
// PCIBUS, the routes in the south bridge, what the interrupt controllers have
// latched in ioapic and i8259.
func (m *machine) releaseLines(paths []Path) ([]Line, error) {
	var lines []Line
	for _, p := range paths {
		pins, err := m.pins(p)
		if err != nil {
			return nil, err
		}
		for pin, asserted := range pins {
			if asserted {
				line, err := m.uncount(p, pin)
				if err != nil {
					return nil, err
				}
				lines = append(lines, line)
			}
		}
	}
	// Levels are looked at when all counts are right: two dropped devices may
	// share a line.
	for i := range lines {
		if err := m.settle(&lines[i]); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// pins tells which of INTA to INTD the device at p asserts.
func (m *machine) pins(p Path) (pins [4]bool, err error) {
	for _, d := range m.devices {
		if !p.owns(d.name) {
			continue
		}
		state, ok := d.irqState()
		if !ok {
			continue
		}
		for pin := range pins {
			switch v := binary.BigEndian.Uint32(state[4*pin:]); v {
			case 0:
			case 1:
				pins[pin] = true
			default:
				return pins, d.fail(malformed("level %d of interrupt pin %d", v, pin))
			}
		}
		return pins, nil
	}
	return pins, missing(p.String(), ErrInterrupt, "its state holds no known PCI device")
}

// irqState returns the four u32 pin levels of a PCI device's state.
func (d *device) irqState() ([]byte, bool) {
	for _, s := range d.spans {
		switch {
		case s.Type == "pci irq state" && len(s.data) == 16:
			return s.data, true
		case s.Type == "virtio":
			return virtioIRQState(s.data)
		}
	}
	return nil, false
}

// virtioIRQState finds the pins in the state of a virtio device, which QEMU
// describes as one lump. It starts with vmstate_pci_device (virtio_save in
// hw/virtio/virtio.c calls virtio_pci_save_config first): i32 version,
// configuration space, pins. The space is 4096 bytes if the device has a PCI
// Express capability, else 256 (pci_config_size in hw/pci/pci.h).
func virtioIRQState(data []byte) ([]byte, bool) {
	const head, conventional, express, pins = 4, 256, 4096, 16
	if len(data) < head+conventional+pins {
		return nil, false
	}
	size := conventional
	if hasCapability(data[head:head+conventional], 0x10) {
		size = express
	}
	if len(data) < head+size+pins {
		return nil, false
	}
	return data[head+size:][:pins], true
}

// hasCapability walks the capability list of 256 bytes of configuration space
// (PCI Local Bus 3.0, 6.7). The list of a guest-written space may be a circle.
func hasCapability(config []byte, id byte) bool {
	const status, statusList, first = 0x06, 0x10, 0x34
	if config[status]&statusList == 0 {
		return false
	}
	at := config[first] &^ 3
	for range 48 {
		if at < 0x40 {
			return false
		}
		if config[at] == id {
			return true
		}
		at = config[at+1] &^ 3
	}
	return false
}

// uncount takes one assertion out of irq_count.
func (m *machine) uncount(p Path, pin int) (Line, error) {
	line := Line{Device: p.String(), Pin: "INT" + string(rune('A'+pin))}
	r, err := m.router(p)
	if err != nil {
		return line, err
	}
	// Behind a bridge the pins are rotated by the slot, once for each bus
	// (pci_swizzle in hw/pci/pci.c, after the PCI-to-PCI bridge specification).
	for i := len(p.Slots) - 1; i > 0; i-- {
		pin = (pin + int(p.Slots[i].Device)) % 4
	}
	line.PIRQ = r.route(int(p.Slots[0].Device), pin)
	count := r.counts[4*line.PIRQ:]
	n := binary.BigEndian.Uint32(count)
	if n == 0 || n > 1<<16 {
		return line, missing("PCIBUS", ErrMalformed, "%s is asserted, but irq_count is %d", line, int32(n))
	}
	binary.BigEndian.PutUint32(count, n-1)
	return line, nil
}

// settle lowers the global interrupts of a line which nothing holds any more.
func (m *machine) settle(line *Line) error {
	p, err := ParsePath(line.Device)
	if err != nil {
		return err
	}
	r, err := m.router(p)
	if err != nil {
		return err
	}
	for _, gsi := range r.gsis(line.PIRQ) {
		if r.level(gsi) {
			continue
		}
		if err := m.lower(gsi); err != nil {
			return err
		}
		line.GSIs = append(line.GSIs, gsi)
	}
	return nil
}

// lower does to the stored state of the interrupt controllers what
// gsi_handler(gsi, 0) in hw/i386/x86.c does to living ones.
func (m *machine) lower(gsi int) error {
	apic, pics := m.byType("ioapic", 0), [2]*device{m.byType("i8259", 0), m.byType("i8259", 1)}
	if apic == nil && pics[0] == nil {
		return missing("ioapic", ErrInterrupt, "no interrupt controller in the stream")
	}
	if apic != nil {
		if err := lowerAPIC(apic, gsi); err != nil {
			return err
		}
	}
	if gsi < 16 && pics[0] != nil {
		return lowerPIC(pics, gsi)
	}
	return nil
}

// lowerAPIC: a level-triggered input follows its wire, an edge that was latched
// stays latched (ioapic_set_irq in hw/intc/ioapic.c). The remote IRR bit of the
// table stays too: the guest's end-of-interrupt clears it.
func lowerAPIC(d *device, gsi int) error {
	const triggerLevel = 1 << 15
	irr, ok := d.find("irr")
	table, ok2 := d.find("ioredtbl")
	input := gsi
	if gsi == 0 {
		input = 2
	}
	if !ok || !ok2 || len(irr) != 4 || len(table) < 8*(input+1) {
		return d.unknown("its state has no irr or no input %d", input)
	}
	if binary.BigEndian.Uint64(table[8*input:])&triggerLevel != 0 {
		v := binary.BigEndian.Uint32(irr)
		binary.BigEndian.PutUint32(irr, v&^(1<<input))
	}
	return nil
}

// lowerPIC: as pic_set_irq in hw/intc/i8259.c. If the slave has nothing more to
// say, its wire to the master's input 2 falls as well; the edge which the master
// may have latched of it is forgotten too, because it could only become a
// spurious interrupt 15.
func lowerPIC(pics [2]*device, gsi int) error {
	const cascade = 1 << 2
	var regs [2]picRegisters
	for i, d := range pics {
		var err error
		if regs[i], err = picOf(d); err != nil {
			return err
		}
	}
	pic, mask := regs[gsi/8], byte(1)<<(gsi%8)
	if pic.level(mask) {
		*pic.irr &^= mask
	}
	*pic.lastIRR &^= mask
	if master, slave := regs[0], regs[1]; gsi >= 8 && *slave.irr&^*slave.imr == 0 {
		*master.irr &^= cascade
		*master.lastIRR &^= cascade
	}
	return nil
}

// picRegisters points into the state of one i8259.
type picRegisters struct {
	lastIRR, irr, imr, elcr *byte

	// ltim switches all inputs to level; saved only when it is set.
	ltim bool
}

func (r picRegisters) level(mask byte) bool { return r.ltim || *r.elcr&mask != 0 }

func picOf(d *device) (picRegisters, error) {
	var r picRegisters
	if d == nil {
		return r, missing("i8259", ErrInterrupt, "only one of two i8259 in the stream")
	}
	for name, at := range map[string]**byte{"last_irr": &r.lastIRR, "irr": &r.irr, "imr": &r.imr, "elcr": &r.elcr} {
		b, ok := d.find(name)
		if !ok || len(b) != 1 {
			return r, d.unknown("its state has no %s", name)
		}
		*at = &b[0]
	}
	if b, ok := d.find("ltim"); ok && len(b) == 1 {
		r.ltim = b[0] != 0
	}
	return r, nil
}
