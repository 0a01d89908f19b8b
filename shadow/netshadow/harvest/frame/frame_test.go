// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ether returns an Ethernet header.
func ether(etherType uint16) []byte {
	b := []byte{0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1}
	return binary.BigEndian.AppendUint16(b, etherType)
}

// ipv4 returns an IPv4 header as a driver leaves it: without length and checksum.
func ipv4(proto byte, id uint16) []byte {
	return []byte{0x45, 0, 0, 0, byte(id >> 8), byte(id), 0x40, 0, 64, proto, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2}
}

func ipv6(proto byte, extension ...byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
	b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
	return append(b, extension...)
}

func tcp(seq uint32, flags byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0x9c, 0x40, 0, 80}, seq)
	return append(b, 0, 0, 0, 1, 0x60, flags, 0xff, 0xff, 0xde, 0xad, 0, 0, 2, 4, 5, 0xb4)
}

func udp() []byte { return []byte{0x9c, 0x40, 0, 53, 0xde, 0xad, 0xbe, 0xef} }

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// checkIP fails the test unless b's IP and transport headers are right, and returns
// where its payload begins. It computes by itself, not with the code under test.
func checkIP(t *testing.T, b []byte, l3 int) (l4 int) {
	t.Helper()
	add := func(s uint32, b []byte) uint32 {
		for i, c := range b {
			s += uint32(c) << (8 * (1 - i%2))
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return s
	}
	var s uint32
	var proto byte
	switch b[l3] >> 4 {
	case 4:
		l4, proto = l3+int(b[l3]&15)*4, b[l3+9]
		if n := int(binary.BigEndian.Uint16(b[l3+2:])); n != len(b)-l3 {
			t.Errorf("IPv4 length %d, want %d", n, len(b)-l3)
		}
		if s := add(0, b[l3:l4]); s != 0xffff {
			t.Errorf("IPv4 header sums up to %#x", s)
		}
		s = add(0, b[l3+12:l3+20])
	case 6:
		l4, proto = l3+40, b[l3+6]
		if n := int(binary.BigEndian.Uint16(b[l3+4:])); n != len(b)-l4 {
			t.Errorf("IPv6 length %d, want %d", n, len(b)-l4)
		}
		if proto == 60 {
			l4, proto = l4+8, b[l4]
		}
		s = add(0, b[l3+8:l3+40])
	}
	s = add(s, []byte{0, proto, byte((len(b) - l4) >> 8), byte(len(b) - l4)})
	if s := add(s, b[l4:]); s != 0xffff {
		t.Errorf("transport checksum sums up to %#x", s)
	}
	return l4
}

func TestFinishSegmentsTCP(t *testing.T) {
	for _, tt := range []struct {
		name   string
		skb    SKB
		head   []byte
		l3     int
		ids    []uint16
		flags  []byte
		inband bool
	}{
		{
			name: "IPv4: sequence numbers and identifications count up, FIN and PSH stay with the last, CWR with the first",
			skb:  SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoTCPv4 | gsoECN},
			head: join(ether(0x0800), ipv4(6, 0xffff), tcp(0xffffff00, 0x99)),
			l3:   14, ids: []uint16{0xffff, 0, 1}, flags: []byte{0x90, 0x10, 0x19},
		},
		{
			name: "IPv4: a fixed identification stays",
			skb:  SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoTCPv4 | gsoFixedID},
			head: join(ether(0x0800), ipv4(6, 7), tcp(1, 0x10)),
			l3:   14, ids: []uint16{7, 7, 7}, flags: []byte{0x10, 0x10, 0x10},
		},
		{
			name: "IPv6",
			skb:  SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoTCPv6},
			head: join(ether(0x86dd), ipv6(6), tcp(1000, 0x18)),
			l3:   14, flags: []byte{0x10, 0x10, 0x18},
		},
		{
			name: "IPv6 with destination options",
			skb:  SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoTCPv6 | gsoDodgy},
			head: join(ether(0x86dd), ipv6(60, 6, 0, 1, 4, 0, 0, 0, 0), tcp(1000, 0x18)),
			l3:   14, flags: []byte{0x10, 0x10, 0x18},
		},
		{
			name: "a VLAN tag left to hardware goes into every segment",
			skb:  SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoTCPv4, VLAN: true, VLANProto: 0x8100, VLANTCI: 0x2064},
			head: join(ether(0x0800), ipv4(6, 1), tcp(1, 0x10)),
			l3:   18, ids: []uint16{1, 2, 3}, flags: []byte{0x10, 0x10, 0x10}, inband: true,
		},
		{
			name: "a VLAN tag in band stays",
			skb:  SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoTCPv4},
			head: join(ether(0x8100), []byte{0x20, 0x64, 0x08, 0x00}, ipv4(6, 1), tcp(1, 0x10)),
			l3:   18, ids: []uint16{1, 2, 3}, flags: []byte{0x10, 0x10, 0x10}, inband: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := counting(250)
			tt.skb.Priority = 6
			frames, err := Finish(tt.skb, join(tt.head, payload))
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) != 3 {
				t.Fatalf("%d frames, want 3", len(frames))
			}
			var got []byte
			var seq uint32
			for i, f := range frames {
				b := f.Data
				if f.Priority != 6 {
					t.Errorf("segment %d: priority %d", i, f.Priority)
				}
				if !bytes.Equal(b[:12], tt.head[:12]) {
					t.Errorf("segment %d: MAC addresses % x", i, b[:12])
				}
				if tt.inband && !bytes.Equal(b[12:16], []byte{0x81, 0, 0x20, 0x64}) {
					t.Errorf("segment %d: tag % x", i, b[12:16])
				}
				l4 := checkIP(t, b, tt.l3)
				if i == 0 {
					seq = binary.BigEndian.Uint32(b[l4+4:])
				}
				if n := binary.BigEndian.Uint32(b[l4+4:]); n != seq+uint32(len(got)) {
					t.Errorf("segment %d: sequence number %d, want %d", i, n, seq+uint32(len(got)))
				}
				if b[l4+13] != tt.flags[i] {
					t.Errorf("segment %d: flags %#x, want %#x", i, b[l4+13], tt.flags[i])
				}
				if tt.ids != nil {
					if id := binary.BigEndian.Uint16(b[tt.l3+4:]); id != tt.ids[i] {
						t.Errorf("segment %d: identification %d, want %d", i, id, tt.ids[i])
					}
				}
				got = append(got, b[l4+24:]...)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("payload differs: %s", cmp.Diff(payload, got))
			}
		})
	}
}

