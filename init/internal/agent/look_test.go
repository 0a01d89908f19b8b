// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package agent

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Every command is here, so that one that is added is thought about.
func TestThePageMayOnlyLook(t *testing.T) {
	all := handlers(Options{}, nil, nil, nil)
	others := []string{ctl.CmdMigrated, ctl.CmdReload, ctl.CmdUnplug, ctl.CmdCheck} // the page checks nothing
	want := []string{ctl.CmdClock, ctl.CmdLog, ctl.CmdLogs, ctl.CmdServices, ctl.CmdStatus, ctl.CmdTimeline}
	if diff := cmp.Diff(slices.Sorted(slices.Values(slices.Concat(want, others))), slices.Sorted(maps.Keys(all))); diff != "" {
		t.Errorf("commands of the agent (-want +got):\n%s", diff)
	}
	some := onlyLooking(all)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(some))); diff != "" {
		t.Errorf("commands for the page (-want +got):\n%s", diff)
	}
	for name, h := range some {
		if h == nil {
			t.Errorf("nothing answers %s", name)
		}
	}
}
