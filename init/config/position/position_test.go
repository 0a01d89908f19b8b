// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package position_test

import (
	"testing"

	"github.com/umbra-vm/umbra/init/config/position"
)

const document = `# an appliance
[image]
files = ["motd:/etc/motd"]

[[role]]
name = "net0"
match = { mac = "52:54:00:12:34:56" }
network.addresses = [ # comment
  "10.0.2.15/24",
  "fd00::15/64",
]
[[role]]
name = "net1"
[role.network]
routes = [{ to = "10.1.0.0/16",
  via = "10.0.2.9" }]
[[role.vlan]]
id = 7
`

func TestLine(t *testing.T) {
	pos := position.Find([]byte(document))
	for _, tt := range []struct {
		path string
		line int
	}{
		{"image", 2},
		{"image.files[0]", 3},
		{"role[0]", 5},
		{"role[0].match.mac", 7},
		{"role[0].network.addresses[0]", 9},
		{"role[0].network.addresses[1]", 10},
		{"role[1].network.routes[0].via", 16},
		{"role[1].vlan[0].id", 18},
		{"role[1].network.gateway", 14}, // not there: its table
		{"role[0].hold.bytes", 5},       // not there: its role
		{"nothing.of.it", 0},
	} {
		if got := pos.Line(tt.path); got != tt.line {
			t.Errorf("line of %s: %d, want %d", tt.path, got, tt.line)
		}
	}
}
