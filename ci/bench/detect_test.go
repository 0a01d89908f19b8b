// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/bench/internal/record"
)

func TestParseClock(t *testing.T) {
	var (
		nic  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
		role = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	)
	// tick is a datagram that told the guest's time and was on its way for so long; the
	// wire's clock is 7 s ahead.
	tick := func(at, late int64) sentFrame {
		told := uint64(time.Duration(at) * time.Millisecond)
		return sentFrame{at + 7000 + late, role, binary.BigEndian.AppendUint64([]byte(record.Tick), told)}
	}
	announced := sentFrame{ms: 7100, src: nic}
	for _, tc := range []struct {
		name   string
		frames []sentFrame
		want   time.Duration
		err    error
	}{
		{"told by the guest's clock", []sentFrame{announced, tick(200, 0), tick(300, 0), tick(400, 0)}, 100 * time.Millisecond, nil},
		{"datagrams that were held tell nothing of the clocks",
			[]sentFrame{announced, tick(150, 400), tick(250, 300), tick(600, 0), tick(700, 0), tick(800, 1)}, 100 * time.Millisecond, nil},
		{"held ones alone are not enough", []sentFrame{announced, tick(150, 400), tick(250, 300), tick(350, 200)}, 0, errNotOnWire},
		{"too few of them", []sentFrame{announced, tick(200, 0), tick(300, 0)}, 0, errNotOnWire},
		{"without the announcement nobody knows when it went on", []sentFrame{tick(200, 0), tick(300, 0), tick(400, 0)}, 0, errNotOnWire},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseClock(captured(t, tc.frames), nic)
			if !errors.Is(err, tc.err) || got != tc.want {
				t.Errorf("went on at %v, %v; want %v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}
