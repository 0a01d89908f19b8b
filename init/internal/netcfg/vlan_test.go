// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package netcfg

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/umbra-vm/umbra/init/config"
)

func TestRoutesAreAddedToThoseOfTheMethod(t *testing.T) {
	more := []config.Route{{To: "10.1.0.0/16", Via: "10.0.2.9"}, {To: "fd01::/48", Via: "fe80::9"}}
	for _, tt := range []struct {
		rule    string
		network config.Network
		did     string
	}{
		{"static", config.Network{Method: config.MethodStatic, Addresses: []string{"10.0.2.7/24"}, Gateway: "10.0.2.2", Routes: more},
			"+3 10.0.2.7/24; " + route + "; +3 10.1.0.0/16 via 10.0.2.9 metric 100; +3 fd01::/48 via fe80::9 metric 100"},
		{"leased", config.Network{Method: config.MethodDHCP, Routes: more[:1]}, leased + "; +3 10.1.0.0/16 via 10.0.2.9 metric 100"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config.Role{Name: "net0", Class: config.ClassNet, Network: tt.network})
				defer w.stop()
				w.link(&nic)
				if got := w.kernel.take(); got != tt.did {
					t.Errorf("did\n\t%s, want\n\t%s", got, tt.did)
				}
			})
		})
	}
}

// A role with a VLAN is up when both are. The VLAN's interface is made on the role's,
// and again on the one that comes after it.
func TestVLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		static := func(a, gw string) config.Network {
			return config.Network{Method: config.MethodStatic, Addresses: []string{a}, Gateway: gw}
		}
		w := newWorld(t, dhcpRole)
		w.stop()
		d := w.daemon
		d.opt.Roles = []config.Role{{
			Name: "net0", Class: config.ClassNet, Network: static("10.0.2.7/24", "10.0.2.2"),
			VLANs: []config.VLAN{{ID: 100, Network: static("10.9.0.7/24", "10.9.0.1")}},
		}}
		workers := d.workers()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		for _, worker := range workers {
			go func() { worker.run(ctx); done <- struct{}{} }()
		}
		defer func() {
			cancel()
			<-done
			<-done
		}()
		below, tagged := w, w
		below.worker, tagged.worker = workers["net0"], workers["net0.100"]

		below.link(&nic)
		w.want(t, "with the role's interface", "+3 10.0.2.7/24; "+route, "")
		vlan := nic
		vlan.Index, vlan.Name, vlan.Up, vlan.Carrier = 4, "net0.100", false, false
		tagged.link(&vlan)
		w.want(t, "with the VLAN's", "up 4", "")
		vlan.Up, vlan.Carrier = true, true
		tagged.link(&vlan)
		w.want(t, "when that is up", "+4 10.9.0.7/24; +4 0.0.0.0/0 via 10.9.0.1 metric 101", "", true)

		tagged.link(nil)
		w.want(t, "without the VLAN's", "", "", false)
		below.link(nil)
		next := nic
		next.Index = 5
		w.kernel.addrs[5] = []netip.Prefix{netip.MustParsePrefix("10.0.2.7/24")}
		below.link(&next)
		w.want(t, "on another interface", "+5 0.0.0.0/0 via 10.0.2.2 metric 100", "")
		if want := []string{"net0.100 of 100 on 3", "net0.100 of 100 on 5"}; !slices.Equal(w.kernel.vlans, want) {
			t.Errorf("made %q, want %q", w.kernel.vlans, want)
		}
	})
}
