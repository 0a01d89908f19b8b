// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package wire is the format of the witness's records and datagrams: bytes
// only, no sockets, no judgement.
//
// A TCP direction is a sequence of records, all integers in network byte order:
//
//	0        4      5        8      16       24      32       36      40
//	| magic  | kind | 0 0 0  | seq   | offset | ack   | length | hcrc  | payload | pcrc |
//
// seq numbers the records of a direction from 0; offset is the number of bytes
// sent before this record; ack is how many records of the other direction the
// sender has verified. hcrc covers the 36 bytes before it, pcrc the payload,
// both CRC-32C. Length is trusted only because hcrc is right, and offset tells
// a reader that has lost its place exactly how many bytes are missing.
//
// A datagram:
//
//	0        4       5        8         16      24       32
//	| magic  | flags | 0 0 0  | session | seq   | sent   | payload | crc |
//
// session is drawn at random by the sending program, sent is its monotonic
// clock in ns, and crc covers all before it.
//
// Payloads of data records and datagrams are a function of seq ([Fill]): a
// receiver compares every byte, and not only the checksum, with what must have
// been sent.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Kind says what a record carries.
type Kind uint8

// The kinds of records. 0 is none: zeroed memory is not a record.
const (
	Data     Kind = 1 + iota // payload by Fill
	Report                   // the guest's Counters
	Stop                     // the peer asks the guest to finish; empty
	Final                    // the guest's last record: Counters
	maxKinds = Final
)

const (
	recordMagic   = 0x554d5752 // "UMWR"
	datagramMagic = 0x554d5744 // "UMWD"

	// HeaderLen and TrailerLen are the bytes of a record around its payload.
	HeaderLen  = 40
	TrailerLen = 4

	// MaxPayload is the longest payload of a record, in bytes.
	MaxPayload = 4096

	// MinDatagram and MaxDatagram are the sizes a datagram may have, in bytes.
	MinDatagram = datagramHeader + TrailerLen
	MaxDatagram = 8192

	datagramHeader = 32
)

// ErrFormat is matched by every error of this package's parsers.
var ErrFormat = errors.New("malformed")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Header is the part of a record before its payload.
type Header struct {
	Kind   Kind
	Seq    uint64
	Offset uint64
	Ack    uint64
	Length uint32
}

// Size is the length of the whole record in bytes.
func (h Header) Size() uint64 { return HeaderLen + uint64(h.Length) + TrailerLen }

// AppendRecord appends the record of h and payload; h.Length is set from it.
func AppendRecord(b []byte, h Header, payload []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, recordMagic)
	b = append(b, byte(h.Kind), 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = binary.BigEndian.AppendUint64(b, h.Offset)
	b = binary.BigEndian.AppendUint64(b, h.Ack)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	b = append(b, payload...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
}

// ParseHeader reads the header at the start of b, which holds at least
// HeaderLen bytes.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fmt.Errorf("%w record header: %d bytes", ErrFormat, len(b))
	}
	if m := binary.BigEndian.Uint32(b); m != recordMagic {
		return Header{}, fmt.Errorf("%w record header: magic %#x", ErrFormat, m)
	}
	if got, want := crc32.Checksum(b[:36], castagnoli), binary.BigEndian.Uint32(b[36:]); got != want {
		return Header{}, fmt.Errorf("%w record header: checksum %#x, bytes give %#x", ErrFormat, want, got)
	}
	h := Header{
		Kind:   Kind(b[4]),
		Seq:    binary.BigEndian.Uint64(b[8:]),
		Offset: binary.BigEndian.Uint64(b[16:]),
		Ack:    binary.BigEndian.Uint64(b[24:]),
		Length: binary.BigEndian.Uint32(b[32:]),
	}
	if h.Kind == 0 || h.Kind > maxKinds || b[5]|b[6]|b[7] != 0 || h.Length > MaxPayload {
		return Header{}, fmt.Errorf("%w record header: kind %d, length %d", ErrFormat, h.Kind, h.Length)
	}
	return h, nil
}

