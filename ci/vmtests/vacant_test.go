// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package vmtests

import (
	"regexp"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// TestVacant moves a guest to a host that has nothing for it. It waits, holds
// what fits its bounds, says why, and goes on when it is given a NIC.
func TestVacant(t *testing.T) {
	for _, tc := range []struct {
		name  string
		image func() (*image.Bundle, error)
		to    rig.NIC
		says  []string // in the status, and on the console
		plug  rig.NIC
	}{
		{"no NIC at all", fullImage, noNIC, []string{"no net device", "waiting"}, rtl8139At5},
		{"a NIC whose driver is not in the image", e1000Image, rtl8139At2, []string{"0000:00:02.0", "10ec:8139"}, e1000At5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, tc.image, e1000At2)
			g.traffic()
			g.move(tc.to)
			st := g.waitRole("vacant, and says so", func(st ctl.RoleStatus) bool {
				return st.Mode == ctl.ModeActive && st.Device == "" && containsAll(st.Message, tc.says)
			})
			if st.Driver != "" {
				t.Errorf("driver %q of no device", st.Driver)
			}
			var all strings.Builder
			for _, s := range tc.says {
				all.WriteString(".*" + regexp.QuoteMeta(s))
			}
			g.waitConsole(all.String())
			if !st.Carrier {
				t.Error("the proxy lost its carrier: sockets may notice")
			}
			g.plug(tc.plug)
			tl := g.recovered(1)
			g.lossless(tl)
			if n := tl.Frames.Held; n == 0 {
				t.Error("no frame was held: the test did not wait")
			}
			g.unharmed()
		})
	}
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
