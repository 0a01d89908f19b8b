// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"errors"
	"io"
	"time"
)

// Options say what a relay does. The zero value passes a stream unchanged.
type Options struct {
	// Drop are the devices whose state is left out, with everything whose
	// name starts with their path: their sections and their RAM blocks
	// (option ROMs).
	Drop []Path

	// MaxDeviceState bounds the buffered device state in bytes;
	// DefaultMaxDeviceState if 0.
	MaxDeviceState int

	// KeepLines leaves the interrupt lines of dropped devices as they are.
	// A guest that was stopped while one was asserted then drowns in
	// interrupts: it exists so that a test can show what the repair is for.
	KeepLines bool

	// Progress, if not nil, is called after each RAM section.
	Progress func(Stats)

	// DeviceState, if not nil, is called when the last RAM has passed and
	// device state begins to be kept back.
	DeviceState func()

	// Commit, if not nil, is called when all of the stream was validated
	// and everything but the end mark has been written. The end mark is sent
	// only if it returns nil. A destination that has not seen the end mark
	// never starts the guest.
	Commit func() error
}

// Stats count what has passed so far.
type Stats struct {
	Pages     int64 // RAM pages with content
	ZeroPages int64 // RAM pages announced as filled with zero
	Bytes     int64 // read from the source
	Forwarded int64 // handed to the destination
}

// A Section is the state of one device.
type Section struct {
	Name     string // QEMU's idstr, as in "0000:00:02.0/e1000"
	Instance uint32
	Bytes    int // with header and footer
}

// A Report says what a relay did.
type Report struct {
	Stats

	Machine string // machine type, as in "pc-i440fx-7.2"
	Kept    []Section
	Dropped []Section

	// DroppedRAM names the RAM blocks left out.
	DroppedRAM []string

	// Lines are the interrupt lines that were lowered on behalf of dropped
	// devices.
	Lines []Line

	// Held is how long device state was kept back: from the first byte of
	// it to the end mark.
	Held time.Duration
}

// Relay reads one migration stream from src until its end and writes it to dst
// as Options say. It neither closes src nor dst; to stop it, close both.
//
// Errors are an *Error around one of this package's sentinels, or what
// Options.Commit returned. On error the end mark was not written, so that the
// destination cannot start the guest; only an error that matches ErrEndMark
// leaves that open.
func Relay(dst io.Writer, src io.Reader, opts Options) (*Report, error) {
	r := relay{pipe: newPipe(dst, src), opts: opts}
	if r.opts.MaxDeviceState == 0 {
		r.opts.MaxDeviceState = DefaultMaxDeviceState
	}
	for _, step := range []func() error{r.header, r.sections, r.deviceState} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return &r.report, nil
}

type relay struct {
	*pipe
	opts   Options
	ram    ram
	report Report
}

func (r *relay) stats() Stats {
	s := r.report.Stats
	s.Bytes, s.Forwarded = r.read, r.written
	return s
}

func (r *relay) header() error {
	for _, want := range []struct {
		name  string
		value uint32
	}{{"magic", magic}, {"version", version}} {
		v, err := r.u32()
		if err != nil {
			return err
		}
		if v != want.value {
			return r.fail(malformed("%s %#x, want %#x", want.name, v, want.value))
		}
		if err := r.put32(v); err != nil {
			return err
		}
	}
	return nil
}

// sections passes everything up to the first device's state.
func (r *relay) sections() error {
	for {
		kind, err := r.peek()
		if err != nil {
			return err
		}
		switch kind {
		case typeConfiguration:
			err = r.configuration()
		case typeSectionStart, typeSectionPart, typeSectionEnd:
			err = r.iterative()
		case typeCommand:
			err = r.command()
		case typeSectionFull, typeEOF:
			if !r.ram.ended {
				return r.fail(malformed("device state before the end of RAM"))
			}
			return r.flush()
		default:
			return r.fail(malformed("section type %#02x", kind))
		}
		if err != nil {
			return err
		}
		r.section = ""
	}
}

