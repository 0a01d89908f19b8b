// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/streams"
)

func TestPeersAreReportedByNICAndSetting(t *testing.T) {
	left := time.Unix(1000, 0)
	move := func(model string, hasten bool, gap, lost time.Duration) PeerMove {
		o := rig.Outage{Left: left, Released: left.Add(gap), Again: make(map[string]time.Time)}
		for _, k := range streams.Kinds() {
			o.Again[k.Name] = o.Released.Add(lost)
		}
		return peerMove(rig.NIC{Model: model}, hasten, o)
	}
	r := Report{Peers: []PeerMove{
		move("virtio-net-pci", false, 2*time.Second, time.Second),
		move("e1000", false, 4*time.Second, time.Second),
		move("virtio-net-pci", false, 4*time.Second, 3*time.Second),
		move("virtio-net-pci", false, 3*time.Second, 3*time.Second),
		move("virtio-net-pci", true, 2*time.Second, 100*time.Millisecond),
	}}
	var out strings.Builder
	r.Render(&out)
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	for i, want := range []string{
		"NIC hasten moves gap guest → peer peer → guest guest asks peer asks",
		"e1000 false 1 4000 1000 (0.25) 1000 (0.25) 1000 (0.25) 1000 (0.25)",
		"virtio-net-pci false 3 3000 3000 (0.75) 3000 (0.75) 3000 (0.75) 3000 (0.75)",
		"virtio-net-pci true 1 2000 100 (0.05) 100 (0.05) 100 (0.05) 100 (0.05)",
	} {
		if i+1 >= len(got) || got[i+1] != want {
			t.Fatalf("printed\n%s\nwant in line %d\n%s", out.String(), i+2, want)
		}
	}
}
