// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A device is one whole section of device state.
type device struct {
	id       uint32
	name     string
	instance uint32
	vmsd     string

	offset int64  // of the section in the stream
	raw    []byte // from the type byte to the end of the footer
	spans  []span // aliases raw
	drop   bool
}

// find returns the data of the first field with that name, subsections
// included.
func (d *device) find(name string) ([]byte, bool) {
	for _, s := range d.spans {
		if s.Name == name {
			return s.data, true
		}
	}
	return nil, false
}

// machine is the device state of a whole machine.
type machine struct {
	devices     []*device
	description *description
}

// fail locates err at the device.
func (d *device) fail(err error) error {
	return &Error{Offset: d.offset, Section: d.name, Err: err}
}

// unknown is the error of a device whose state is not what the repair of
// interrupt lines knows.
func (d *device) unknown(format string, args ...any) error {
	return d.fail(fmt.Errorf("%w: "+format, append([]any{ErrInterrupt}, args...)...))
}

// parseMachine takes buffered device state apart. base is the offset in the
// stream at which buf starts.
func parseMachine(buf []byte, base int64) (*machine, error) {
	end, text, err := splitDescription(buf)
	if err != nil {
		return nil, &Error{Offset: base + int64(len(buf)), Err: err}
	}
	desc, err := parseDescription(text, end/minSection)
	if err != nil {
		return nil, &Error{Offset: base + int64(end) + 6, Section: "description", Err: malformed("%w", err)}
	}
	m := &machine{description: desc}
	pos := 0
	for pos < end {
		if len(m.devices) == len(desc.devices) {
			return nil, &Error{Offset: base + int64(pos), Err: malformed("section type %#02x, but the description has no more devices", buf[pos])}
		}
		d, n, err := parseDevice(buf[pos:end], &desc.devices[len(m.devices)])
		if err != nil {
			return nil, &Error{Offset: base + int64(pos+n), Section: d.name, Err: err}
		}
		d.offset = base + int64(pos)
		m.devices = append(m.devices, d)
		pos += n
	}
	if len(m.devices) < len(desc.devices) {
		missing := desc.devices[len(m.devices)].Name
		return nil, &Error{Offset: base + int64(pos), Err: malformed("device %q is described but not there", missing)}
	}
	return m, nil
}

// splitDescription finds the end mark and the description behind it. Only the
// end of the stream tells where that is: the description is text without
// control bytes, so the last zero byte belongs to its length, a number below
// 2^24, or is the end mark in front of it.
func splitDescription(buf []byte) (end int, text []byte, err error) {
	last := bytes.LastIndexByte(buf, 0)
	for end := max(last-5, 0); end <= last; end++ {
		rest := buf[end:]
		if len(rest) < 6 || rest[0] != typeEOF || rest[1] != typeVMDescription {
			continue
		}
		if text := rest[6:]; binary.BigEndian.Uint32(rest[2:]) == uint32(len(text)) {
			return end, text, nil
		}
	}
	return 0, nil, malformed("no description at the end: the source stopped early or runs with suppress-vmdesc")
}

// parseDevice reads one section at the start of buf, by its description. It
// returns how far it came.
func parseDevice(buf []byte, desc *object) (*device, int, error) {
	d := &device{name: desc.Name, vmsd: desc.VMSDName}
	if buf[0] != typeSectionFull {
		return d, 0, malformed("section type %#02x where a device was expected", buf[0])
	}
	pos := 1
	next := func(n int) []byte {
		if n > len(buf)-pos {
			return nil
		}
		pos += n
		return buf[pos-n : pos]
	}
	head := next(5)
	if head == nil {
		return d, pos, malformed("section header cut short")
	}
	d.id = binary.BigEndian.Uint32(head)
	name := next(int(head[4]))
	tail := next(8)
	if name == nil || tail == nil {
		return d, pos, malformed("section header cut short")
	}
	d.instance = binary.BigEndian.Uint32(tail)
	if string(name) != desc.Name || d.instance != desc.InstanceID {
		return d, pos, malformed("section %q instance %d, described as %q instance %d",
			name, d.instance, desc.Name, desc.InstanceID)
	}
	spans, n, err := desc.layout(buf[pos:])
	pos += n
	if err != nil {
		return d, pos, err
	}
	d.spans = spans
	foot := next(5)
	if foot == nil || foot[0] != typeFooter || binary.BigEndian.Uint32(foot[1:]) != d.id {
		return d, pos, malformed("%d bytes of data as described do not end in the section's footer", n)
	}
	d.raw = buf[:pos]
	return d, pos, nil
}

// drop marks the sections that belong to the given devices.
func (m *machine) drop(paths []Path) error {
	for _, p := range paths {
		found := false
		for _, d := range m.devices {
			if p.owns(d.name) {
				d.drop, found = true, true
			}
		}
		if !found {
			return &Error{Offset: -1, Section: p.String(), Err: ErrNoSection}
		}
	}
	return nil
}

// byType returns the device with the given state description and instance, or nil.
func (m *machine) byType(vmsd string, instance uint32) *device {
	for _, d := range m.devices {
		if d.vmsd == vmsd && d.instance == instance {
			return d
		}
	}
	return nil
}
