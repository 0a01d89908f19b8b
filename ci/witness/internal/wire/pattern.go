// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package wire

import "encoding/binary"

// Direction keeps the payloads of the two directions apart: a stream that was
// looped back must not pass for the other one.
type Direction uint64

// The two directions.
const (
	GuestToPeer Direction = 1
	PeerToGuest Direction = 2
)

// splitmix is the output function of SplitMix64 (Steele, Lea and Flood, "Fast
// splittable pseudorandom number generators", OOPSLA 2014).
func splitmix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const gamma = 0x9e3779b97f4a7c15

// PayloadLen is the payload length of data record seq, 1 to MaxPayload bytes.
// One in four records is at most 64 bytes long, so that small segments occur.
func PayloadLen(d Direction, seq uint64) int {
	v := splitmix(uint64(d)*gamma ^ seq)
	if v&3 == 0 {
		return 1 + int(v>>2%64)
	}
	return 1 + int(v>>2%MaxPayload)
}

// Fill writes the payload of seq into b.
func Fill(b []byte, d Direction, seq uint64) {
	state := splitmix(seq)*gamma + uint64(d)
	for len(b) >= 8 {
		state += gamma
		binary.LittleEndian.PutUint64(b, splitmix(state))
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		binary.LittleEndian.PutUint64(last[:], splitmix(state+gamma))
		copy(b, last[:])
	}
}

// Filled tells whether b is what Fill writes.
func Filled(b []byte, d Direction, seq uint64) bool {
	state := splitmix(seq)*gamma + uint64(d)
	for len(b) >= 8 {
		state += gamma
		if binary.LittleEndian.Uint64(b) != splitmix(state) {
			return false
		}
		b = b[8:]
	}
	last := splitmix(state + gamma)
	for i := range b {
		if b[i] != byte(last>>(8*i)) {
			return false
		}
	}
	return true
}
