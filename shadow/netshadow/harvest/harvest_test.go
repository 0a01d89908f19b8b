// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/netshadow/harvest/frame"
)

// record returns a perf record as the kernel delivers it.
func record(length, pull uint32, data []byte, padding int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, 77)
	b = binary.LittleEndian.AppendUint32(b, length)
	b = binary.LittleEndian.AppendUint32(b, pull)
	b = binary.LittleEndian.AppendUint32(b, 1<<17)
	b = binary.LittleEndian.AppendUint32(b, 6)
	b = binary.LittleEndian.AppendUint16(b, 1448)
	b = binary.LittleEndian.AppendUint16(b, 36)
	b = binary.LittleEndian.AppendUint16(b, 16)
	b = append(b, 0x81, 0x00) // tag protocol, big endian as in skb->vlan_proto
	b = binary.LittleEndian.AppendUint16(b, 0x2064)
	b = binary.LittleEndian.AppendUint16(b, 3)
	b = append(b, flagVLAN|flagBehind, 3, byte(fromQueued), 9)
	b = append(b, data...)
	return append(b, make([]byte, padding)...)
}

func TestParseSample(t *testing.T) {
	data := []byte("0123456789abcdefghij")
	want := sample{
		role:   9,
		number: 77,
		origin: fromQueued,
		behind: true,
		queue:  3,
		skb: frame.SKB{
			IPSummed: 3, CsumStart: 34, CsumOffset: 16, GSOSize: 1448, GSOType: 1 << 17,
			VLAN: true, VLANProto: 0x8100, VLANTCI: 0x2064, Priority: 6,
		},
		data: data[2:],
	}
	got, err := parseSample(record(20, 2, data, 5))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(sample{})); d != "" {
		t.Error(d)
	}
}

func TestParseSampleRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"less than its own header", record(20, 0, nil, 0)[:sampleLen-1]},
		{"fewer bytes than the frame had", record(21, 0, make([]byte, 20), 0)},
		{"a pull beyond the frame", record(20, 21, make([]byte, 20), 0)},
		{"lengths that wrap around", record(1<<32-1, 1<<32-1, make([]byte, 20), 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if s, err := parseSample(tt.b); !errors.Is(err, frame.ErrTruncated) {
				t.Errorf("got %+v, %v, want ErrTruncated", s, err)
			}
		})
	}
}

func FuzzParseSample(f *testing.F) {
	f.Add(record(20, 2, make([]byte, 20), 4))
	f.Add(record(0, 0, nil, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSample(b)
		if err == nil && len(s.data) > len(b)-sampleLen {
			t.Errorf("%d bytes of a record of %d", len(s.data), len(b))
		}
		if err == nil {
			order([]sample{s, s})
		}
	})
}

// udp4 is a frame of a flow with a UDP datagram's identification.
func udp4(flow byte, id uint16) []byte {
	b := make([]byte, 60)
	b[12], b[14], b[23], b[29], b[35] = 8, 0x45, 17, flow, flow
	binary.BigEndian.PutUint16(b[18:], id)
	return b
}

// tcp4 is a frame of a flow with a TCP sequence number, tcp6 the same over IPv6.
func tcp4(flow byte, seq uint32) []byte {
	b := make([]byte, 60)
	b[12], b[14], b[23], b[29], b[35] = 8, 0x45, 6, flow, flow
	binary.BigEndian.PutUint32(b[38:], seq)
	return b
}

func tcp6(flow byte, seq uint32) []byte {
	b := make([]byte, 80)
	b[12], b[13], b[14], b[20], b[37], b[55] = 0x86, 0xdd, 0x60, 6, flow, flow
	binary.BigEndian.PutUint32(b[58:], seq)
	return b
}

// tagged puts a frame on a VLAN.
func tagged(b []byte, id byte) []byte { return slices.Insert(b, 12, 0x81, 0, 0, id) }

