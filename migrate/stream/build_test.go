// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package stream

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// builder puts streams together that are valid unless a test breaks them.
type builder struct {
	bytes.Buffer
	described []map[string]any
}

func newStream() *builder {
	b := &builder{}
	b.u32(magic).u32(version)
	return b
}

func (b *builder) u8(v ...byte) *builder { b.Write(v); return b }
func (b *builder) u32(v uint32) *builder {
	b.Write(binary.BigEndian.AppendUint32(nil, v))
	return b
}
func (b *builder) u64(v uint64) *builder {
	b.Write(binary.BigEndian.AppendUint64(nil, v))
	return b
}
func (b *builder) name(s string) *builder {
	b.u8(byte(len(s)))
	b.WriteString(s)
	return b
}

func (b *builder) configuration(machine string) *builder {
	b.u8(typeConfiguration).u32(uint32(len(machine)))
	b.WriteString(machine)
	return b
}

const ramID = 2

func (b *builder) ramStart() *builder {
	return b.u8(typeSectionStart).u32(ramID).name("ram").u32(0).u32(ramVersion)
}
func (b *builder) ramPart(kind byte) *builder { return b.u8(kind).u32(ramID) }
func (b *builder) eos() *builder              { return b.u64(ramFlagEOS).u8(typeFooter).u32(ramID) }

type blockSize struct {
	name string
	size uint64
}

func (b *builder) blocks(list ...blockSize) *builder {
	var total uint64
	for _, l := range list {
		total += l.size
	}
	b.u64(total | ramFlagMemSize)
	for _, l := range list {
		b.name(l.name).u64(l.size)
	}
	return b
}

func (b *builder) page(block string, addr uint64, fill byte) *builder {
	b.pageHeader(block, addr, ramFlagPage)
	b.Write(bytes.Repeat([]byte{fill}, pageSize))
	return b
}

func (b *builder) zero(block string, addr uint64) *builder {
	return b.pageHeader(block, addr, ramFlagZero).u8(0)
}

// pageHeader with no block continues the block before.
func (b *builder) pageHeader(block string, addr, flags uint64) *builder {
	if block == "" {
		return b.u64(addr | flags | ramFlagContinue)
	}
	return b.u64(addr | flags).name(block)
}

// fieldOf is a field of a device's description with its data.
type fieldOf struct {
	name string
	typ  string
	data []byte
	len  int // of an array; 0 for a single field
}

func (f fieldOf) describe() map[string]any {
	d := map[string]any{"name": f.name, "type": f.typ, "size": len(f.data)}
	if f.len > 0 {
		d["size"] = len(f.data) / f.len
		d["array_len"] = f.len
	}
	return d
}

func (b *builder) device(id uint32, name, vmsd string, instance uint32, fields ...fieldOf) *builder {
	b.u8(typeSectionFull).u32(id).name(name).u32(instance).u32(1)
	list := []any{}
	for _, f := range fields {
		b.Write(f.data)
		list = append(list, f.describe())
	}
	b.u8(typeFooter).u32(id)
	b.described = append(b.described, map[string]any{
		"name": name, "instance_id": instance, "vmsd_name": vmsd, "version": 1, "fields": list,
	})
	return b
}

func (b *builder) end() []byte {
	text, err := json.Marshal(map[string]any{"page_size": pageSize, "devices": b.described})
	if err != nil {
		panic(err)
	}
	b.u8(typeEOF, typeVMDescription).u32(uint32(len(text)))
	b.Write(text)
	return b.Bytes()
}

// pciFields describe a PCI device with the given pins asserted.
func pciFields(pins ...int) []fieldOf {
	config, irq := make([]byte, 256), make([]byte, 16)
	for _, p := range pins {
		irq[4*p+3] = 1
	}
	return []fieldOf{
		{name: "version_id", typ: "int32 le", data: []byte{2, 0, 0, 0}},
		{name: "config[0]", typ: "pci config", data: config},
		{name: "irq_state", typ: "pci irq state", data: irq},
	}
}

// small is a complete little stream with a NIC in slot 2 and one in slot 3.
func small() []byte {
	b := newStream().configuration("pc-test")
	b.ramStart().blocks(blockSize{"pc.ram", 0x4000}, blockSize{"0000:00:02.0/nic.rom", 0x1000}).eos()
	b.ramPart(typeSectionPart).zero("pc.ram", 0).page("", 0x1000, 7).eos()
	b.ramPart(typeSectionEnd).page("0000:00:02.0/nic.rom", 0, 8).page("pc.ram", 0x2000, 9).eos()
	b.device(3, "timer", "timer", 0, fieldOf{name: "ticks", typ: "int64", data: make([]byte, 8)})
	b.device(4, "0000:00:02.0/nic", "nic", 0, pciFields()...)
	b.device(5, "0000:00:03.0/nic", "nic", 0, pciFields()...)
	return b.end()
}

var slot2 = Path{Slots: []Slot{{Device: 2}}}

// captured returns the streams of testdata by name.
func captured(t testing.TB) map[string][]byte {
	files, err := filepath.Glob(filepath.Join("testdata", "*.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured streams: %v", err)
	}
	streams := make(map[string][]byte)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		streams[strings.TrimSuffix(filepath.Base(name), ".gz")] = b
	}
	return streams
}