// configuration passes the machine type and the subsections which a source may
// add to it (vmstate_configuration in migration/savevm.c).
func (r *relay) configuration() error {
	r.section = "configuration"
	if r.ram.started || r.report.Machine != "" {
		return r.fail(malformed("configuration is not the first section"))
	}
	if err := r.copy(1); err != nil {
		return err
	}
	n, err := r.u32()
	if err != nil {
		return err
	}
	if n == 0 || n > maxMachineName {
		return r.fail(malformed("machine type of %d bytes", n))
	}
	name, err := r.take(int(n))
	if err != nil {
		return err
	}
	r.report.Machine = string(name)
	if err := r.put32(n); err != nil {
		return err
	}
	if err := r.put([]byte(r.report.Machine)); err != nil {
		return err
	}
	for {
		kind, err := r.peek()
		if err != nil || kind != typeSubsection {
			return err
		}
		if err := r.configurationSubsection(); err != nil {
			return err
		}
	}
}

func (r *relay) configurationSubsection() error {
	if err := r.copy(1); err != nil {
		return err
	}
	name, err := r.name()
	if err != nil {
		return err
	}
	if err := r.putName(name); err != nil {
		return err
	}
	if err := r.copy(4); err != nil { // version
		return err
	}
	switch name {
	case "configuration/uuid":
		return r.copy(16)
	case "configuration/capabilities":
		// Only capabilities that change the stream are listed, and
		// only when they are on (should_validate_capability).
		n, err := r.u32()
		if err != nil {
			return err
		}
		if n > maxCapabilities {
			return r.fail(malformed("%d capabilities", n))
		}
		if n > 0 {
			cap, err := r.name()
			if err != nil {
				return err
			}
			return r.fail(unsupported("capability %s", cap))
		}
		return r.put32(n)
	}
	return r.fail(unsupported("subsection %q", name))
}

// iterative passes one start, part or end of the section "ram".
func (r *relay) iterative() error {
	kind, err := r.u8()
	if err != nil {
		return err
	}
	id, err := r.u32()
	if err != nil {
		return err
	}
	r.section = "ram"
	if err := r.ram.check(kind, id); err != nil {
		return r.fail(err)
	}
	if err := errors.Join(r.put8(kind), r.put32(id)); err != nil {
		return err
	}
	if kind == typeSectionStart {
		if err := r.startRAM(id); err != nil {
			return err
		}
	}
	if err := r.ram.section(r.pipe, r.opts.Drop, &r.report.Stats); err != nil {
		return err
	}
	if err := r.footer(id); err != nil {
		return err
	}
	r.ram.ended = kind == typeSectionEnd
	if err := r.flush(); err != nil {
		return err
	}
	if r.opts.Progress != nil {
		r.opts.Progress(r.stats())
	}
	return nil
}

func (r *relay) startRAM(id uint32) error {
	name, err := r.name()
	if err != nil {
		return err
	}
	if r.section = name; name != "ram" {
		return r.fail(unsupported("iterative section"))
	}
	instance, err := r.u32()
	if err != nil {
		return err
	}
	v, err := r.u32()
	if err != nil {
		return err
	}
	if instance != 0 || v != ramVersion {
		return r.fail(unsupported("instance %d version %d", instance, v))
	}
	r.ram.id, r.ram.started = id, true
	return errors.Join(r.putName(name), r.put32(instance), r.put32(v))
}

func (r *relay) footer(id uint32) error {
	kind, err := r.u8()
	if err != nil {
		return err
	}
	got, err := r.u32()
	if err != nil {
		return err
	}
	if kind != typeFooter || got != id {
		return r.fail(malformed("no footer of section %d but %#02x, %d", id, kind, got))
	}
	return errors.Join(r.put8(kind), r.put32(id))
}

func (r *relay) command() error {
	r.section = "command"
	if _, err := r.u8(); err != nil {
		return err
	}
	b, err := r.take(2)
	if err != nil {
		return err
	}
	cmd := uint16(b[0])<<8 | uint16(b[1])
	name, ok := commandNames[cmd]
	if !ok {
		name = "unknown"
	}
	return r.fail(unsupported("command %d, %s", cmd, name))
}

// copy passes n ≤ pageSize bytes.
func (r *relay) copy(n int) error {
	b, err := r.take(n)
	if err != nil {
		return err
	}
	return r.put(b)
}
