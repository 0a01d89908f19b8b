// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestKept has a device that cannot be given up: virtio_net has VLAN filters to
// drop, and another device is in its slot. The guest must not hang over it: it
// holds what is sent until a host leaves that slot empty.
func TestKept(t *testing.T) {
	g := start(t, vlanImage, virtioAt2)
	g.traffic()
	g.move(rtl8139At2)
	g.waitRole("active and says why", func(st ctl.RoleStatus) bool {
		return st.Mode == ctl.ModeActive && strings.Contains(st.Message, "cannot be given up")
	})
	g.move(rtl8139At5)
	g.lossless(g.recovered(1))
	g.unharmed()
}
