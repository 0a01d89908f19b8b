// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package frame describes an Ethernet frame on its way out of the guest, and
// turns what a driver left of a socket buffer back into one that any other
// driver can send.
//
// It holds pure functions over bytes. It must never know where a frame came
// from (a dead driver's ring, a queueing discipline, a TAP) nor where it goes.
package frame

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the size in bytes of an encoded [Offload], the virtio_net_hdr
// without num_buffers that AF_PACKET sockets with PACKET_VNET_HDR and TAPs with
// IFF_VNET_HDR exchange (linux/virtio_net.h).
const HeaderLen = 10

// MinLen is the length in bytes of an Ethernet header, the least a frame has.
const MinLen = 14

// Flags of [Offload.Flags] (linux/virtio_net.h).
const (
	// NeedsChecksum says that the checksum at CsumStart+CsumOffset holds the
	// pseudo-header's sum only, and is to be completed on transmission.
	NeedsChecksum = 1
)

// Kinds of [Offload.GSOType] (linux/virtio_net.h).
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	// GSOECN is a flag beside the kind: the first segment only carries CWR.
	GSOECN = 0x80
)

// Offload is the work on a frame that was left to the hardware: a
// virtio_net_hdr. Its zero value means that the frame is complete.
// Offsets and lengths are in bytes from the start of the Ethernet header.
type Offload struct {
	Flags      uint8
	GSOType    uint8
	HeaderLen  uint16 // all headers up to the payload that is segmented
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16 // where the checksummed range begins
	CsumOffset uint16 // where in that range the checksum is stored
}

// Frame is one outgoing Ethernet frame.
type Frame struct {
	// Data is the frame from the destination MAC on, VLAN tags in band,
	// without frame check sequence.
	Data []byte
	// Offload says what is still to be done to Data on transmission.
	Offload Offload
	// Priority is the skb->priority its sender gave it (SO_PRIORITY).
	Priority uint32
}

// AppendHeader appends the encoded virtio_net_hdr, [HeaderLen] bytes in the
// machine's own byte order (little endian on every machine we run on).
func (o Offload) AppendHeader(b []byte) []byte {
	b = append(b, o.Flags, o.GSOType)
	b = binary.LittleEndian.AppendUint16(b, o.HeaderLen)
	b = binary.LittleEndian.AppendUint16(b, o.GSOSize)
	b = binary.LittleEndian.AppendUint16(b, o.CsumStart)
	return binary.LittleEndian.AppendUint16(b, o.CsumOffset)
}

// Parse splits what a TAP with IFF_VNET_HDR delivers into its header and the
// frame. The returned frame shares b's memory. It returns an error matching
// [ErrTruncated] if b has no room for both headers, or the header points
// outside the frame.
func Parse(b []byte) (Frame, error) {
	if len(b) < HeaderLen+MinLen {
		return Frame{}, fmt.Errorf("frame: parse %d bytes: %w", len(b), ErrTruncated)
	}
	f := Frame{
		Offload: Offload{
			Flags:      b[0],
			GSOType:    b[1],
			HeaderLen:  binary.LittleEndian.Uint16(b[2:]),
			GSOSize:    binary.LittleEndian.Uint16(b[4:]),
			CsumStart:  binary.LittleEndian.Uint16(b[6:]),
			CsumOffset: binary.LittleEndian.Uint16(b[8:]),
		},
		Data: b[HeaderLen:],
	}
	if f.Offload.Flags&NeedsChecksum != 0 {
		if end := int(f.Offload.CsumStart) + int(f.Offload.CsumOffset) + 2; end > len(f.Data) {
			return Frame{}, fmt.Errorf("frame: checksum field ends at %d of %d bytes: %w", end, len(f.Data), ErrTruncated)
		}
	}
	return f, nil
}