func TestFinishSegmentsUDP(t *testing.T) {
	for _, tt := range []struct {
		name string
		head []byte
	}{
		{"IPv4", join(ether(0x0800), ipv4(17, 41), udp())},
		{"IPv6", join(ether(0x86dd), ipv6(17), udp())},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := counting(205)
			frames, err := Finish(SKB{IPSummed: ChecksumPartial, GSOSize: 100, GSOType: gsoUDPL4}, join(tt.head, payload))
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			for i, f := range frames {
				l4 := checkIP(t, f.Data, 14)
				if n := int(binary.BigEndian.Uint16(f.Data[l4+4:])); n != len(f.Data)-l4 {
					t.Errorf("datagram %d: UDP length %d, want %d", i, n, len(f.Data)-l4)
				}
				got = append(got, f.Data[l4+8:]...)
			}
			if len(frames) != 3 || !bytes.Equal(got, payload) {
				t.Errorf("%d frames, payload differs: %s", len(frames), cmp.Diff(payload, got))
			}
		})
	}
}

func TestFinishChecksum(t *testing.T) {
	// A pseudo-header's sum as the kernel leaves it: not complemented.
	pseudo := func(b []byte, at int) []byte {
		p, err := parseIP(b)
		if err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint16(b[at:], p.pseudoSum(b))
		return b
	}
	withLength := func(b []byte) []byte {
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		binary.BigEndian.PutUint16(b[24:], ^fold(sum(b[14:34])))
		return b
	}
	t.Run("is completed over an odd number of bytes", func(t *testing.T) {
		b := pseudo(withLength(join(ether(0x0800), ipv4(17, 1), udp(), counting(31))), 34+6)
		frames, err := Finish(SKB{IPSummed: ChecksumPartial, CsumStart: 34, CsumOffset: 6}, b)
		if err != nil || len(frames) != 1 {
			t.Fatalf("%d frames, %v", len(frames), err)
		}
		checkIP(t, frames[0].Data, 14)
	})
	t.Run("of zero is written as its complement", func(t *testing.T) {
		b := pseudo(withLength(join(ether(0x0800), ipv4(17, 1), udp(), make([]byte, 4))), 34+6)
		binary.BigEndian.PutUint16(b[len(b)-2:], ^fold(sum(b[34:])))
		frames, err := Finish(SKB{IPSummed: ChecksumPartial, CsumStart: 34, CsumOffset: 6}, b)
		if err != nil {
			t.Fatal(err)
		}
		if c := binary.BigEndian.Uint16(frames[0].Data[40:]); c != 0xffff {
			t.Errorf("checksum %#x, want 0xffff", c)
		}
	})
	t.Run("that is complete is left alone", func(t *testing.T) {
		b := join(ether(0x0800), ipv4(17, 1), udp(), counting(9))
		want := bytes.Clone(b)
		frames, err := Finish(SKB{IPSummed: ChecksumNone, CsumStart: 34, CsumOffset: 6}, b)
		if err != nil || !bytes.Equal(frames[0].Data, want) {
			t.Errorf("%v, %s", err, cmp.Diff(want, frames[0].Data))
		}
	})
	t.Run("of SCTP is a CRC32c", func(t *testing.T) {
		b := join(ether(0x0800), ipv4(132, 1), []byte{1, 2, 3, 4, 5, 6, 7, 8, 0xaa, 0xbb, 0xcc, 0xdd}, counting(20))
		frames, err := Finish(SKB{IPSummed: ChecksumPartial, CRC: true, CsumStart: 34, CsumOffset: 8}, b)
		if err != nil {
			t.Fatal(err)
		}
		d := frames[0].Data
		got := binary.LittleEndian.Uint32(d[42:])
		copy(d[42:46], []byte{0, 0, 0, 0})
		if want := crc32.Checksum(d[34:], crc32.MakeTable(crc32.Castagnoli)); got != want {
			t.Errorf("CRC %#x, want %#x", got, want)
		}
	})
}