func TestOrder(t *testing.T) {
	plain := make([]byte, 60)
	for _, tt := range []struct {
		name string
		in   []sample // in the order in which they were freed
		want []uint64 // numbers, which count as freed
	}{
		{
			name: "what was in the ring goes before what was in the queue, which is purged first",
			in:   []sample{{origin: fromQueued}, {origin: fromQueued}, {origin: fromRequeued}, {origin: fromDriver}, {origin: fromRefused}, {origin: fromDriver}},
			want: []uint64{3, 5, 2, 0, 1, 4},
		},
		{
			name: "what was lost on the proxy goes last",
			in:   []sample{{origin: fromQueued, behind: true}, {origin: fromRefused}, {origin: fromDriver}},
			want: []uint64{2, 1, 0},
		},
		{
			name: "each ring stays together",
			in:   []sample{{queue: 1}, {queue: 0}, {queue: 1}, {queue: 0}},
			want: []uint64{1, 3, 0, 2},
		},
		{
			name: "a ring that wrapped is turned where its flow jumps back",
			in:   []sample{{data: udp4(1, 4)}, {data: udp4(1, 5)}, {data: udp4(1, 1)}, {data: udp4(1, 2)}, {data: udp4(1, 3)}},
			want: []uint64{2, 3, 4, 0, 1},
		},
		{
			name: "identifications and sequence numbers wrap",
			in:   []sample{{data: tcp4(1, 500)}, {data: udp4(2, 3)}, {data: tcp4(1, 0xffffff00)}, {data: udp4(2, 0xfffe)}},
			want: []uint64{2, 3, 0, 1},
		},
		{
			name: "a ring that did not wrap stays, though one flow retransmits, which goes by its numbering",
			in:   []sample{{data: tcp6(1, 100)}, {data: plain}, {data: tcp6(1, 200)}, {data: tcp6(1, 150)}, {data: tcp6(1, 300)}},
			want: []uint64{0, 1, 3, 2, 4},
		},
		{
			name: "a ring that was freed in no order is put into that of each flow, in the places of the flow",
			in:   []sample{{data: udp4(1, 3)}, {data: tcp4(2, 70)}, {data: udp4(1, 1)}, {data: plain}, {data: tcp4(2, 60)}, {data: udp4(1, 2)}},
			want: []uint64{2, 3, 4, 5, 0, 1},
		},
		{
			name: "frames with VLAN tags in band have their order too, and each VLAN its own flows",
			in: []sample{
				{data: tagged(udp4(1, 3), 42)}, {data: tagged(udp4(1, 10), 43)}, {data: tagged(tagged(tcp4(3, 8), 7), 42)}, {data: tagged(tcp6(2, 70), 42)},
				{data: tagged(udp4(1, 1), 42)}, {data: tagged(tagged(tcp4(3, 6), 7), 42)}, {data: tagged(tcp6(2, 60), 42)}, {data: tagged(udp4(1, 9), 43)},
			},
			want: []uint64{4, 5, 6, 7, 0, 1, 2, 3},
		},
		{
			name: "the many flows prevail over the one that retransmits",
			in: []sample{
				{data: tcp4(1, 300)}, {data: tcp4(2, 30)}, {data: tcp6(3, 30)}, {data: tcp4(1, 200)},
				{data: tcp4(1, 100)}, {data: tcp4(2, 20)}, {data: tcp6(3, 20)},
			},
			want: []uint64{4, 3, 5, 6, 0, 1, 2},
		},
		{
			name: "frames without a numbering turn with their ring",
			in:   []sample{{data: plain}, {data: udp4(1, 2)}, {data: udp4(1, 1)}, {data: plain}},
			want: []uint64{2, 3, 0, 1},
		},
		{
			name: "frames without any numbering stay",
			in:   []sample{{data: plain}, {data: nil}, {data: udp4(1, 0)}},
			want: []uint64{0, 1, 2},
		},
		{
			name: "the queue is not turned",
			in:   []sample{{origin: fromQueued, data: udp4(1, 2)}, {origin: fromQueued, data: udp4(1, 1)}},
			want: []uint64{0, 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i := range tt.in {
				tt.in[i].number = uint64(i)
			}
			// The buffers of several CPUs are read in no certain order.
			rand.Shuffle(len(tt.in), func(i, j int) { tt.in[i], tt.in[j] = tt.in[j], tt.in[i] })
			var got []uint64
			for _, s := range order(tt.in) {
				got = append(got, s.number)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestUnrotate holds every rotation of a ring that several flows share against the
// order in which it was filled.
func TestUnrotate(t *testing.T) {
	var filled []sample
	for i := range 40 {
		flow := byte(i % 3)
		data := tcp4(flow, uint32(i)*1000)
		if flow == 1 {
			data = udp4(flow, uint16(65500+i))
		}
		filled = append(filled, sample{number: uint64(i), data: data})
	}
	for turn := range filled {
		ring := slices.Concat(filled[turn:], filled[:turn])
		unrotate(ring)
		for i, s := range ring {
			if s.number != uint64(i) {
				t.Fatalf("turned by %d: frame %d at %d", turn, s.number, i)
			}
		}
	}
}

func TestProgramsMatchParser(t *testing.T) {
	spec, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := int(spec.Maps["aims"].ValueSize), binary.Size(aim{}); got != want {
		t.Errorf("the programs have an aim of %d bytes, we of %d", got, want)
	}
	if got, want := int(spec.Maps["watched"].ValueSize), binary.Size(watch{}); got != want {
		t.Errorf("the programs have a watch of %d bytes, we of %d", got, want)
	}
	if got := spec.Maps["seen"].MaxEntries; got != MaxRoles {
		t.Errorf("the programs serve %d roles, we %d", got, MaxRoles)
	}
	var layout *btf.Struct
	if err := spec.Types.TypeByName("sample", &layout); err != nil {
		t.Fatal(err)
	}
	if layout.Size != sampleLen {
		t.Errorf("the programs write %d bytes, we read %d", layout.Size, sampleLen)
	}
	got := make(map[string]uint32)
	for _, m := range layout.Members {
		got[m.Name] = m.Offset.Bytes()
	}
	want := map[string]uint32{ // as parseSample reads them
		"number": 0, "len": 8, "pull": 12, "gso_type": 16, "priority": 20, "gso_size": 24, "csum_start": 26,
		"csum_offset": 28, "vlan_proto": 30, "vlan_tci": 32, "queue": 34, "flags": 36, "ip_summed": 37, "origin": 38, "role": 39,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestOrderAfterResets has a driver free two rings before the harvest was armed, and one
// since.
func TestOrderAfterResets(t *testing.T) {
	const reset = uint64(5 * time.Second)
	var in []sample
	for _, s := range []struct {
		early bool
		at    uint64
		id    uint16
	}{
		{true, 10, 4}, {true, 11, 5}, {true, 12, 3}, // wrapped
		{true, 10 + reset, 6}, {true, 11 + reset, 7}, // begun anew
		{false, 0, 9}, {false, 1, 8},
	} {
		in = append(in, sample{early: s.early, number: s.at, data: udp4(1, s.id)})
	}
	rand.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	for i, s := range order(in) {
		if want := udp4(1, uint16(3+i)); !slices.Equal(s.data, want) {
			t.Errorf("frame %d is % x, want % x", i, s.data[:20], want[:20])
		}
	}
}
