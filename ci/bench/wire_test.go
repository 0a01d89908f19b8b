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
	type frame struct {
		ms  int64
		src net.HardwareAddr
	}
	for _, tc := range []struct {
		name   string
		frames []frame
		want   time.Duration
		err    error
	}{
		{"from the NIC's own address to the role's", []frame{{10, nic}, {15, nic}, {30, role}, {40, role}}, 20 * time.Millisecond, nil},
		{"what others say does not count", []frame{{5, other}, {10, nic}, {12, other}, {30, role}}, 20 * time.Millisecond, nil},
		{"what the role said before is another move's", []frame{{5, role}, {10, nic}, {30, role}}, 20 * time.Millisecond, nil},
		{"a guest that says nothing has no first frame", []frame{{10, nic}}, 0, errNotOnWire},
		{"without the announcement nobody knows when it went on", []frame{{10, role}}, 0, errNotOnWire},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			w := pcapgo.NewWriter(&b)
			if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
				t.Fatal(err)
			}
			for _, f := range tc.frames {
				data := make([]byte, 60)
				copy(data[6:], f.src)
				ci := gopacket.CaptureInfo{Timestamp: time.UnixMilli(f.ms), CaptureLength: len(data), Length: len(data)}
				if err := w.WritePacket(ci, data); err != nil {
					t.Fatal(err)
				}
			}
			// QEMU may be in the middle of writing the next one.
			b.Write(make([]byte, 7))
			got, err := parseWire(&b, nic, role)
			if !errors.Is(err, tc.err) || (err == nil && got.first.Sub(got.resumed) != tc.want) {
				t.Errorf("first frame after %v, %v; want %v, %v", got.first.Sub(got.resumed), err, tc.want, tc.err)
			}
		})
	}
}
