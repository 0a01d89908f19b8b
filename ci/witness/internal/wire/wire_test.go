// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package wire

import (
	"bytes"
	"errors"
	"testing"
)

func TestRecordRoundTrip(t *testing.T) {
	for seq := range uint64(2000) {
		n := PayloadLen(PeerToGuest, seq)
		if n < 1 || n > MaxPayload {
			t.Fatalf("record %d has a payload of %d bytes", seq, n)
		}
		payload := make([]byte, n)
		Fill(payload, PeerToGuest, seq)
		want := Header{Kind: Data, Seq: seq, Offset: seq << 33, Ack: seq + 7, Length: uint32(n)}
		b := AppendRecord(nil, want, payload)
		if uint64(len(b)) != want.Size() {
			t.Fatalf("record of %d bytes, Size says %d", len(b), want.Size())
		}
		got, err := ParseHeader(b)
		if err != nil || got != want {
			t.Fatalf("ParseHeader = %+v, %v, want %+v", got, err, want)
		}
		if !PayloadOK(b[HeaderLen:]) || !Filled(b[HeaderLen:len(b)-TrailerLen], PeerToGuest, seq) {
			t.Fatalf("record %d is not its own payload", seq)
		}
	}
}

func TestEveryFlippedBitOfARecordIsSeen(t *testing.T) {
	payload := make([]byte, 37)
	Fill(payload, GuestToPeer, 5)
	good := AppendRecord(nil, Header{Kind: Data, Seq: 5}, payload)
	for bit := range len(good) * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		_, err := ParseHeader(b)
		if err == nil && PayloadOK(b[HeaderLen:]) {
			t.Errorf("bit %d of byte %d flipped unseen", bit%8, bit/8)
		}
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("error %v does not match ErrFormat", err)
		}
	}
}

func TestEveryFlippedBitOfADatagramIsSeen(t *testing.T) {
	good := AppendDatagram(nil, Datagram{Flags: FlagEcho, Session: 1, Seq: 2, Sent: 3}, 64)
	if d, err := ParseDatagram(good); err != nil || d != (Datagram{FlagEcho, 1, 2, 3}) || len(good) != 64 {
		t.Fatalf("ParseDatagram = %+v, %v", d, err)
	}
	for bit := range len(good) * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseDatagram(b); !errors.Is(err, ErrFormat) {
			t.Errorf("bit %d of byte %d flipped: %v", bit%8, bit/8, err)
		}
	}
	for n := range len(good) {
		if _, err := ParseDatagram(good[:n]); !errors.Is(err, ErrFormat) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestPayloadDependsOnNumberAndDirection(t *testing.T) {
	a, b, c := make([]byte, 99), make([]byte, 99), make([]byte, 99)
	Fill(a, GuestToPeer, 7)
	Fill(b, GuestToPeer, 8)
	Fill(c, PeerToGuest, 7)
	if bytes.Equal(a, b) || bytes.Equal(a, c) {
		t.Error("two payloads are equal")
	}
	for i := range a {
		a[i] ^= 0x80
		if Filled(a, GuestToPeer, 7) {
			t.Errorf("a flipped bit in byte %d passed", i)
		}
		a[i] ^= 0x80
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendRecord(nil, Header{Kind: Stop, Seq: 1 << 60, Offset: 9, Ack: 3}, nil))
	f.Add(AppendRecord(nil, Header{Kind: Report}, Counters{UDPSent: 1}.Append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		if again := AppendRecord(nil, h, make([]byte, h.Length)); !bytes.Equal(again[:HeaderLen], b[:HeaderLen]) {
			t.Errorf("%+v encodes to %x, was read from %x", h, again[:HeaderLen], b[:HeaderLen])
		}
	})
}

func FuzzParseDatagram(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendDatagram(nil, Datagram{Session: 1, Seq: 2, Sent: 3}, MinDatagram))
	f.Add(AppendDatagram(nil, Datagram{Flags: FlagEcho, Seq: 1 << 63}, 1400))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDatagram(b)
		if err != nil {
			return
		}
		again := AppendDatagram(nil, d, len(b))
		// The three reserved bytes are free.
		copy(again[5:8], b[5:8])
		if !bytes.Equal(again[:len(b)-TrailerLen], b[:len(b)-TrailerLen]) {
			t.Errorf("%+v encodes to %x, was read from %x", d, again, b)
		}
	})
}

func FuzzParseCounters(f *testing.F) {
	f.Add([]byte{})
	f.Add(Counters{UDPSent: 1, MaxGap: 1 << 63}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCounters(b)
		if err == nil && !bytes.Equal(c.Append(nil), b) {
			t.Errorf("%+v encodes to other bytes than %x", c, b)
		}
	})
}
