// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

func TestParseWire(t *testing.T) {
	var (
		nic   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		role  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
		other = net.HardwareAddr{2, 0, 0, 0, 0, 3}
	)
	for _, tc := range []struct {
		name   string
		frames []sentFrame
		want   time.Duration
		err    error
	}{
		{"from the NIC's own address to the role's", []sentFrame{{ms: 10, src: nic}, {ms: 15, src: nic}, {ms: 30, src: role}, {ms: 40, src: role}}, 20 * time.Millisecond, nil},
		{"what others say does not count", []sentFrame{{ms: 5, src: other}, {ms: 10, src: nic}, {ms: 12, src: other}, {ms: 30, src: role}}, 20 * time.Millisecond, nil},
		{"what the role said before is another move's", []sentFrame{{ms: 5, src: role}, {ms: 10, src: nic}, {ms: 30, src: role}}, 20 * time.Millisecond, nil},
		{"a guest that says nothing has no first frame", []sentFrame{{ms: 10, src: nic}}, 0, errNotOnWire},
		{"without the announcement nobody knows when it went on", []sentFrame{{ms: 10, src: role}}, 0, errNotOnWire},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseWire(captured(t, tc.frames), nic, role)
			if !errors.Is(err, tc.err) || (err == nil && got.first.Sub(got.resumed) != tc.want) {
				t.Errorf("first frame after %v, %v; want %v, %v", got.first.Sub(got.resumed), err, tc.want, tc.err)
			}
		})
	}
}

// A sentFrame is one in a capture.
type sentFrame struct {
	ms      int64
	src     net.HardwareAddr
	payload []byte
}

// captured is what QEMU writes of frames, in the middle of the next one.
func captured(t *testing.T, frames []sentFrame) *bytes.Buffer {
	t.Helper()
	b := new(bytes.Buffer)
	w := pcapgo.NewWriter(b)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		data := append(make([]byte, 60), f.payload...)
		copy(data[6:], f.src)
		ci := gopacket.CaptureInfo{Timestamp: time.UnixMilli(f.ms), CaptureLength: len(data), Length: len(data)}
		if err := w.WritePacket(ci, data); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(make([]byte, 7))
	return b
}
