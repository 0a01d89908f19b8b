// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// An object describes a device or a struct within one, as vmstate_save_state_v
// in QEMU's migration/vmstate.c writes it down while it saves.
type object struct {
	Name        string   `json:"name"`
	InstanceID  uint32   `json:"instance_id"`
	VMSDName    string   `json:"vmsd_name"`
	Version     uint32   `json:"version"`
	Fields      []field  `json:"fields"`
	Subsections []object `json:"subsections"`
}

// A field is a member of an object. An array whose elements are all alike is
// one field with a length; any other array has a field for each element.
type field struct {
	Name     string  `json:"name"`
	Type     string  `json:"type"`
	Size     uint64  `json:"size"` // bytes of one element
	ArrayLen *uint64 `json:"array_len"`
	Struct   *object `json:"struct"`
}

// A span is a field with the place it has in the data of a device.
type span struct {
	*field
	data []byte
}

// errSize: what the description says does not fit the bytes.
var errSize = errors.New("description does not fit the data")

// layout finds the place of every field of a device in data, which may be longer
// than the device. It returns the fields in order, structs taken apart, and the
// number of bytes that the device occupies. Of an array of structs only the
// first element is taken apart.
func (o *object) layout(data []byte) ([]span, int, error) {
	l := layouter{data: data}
	if err := l.object(o); err != nil {
		return nil, l.pos, err
	}
	return l.spans, l.pos, nil
}

type layouter struct {
	data  []byte
	pos   int
	spans []span
}

func (l *layouter) object(o *object) error {
	for i := range o.Fields {
		if err := l.field(&o.Fields[i]); err != nil {
			return err
		}
	}
	for i := range o.Subsections {
		if err := l.subsection(&o.Subsections[i]); err != nil {
			return err
		}
	}
	return nil
}

func (l *layouter) field(f *field) error {
	count := uint64(1)
	if f.ArrayLen != nil {
		count = *f.ArrayLen
	}
	left := uint64(len(l.data) - l.pos)
	if f.Size != 0 && count > left/f.Size {
		return malformed("field %q of %d*%d bytes where %d are left: %w", f.Name, count, f.Size, left, errSize)
	}
	start := l.pos
	end := start + int(count*f.Size)
	if f.Struct == nil {
		l.spans = append(l.spans, span{f, l.data[start:end]})
		l.pos = end
		return nil
	}
	if count == 0 {
		return nil
	}
	if err := l.object(f.Struct); err != nil {
		return err
	}
	if got := uint64(l.pos - start); got != f.Size {
		return malformed("struct %q is %d bytes, its fields %d: %w", f.Name, f.Size, got, errSize)
	}
	l.pos = end
	return nil
}

// subsection checks and passes the header which, unlike a field, says in the
// data what it is: type, name, u32 version.
func (l *layouter) subsection(o *object) error {
	want := []byte{typeSubsection, byte(len(o.VMSDName))}
	want = append(want, o.VMSDName...)
	want = binary.BigEndian.AppendUint32(want, o.Version)
	if len(o.VMSDName) > 255 || !bytes.HasPrefix(l.data[l.pos:], want) {
		return malformed("no subsection %q: %w", o.VMSDName, errSize)
	}
	l.pos += len(want)
	return l.object(o)
}

// A description is the JSON at the end of a stream.
type description struct {
	text    []byte
	members map[string]json.RawMessage
	raw     []json.RawMessage // one per device, as it came
	devices []object
}

const memberDevices = "devices"

// parseDescription reads the text. maxDevices is how many devices there can be:
// an array of nothing would take many times the memory of its text.
func parseDescription(text []byte, maxDevices int) (*description, error) {
	d := description{text: text}
	if len(text) > maxDescription {
		return nil, fmt.Errorf("%d bytes, at most %d are plausible", len(text), maxDescription)
	}
	if err := json.Unmarshal(text, &d.members); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(d.members[memberDevices], &d.raw); err != nil {
		return nil, err
	}
	if len(d.raw) > maxDevices {
		return nil, fmt.Errorf("%d devices, at most %d fit", len(d.raw), maxDevices)
	}
	d.devices = make([]object, len(d.raw))
	for i, raw := range d.raw {
		if err := json.Unmarshal(raw, &d.devices[i]); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

// without returns the text of the description with the devices left out for
// which drop is true; the very text that came, if that is none.
func (d *description) without(drop func(i int) bool) ([]byte, error) {
	kept := make([]json.RawMessage, 0, len(d.raw))
	for i, raw := range d.raw {
		if !drop(i) {
			kept = append(kept, raw)
		}
	}
	if len(kept) == len(d.raw) {
		return d.text, nil
	}
	list, err := marshal(kept)
	if err != nil {
		return nil, err
	}
	members := maps.Clone(d.members)
	members[memberDevices] = list
	return marshal(members)
}

// marshal is json.Marshal, but leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
