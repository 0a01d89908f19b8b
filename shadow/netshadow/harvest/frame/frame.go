// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package frame describes an Ethernet frame on its way out of the guest, and
// finishes what was left to a device to do on one: checksum, segmentation, VLAN tag.
// A finished frame can be sent by any device, whatever it can do in hardware.
//
// It holds pure functions over bytes. It must never know where a frame came
// from (a dead driver's ring, a queueing discipline, a TAP) nor where it goes.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

var (
	// ErrTruncated reports a frame that ends before the headers it announces.
	ErrTruncated = errors.New("frame is truncated")
	// ErrOffload reports a segmentation that only some hardware can do: of
	// tunnels, SCTP and ESP.
	ErrOffload = errors.New("segmentation is not supported")
)

// MinLen is the length in bytes of an Ethernet header, the least a frame has.
const MinLen = 14

// Frame is one finished Ethernet frame.
type Frame struct {
	// Data is the frame from the destination MAC on, VLAN tags in band,
	// without frame check sequence.
	Data []byte
	// Priority is the skb->priority its sender gave it (SO_PRIORITY). It selects
	// the queue on devices with traffic classes.
	Priority uint32
}

// Values of [SKB.IPSummed] (linux/skbuff.h).
const (
	ChecksumNone    = 0
	ChecksumPartial = 3
)

// SKB is what a socket buffer says about its frame beside the bytes.
type SKB struct {
	// IPSummed is ChecksumPartial if the checksum at CsumStart+CsumOffset holds
	// the pseudo-header's sum only and is to be completed.
	IPSummed   uint8
	CsumStart  uint16 // bytes from the start of the Ethernet header
	CsumOffset uint16 // bytes from CsumStart
	CRC        bool   // the checksum is SCTP's CRC32c (skb->csum_not_inet)
	GSOSize    uint16 // payload bytes of each segment; 0: not to be segmented
	GSOType    uint32 // SKB_GSO_* bits
	VLAN       bool   // a tag waits in VLANProto and VLANTCI
	VLANProto  uint16 // tag protocol, e.g. 0x8100
	VLANTCI    uint16
	Priority   uint32
}

// Finish turns the bytes and the meta data of an unsent socket buffer into frames
// that any device can send: one, or one for each segment. It does not rely on what
// drivers change in preparation for their hardware (they zero the IP length and
// checksum and take the length out of the TCP pseudo-header's sum: e1000_tso() in
// drivers/net/ethernet/intel/e1000/e1000_main.c, ixgbe_tso() in
// drivers/net/ethernet/intel/ixgbe/ixgbe_main.c).
//
// Finish modifies data, and the result may share its memory. Errors match
// [ErrTruncated] or [ErrOffload].
func Finish(s SKB, data []byte) ([]Frame, error) {
	if len(data) < MinLen {
		return nil, fmt.Errorf("frame: %d bytes: %w", len(data), ErrTruncated)
	}
	segments := [][]byte{data}
	var err error
	switch {
	case s.GSOSize != 0:
		segments, err = segment(s, data)
	case s.IPSummed == ChecksumPartial && s.CRC:
		err = putCRC(data, int(s.CsumStart), int(s.CsumOffset))
	case s.IPSummed == ChecksumPartial:
		err = putChecksum(data, int(s.CsumStart), int(s.CsumOffset))
	}
	if err != nil {
		return nil, err
	}
	frames := make([]Frame, len(segments))
	for i, b := range segments {
		if s.VLAN {
			b = insertVLAN(b, s.VLANProto, s.VLANTCI)
		}
		frames[i] = Frame{Data: b, Priority: s.Priority}
	}
	return frames, nil
}

// putChecksum completes an internet checksum (RFC 1071) over b[start:] whose field
// holds the sum of what is not in there, the pseudo-header, as skb_checksum_help()
// does (net/core/dev.c).
func putChecksum(b []byte, start, offset int) error {
	at := start + offset
	if start < MinLen || at+2 > len(b) {
		return fmt.Errorf("frame: checksum field at %d of %d bytes: %w", at, len(b), ErrTruncated)
	}
	c := ^fold(sum(b[start:]))
	if c == 0 { // which says "no checksum" in UDP; its complement is the same sum
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], c)
	return nil
}

// putCRC completes the CRC32c of an SCTP packet (RFC 9260 A).
func putCRC(b []byte, start, offset int) error {
	at := start + offset
	if start < MinLen || at+4 > len(b) {
		return fmt.Errorf("frame: checksum field at %d of %d bytes: %w", at, len(b), ErrTruncated)
	}
	binary.LittleEndian.PutUint32(b[at:], 0)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[start:], crc32.MakeTable(crc32.Castagnoli)))
	return nil
}

// insertVLAN puts a tag behind the MAC addresses (IEEE 802.1Q 9.3).
func insertVLAN(b []byte, proto, tci uint16) []byte {
	const at, size = 12, 4
	d := make([]byte, 0, len(b)+size)
	d = append(d, b[:at]...)
	d = binary.BigEndian.AppendUint16(d, proto)
	d = binary.BigEndian.AppendUint16(d, tci)
	return append(d, b[at:]...)
}

// sum adds up b as big-endian 16-bit words. It cannot overflow below 128 KiB.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