func TestFinishRefuses(t *testing.T) {
	v4 := func(proto byte, rest ...byte) []byte { return join(ether(0x0800), ipv4(proto, 1), rest) }
	partial := func(start, offset uint16) SKB {
		return SKB{IPSummed: ChecksumPartial, CsumStart: start, CsumOffset: offset}
	}
	gso := func(typ uint32) SKB { return SKB{GSOSize: 10, GSOType: typ} }
	for _, tt := range []struct {
		name string
		skb  SKB
		data []byte
		want error
	}{
		{"a frame shorter than its Ethernet header", SKB{}, counting(13), ErrTruncated},
		{"a checksum field beyond the end", partial(34, 16), v4(6, counting(17)...), ErrTruncated},
		{"a checksum field inside the Ethernet header", partial(4, 2), v4(6, counting(17)...), ErrTruncated},
		{"a checksum offset that wraps around", partial(0xffff, 0xffff), v4(6, counting(17)...), ErrTruncated},
		{"a CRC field beyond the end", SKB{IPSummed: ChecksumPartial, CRC: true, CsumStart: 34, CsumOffset: 8}, v4(132, counting(11)...), ErrTruncated},
		{"segments of a tunnel", gso(gsoTCPv4 | 1<<10), v4(17, udp()...), ErrOffload},
		{"segments of SCTP", gso(1 << 14), v4(132, counting(40)...), ErrOffload},
		{"TCP segments of another protocol", gso(gsoTCPv4), v4(17, counting(40)...), ErrOffload},
		{"IPv6 segments in IPv4", gso(gsoTCPv6), v4(6, tcp(1, 0)...), ErrOffload},
		{"segments of no IP", gso(gsoTCPv4), join(ether(0x0806), counting(60)), ErrOffload},
		{"three VLAN tags", gso(gsoTCPv4), join(ether(0x8100), []byte{0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0}, ipv4(6, 1), tcp(1, 0)), ErrOffload},
		{"a VLAN tag cut off", gso(gsoTCPv4), join(ether(0x8100), []byte{0, 1}), ErrTruncated},
		{"an IPv4 header cut off", gso(gsoTCPv4), join(ether(0x0800), counting(19)), ErrTruncated},
		{"an IPv4 header with too small a length", gso(gsoTCPv4), join(ether(0x0800), []byte{0x44}, counting(39)), ErrTruncated},
		{"an IPv4 header longer than the frame", gso(gsoTCPv4), join(ether(0x0800), []byte{0x4f}, counting(39)), ErrTruncated},
		{"an IPv6 header cut off", gso(gsoTCPv6), join(ether(0x86dd), []byte{0x60}, counting(38)), ErrTruncated},
		{"an IPv6 extension header cut off", gso(gsoTCPv6), join(ether(0x86dd), ipv6(60, 6, 0)), ErrTruncated},
		{"an IPv6 extension header longer than the frame", gso(gsoTCPv6), join(ether(0x86dd), ipv6(60, 6, 200, 0, 0, 0, 0, 0, 0)), ErrTruncated},
		{"a TCP header cut off", gso(gsoTCPv4), v4(6, tcp(1, 0)[:19]...), ErrTruncated},
		{"TCP options cut off", gso(gsoTCPv4), v4(6, tcp(1, 0)[:22]...), ErrTruncated},
		{"a UDP header cut off", gso(gsoUDPL4), v4(17, udp()[:7]...), ErrTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if frames, err := Finish(tt.skb, tt.data); !errors.Is(err, tt.want) {
				t.Errorf("got %d frames, %v, want %v", len(frames), err, tt.want)
			}
		})
	}
}

