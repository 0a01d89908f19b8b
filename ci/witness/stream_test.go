// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package witness

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/umbra-vm/umbra/ci/witness/internal/wire"
)

// stream returns n data records and where each of them starts.
func stream(t testing.TB, n int) (b []byte, starts []int) {
	t.Helper()
	var buf bytes.Buffer
	s := sender{dir: wire.GuestToPeer, w: &buf}
	for range n {
		starts = append(starts, buf.Len())
		if err := s.data(0); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes(), append(starts, buf.Len())
}

func receiveAll(b []byte) (tally, error) {
	r := newReceiver(bytes.NewReader(b), wire.GuestToPeer)
	for {
		if _, _, err := r.next(); err != nil {
			return r.tally(), err
		}
	}
}

func TestReceiverCountsDamage(t *testing.T) {
	const n = 50
	whole, at := stream(t, n)
	size := func(i int) uint64 { return uint64(at[i+1] - at[i]) }
	total := uint64(len(whole))
	mutate := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(whole)) }
	for _, tc := range []struct {
		name  string
		bytes []byte
		want  tally
		err   error
	}{
		{"an intact stream", whole, tally{Records: n, Next: total}, io.EOF},
		{"a flipped bit in a payload spoils its record",
			mutate(func(b []byte) []byte { b[at[7]+wire.HeaderLen] ^= 4; return b }),
			tally{Records: n - 1, Next: total, Corrupt: size(7)}, io.EOF},
		{"a flipped bit in a header spoils its record",
			mutate(func(b []byte) []byte { b[at[7]+20] ^= 4; return b }),
			tally{Records: n - 1, Next: total, Corrupt: size(7)}, io.EOF},
		{"a record that is missing is lost",
			mutate(func(b []byte) []byte { return slices.Delete(b, at[7], at[8]) }),
			tally{Records: n - 1, Next: total, Lost: size(7)}, io.EOF},
		{"ten bytes missing of a header are lost, the rest of the record is corrupt",
			mutate(func(b []byte) []byte { return slices.Delete(b, at[7], at[7]+10) }),
			tally{Records: n - 1, Next: total, Lost: 10, Corrupt: size(7) - 10}, io.EOF},
		{"bytes from nowhere are corrupt",
			mutate(func(b []byte) []byte { return slices.Insert(b, at[7], []byte("from nowhere")...) }),
			tally{Records: n, Next: total, Corrupt: 12}, io.EOF},
		{"a record that comes twice is corrupt the second time",
			mutate(func(b []byte) []byte { return slices.Insert(b, at[8], whole[at[7]:at[8]]...) }),
			tally{Records: n, Next: total, Corrupt: size(7)}, io.EOF},
		{"an end inside a record is unexpected",
			whole[:len(whole)-1],
			tally{Records: n - 1, Next: uint64(at[n-1])}, io.ErrUnexpectedEOF},
		{"an end inside a header is unexpected",
			whole[:at[n-1]+5],
			tally{Records: n - 1, Next: uint64(at[n-1]), Corrupt: 5}, io.ErrUnexpectedEOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := receiveAll(tc.bytes)
			if got != tc.want || err != tc.err {
				t.Errorf("got %+v, %v\nwant %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestReceiverRefusesTheOtherDirection(t *testing.T) {
	b, _ := stream(t, 20)
	r := newReceiver(bytes.NewReader(b), wire.PeerToGuest)
	for {
		if _, _, err := r.next(); err != nil {
			break
		}
	}
	if got := r.tally(); got.Records != 0 || got.Corrupt != uint64(len(b)) {
		t.Errorf("a looped back stream gave %+v", got)
	}
}

// FuzzReceiver cuts, flips and repeats bytes of a real stream. Whatever is
// done to it, damage must show and no byte may be counted twice as received.
func FuzzReceiver(f *testing.F) {
	whole, _ := stream(f, 8)
	f.Add(whole)
	f.Add(whole[3:])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := receiveAll(b)
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("error %v", err)
		}
		if got.Corrupt > uint64(len(b)) {
			t.Errorf("%d bytes corrupt of %d", got.Corrupt, len(b))
		}
		if got.Lost+got.Corrupt == 0 && err == io.EOF && len(b) <= len(whole) && !bytes.Equal(b, whole[:len(b)]) {
			t.Errorf("%d altered bytes passed as intact: %+v", len(b), got)
		}
	})
}