// PayloadOK compares a payload with the checksum that follows it in b.
func PayloadOK(b []byte) bool {
	n := len(b) - TrailerLen
	return n >= 0 && crc32.Checksum(b[:n], castagnoli) == binary.BigEndian.Uint32(b[n:])
}

// Counters is what the guest knows and the peer cannot see. Sizes are bytes,
// gaps nanoseconds; all of it since the start of the program.
type Counters struct {
	UDPSent   uint64 // datagrams numbered, whether or not the send succeeded
	UDPFailed uint64 // of these, sends that returned an error
	UDPEchoed uint64 // datagrams that came back from the peer
	UDPSlow   uint64 // longest single send, ns

	TCPSent uint64 // bytes written to the connection

	// The guest's verdict on what the peer sent.
	Records uint64
	Bytes   uint64 // up to which the stream was read
	Lost    uint64
	Corrupt uint64
	MaxGap  uint64 // longest pause between two records, ns
}

const countersLen = 10 * 8

// Append appends the counters.
func (c Counters) Append(b []byte) []byte {
	for _, v := range []uint64{c.UDPSent, c.UDPFailed, c.UDPEchoed, c.UDPSlow, c.TCPSent,
		c.Records, c.Bytes, c.Lost, c.Corrupt, c.MaxGap} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// ParseCounters reads what Append wrote.
func ParseCounters(b []byte) (Counters, error) {
	if len(b) != countersLen {
		return Counters{}, fmt.Errorf("%w counters: %d bytes, want %d", ErrFormat, len(b), countersLen)
	}
	var c Counters
	for i, p := range []*uint64{&c.UDPSent, &c.UDPFailed, &c.UDPEchoed, &c.UDPSlow, &c.TCPSent,
		&c.Records, &c.Bytes, &c.Lost, &c.Corrupt, &c.MaxGap} {
		*p = binary.BigEndian.Uint64(b[i*8:])
	}
	return c, nil
}

// The flags of a datagram.
const (
	FlagEcho  = 1 << 0 // the receiver should send it back
	FlagReply = 1 << 1 // it was sent back
)

// A Datagram without its payload, which follows from Seq.
type Datagram struct {
	Flags   uint8
	Session uint64
	Seq     uint64
	Sent    uint64
}

// AppendDatagram appends d as a datagram of size bytes, which must lie between
// MinDatagram and MaxDatagram.
func AppendDatagram(b []byte, d Datagram, size int) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, datagramMagic)
	b = append(b, d.Flags, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, d.Session)
	b = binary.BigEndian.AppendUint64(b, d.Seq)
	b = binary.BigEndian.AppendUint64(b, d.Sent)
	n := len(b)
	b = append(b, make([]byte, size-MinDatagram)...)
	Fill(b[n:], GuestToPeer, d.Seq)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// ParseDatagram reads a whole datagram and verifies every byte of it.
func ParseDatagram(b []byte) (Datagram, error) {
	if len(b) < MinDatagram || len(b) > MaxDatagram {
		return Datagram{}, fmt.Errorf("%w datagram: %d bytes", ErrFormat, len(b))
	}
	if m := binary.BigEndian.Uint32(b); m != datagramMagic {
		return Datagram{}, fmt.Errorf("%w datagram: magic %#x", ErrFormat, m)
	}
	n := len(b) - TrailerLen
	if got, want := crc32.Checksum(b[:n], castagnoli), binary.BigEndian.Uint32(b[n:]); got != want {
		return Datagram{}, fmt.Errorf("%w datagram: checksum %#x, bytes give %#x", ErrFormat, want, got)
	}
	d := Datagram{
		Flags:   b[4],
		Session: binary.BigEndian.Uint64(b[8:]),
		Seq:     binary.BigEndian.Uint64(b[16:]),
		Sent:    binary.BigEndian.Uint64(b[24:]),
	}
	if !Filled(b[datagramHeader:n], GuestToPeer, d.Seq) {
		return Datagram{}, fmt.Errorf("%w datagram %d: payload is not the one of its number", ErrFormat, d.Seq)
	}
	return d, nil
}
