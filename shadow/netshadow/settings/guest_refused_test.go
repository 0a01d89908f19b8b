// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

package settings

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// What no driver for the NICs of QEMU 7.2 takes, it refuses having understood the request.

func TestIntegrationNoRules(t *testing.T) {
	c := open(t)
	rule := oplog.Set(rulePrefix+"7", "flow=1,to=0,value=c0000201,mask=ffffffff")
	for _, nic := range allNICs(t) {
		deferred, err := c.Apply(t.Context(), nic, []oplog.Op{rule}, AfterOpen)
		if err != nil || len(deferred) != 1 || deferred[0].Reason != "the driver has no such setting" {
			t.Errorf("%s: %v, %v", driver(t, nic), deferred, err)
		}
	}
}

// TestIntegrationPrivateFlag: e1000e has one, for chips of laptops.
func TestIntegrationPrivateFlag(t *testing.T) {
	c := open(t)
	i := slices.IndexFunc(allNICs(t), func(n string) bool { return driver(t, n) == "e1000e" })
	if i < 0 {
		t.Fatal("no NIC has a private flag")
	}
	nic := allNICs(t)[i]
	now, err := c.Snapshot(t.Context(), nic)
	if err != nil {
		t.Fatal(err)
	}
	const own, foreign = privateFlagPrefix + "s0ix-enabled", privateFlagPrefix + "legacy-rx"
	if now[own] != "off" || now[foreign] != "" {
		t.Errorf("%s is %q, and %s %q", own, now[own], foreign, now[foreign])
	}
	deferred, err := c.Apply(t.Context(), nic, ops(t, own+"=on", foreign+"=on"), AfterOpen)
	if err != nil {
		t.Fatal(err)
	}
	want := []Deferred{
		{oplog.Set(foreign, "on"), "the driver has no flag of this name"},
		{oplog.Set(own, "on"), "the driver does not take this value"},
	}
	if diff := cmp.Diff(want, deferred); diff != "" {
		t.Errorf("deferred (-want +got)\n%s", diff)
	}
}