// FuzzFinish holds that whatever a driver left, the result are frames with the bytes
// of the payload in them, or one of the two errors.
func FuzzFinish(f *testing.F) {
	f.Add(uint8(3), uint16(34), uint16(16), uint16(100), uint32(gsoTCPv4), true, join(ether(0x0800), ipv4(6, 1), tcp(1, 0x18), counting(300)))
	f.Add(uint8(3), uint16(54), uint16(16), uint16(100), uint32(gsoTCPv6), false, join(ether(0x86dd), ipv6(6), tcp(1, 0x18), counting(300)))
	f.Add(uint8(3), uint16(34), uint16(6), uint16(7), uint32(gsoUDPL4), false, join(ether(0x0800), ipv4(17, 1), udp(), counting(30)))
	f.Add(uint8(3), uint16(34), uint16(6), uint16(0), uint32(0), true, join(ether(0x0800), ipv4(17, 1), udp(), counting(30)))
	f.Fuzz(func(t *testing.T, summed uint8, start, offset, size uint16, typ uint32, vlan bool, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		length := len(data)
		s := SKB{IPSummed: summed, CsumStart: start, CsumOffset: offset, GSOSize: size, GSOType: typ, VLAN: vlan, VLANProto: 0x8100}
		frames, err := Finish(s, data)
		if err != nil {
			if !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrOffload) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if len(frames) == 0 {
			t.Fatal("no frame and no error")
		}
		total := 0
		for _, f := range frames {
			if len(f.Data) < MinLen {
				t.Errorf("frame of %d bytes", len(f.Data))
			}
			total += len(f.Data)
		}
		if total < length {
			t.Errorf("%d bytes became %d", length, total)
		}
	})
}
