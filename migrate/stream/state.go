// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// deviceState keeps the rest of the stream back, validates all of it, and passes
// it on without the dropped devices.
func (r *relay) deviceState() error {
	start, base := time.Now(), r.read
	if r.opts.DeviceState != nil {
		r.opts.DeviceState()
	}
	buf, err := r.rest()
	if err != nil {
		return err
	}
	m, err := parseMachine(buf, base)
	if err != nil {
		return err
	}
	if err := m.drop(r.opts.Drop); err != nil {
		return err
	}
	if !r.opts.KeepLines {
		if r.report.Lines, err = m.releaseLines(r.opts.Drop); err != nil {
			return err
		}
	}
	text, err := m.description.without(func(i int) bool { return m.devices[i].drop })
	if err != nil {
		return err
	}
	for _, d := range m.devices {
		s := Section{Name: d.name, Instance: d.instance, Bytes: len(d.raw)}
		if d.drop {
			r.report.Dropped = append(r.report.Dropped, s)
			continue
		}
		r.report.Kept = append(r.report.Kept, s)
		if err := r.put(d.raw); err != nil {
			return err
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	if r.opts.Commit != nil {
		if err := r.opts.Commit(); err != nil {
			return err
		}
	}
	if err := r.end(text); err != nil {
		return fmt.Errorf("%w: %w", ErrEndMark, err)
	}
	r.report.Stats = r.stats()
	r.report.DroppedRAM = r.ram.dropped()
	r.report.Held = time.Since(start)
	return nil
}

// rest reads until the source closes the stream, which it does when it has
// nothing more to say: QEMU has then left the state in which it could go on by
// itself.
func (r *relay) rest() ([]byte, error) {
	buf, err := io.ReadAll(io.LimitReader(r.src, int64(r.opts.MaxDeviceState)+1))
	r.read += int64(len(buf))
	if err != nil {
		return nil, r.fail(readError(err))
	}
	if len(buf) > r.opts.MaxDeviceState {
		return nil, r.fail(fmt.Errorf("%w: more than %d bytes", ErrTooLarge, r.opts.MaxDeviceState))
	}
	return buf, nil
}

// end writes the end mark and the description.
func (r *relay) end(text []byte) error {
	return errors.Join(
		r.put8(typeEOF),
		r.put8(typeVMDescription),
		r.put32(uint32(len(text))),
		r.put(text),
		r.flush(),
	)
}
