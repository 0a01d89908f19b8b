// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package supervise

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestDecide(t *testing.T) {
	b := Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	ok, bad, killed, stop := Exit{}, Exit{Code: 1}, Exit{Signal: unix.SIGKILL}, Exit{Code: ExitStop}
	for _, tt := range []struct {
		name   string
		policy Policy
		exit   Exit
		uptime time.Duration
		series int
		want   Decision
	}{
		{"always: success starts again", Always, ok, 0, 0, Decision{Restart: true, After: 100 * time.Millisecond, Series: 1}},
		{"always: failure starts again", Always, bad, 0, 0, Decision{Restart: true, After: 100 * time.Millisecond, Series: 1}},
		{"always: a signal starts again", Always, killed, 0, 0, Decision{Restart: true, After: 100 * time.Millisecond, Series: 1}},
		{"on-failure: success is the end", OnFailure, ok, 0, 0, Decision{Series: 1, Reason: "it is done"}},
		{"on-failure: failure starts again", OnFailure, bad, 0, 0, Decision{Restart: true, After: 100 * time.Millisecond, Series: 1}},
		{"on-failure: a signal is a failure", OnFailure, killed, 0, 0, Decision{Restart: true, After: 100 * time.Millisecond, Series: 1}},
		{"never: failure is the end", Never, bad, 0, 0, Decision{Series: 1, Reason: "its restart policy is never"}},
		{"125 is the end whatever the policy", Always, stop, 0, 0, Decision{Series: 1, Reason: "it asked not to be restarted (exit code 125)"}},
		{"the wait doubles", Always, bad, 0, 2, Decision{Restart: true, After: 400 * time.Millisecond, Series: 3}},
		{"the wait is bounded", Always, bad, 0, 40, Decision{Restart: true, After: time.Second, Series: 41}},
		{"just below healthy the series goes on", Always, bad, Healthy - 1, 2, Decision{Restart: true, After: 400 * time.Millisecond, Series: 3}},
		{"after healthy time the series begins anew", Always, bad, Healthy, 40, Decision{Restart: true, After: 100 * time.Millisecond, Series: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Decide(tt.policy, b, tt.exit, tt.uptime, tt.series)); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBackoffWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    Backoff
		n    int
		want time.Duration
	}{
		{"no back-off is no wait", Backoff{}, 50, 0},
		{"a maximum below the minimum wins", Backoff{Min: time.Second, Max: time.Millisecond}, 1, time.Millisecond},
		{"the largest count does not overflow", Backoff{Min: 1, Max: 1 << 62}, 1 << 30, 1 << 62},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.b.Wait(tt.n); got != tt.want {
				t.Errorf("Wait(%d) = %v, want %v", tt.n, got, tt.want)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	up := map[string]bool{"net0": true, "net1": false}
	for _, tt := range []struct {
		name        string
		needs, want []string
	}{
		{"who needs nothing misses nothing", nil, nil},
		{"a role that is up is not missing", []string{"net0"}, nil},
		{"a role that went down is missing", []string{"net1", "net0"}, []string{"net1"}},
		{"a role never heard of is missing", []string{"net0", "net2"}, []string{"net2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Missing(tt.needs, up)); diff != "" {
				t.Errorf("Missing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStopOrder(t *testing.T) {
	for _, tt := range []struct {
		name  string
		specs []Spec
		want  [][]string
	}{
		{"nothing to stop", nil, [][]string{}},
		{"higher stages go first, the last given first within one", []Spec{
			{Name: "shadowd", Stage: 0}, {Name: "netcfgd", Stage: 1}, {Name: "a", Stage: 2}, {Name: "b", Stage: 2},
		}, [][]string{{"b", "a"}, {"netcfgd"}, {"shadowd"}}},
		{"who needs another goes before it, however the list is ordered", []Spec{
			{Name: "app", Needs: []string{"net0", "db/up"}}, {Name: "db", Provides: "db/up", Needs: []string{"disk/up"}},
			{Name: "alone"}, {Name: "disk", Provides: "disk/up"}, {Name: "cache", Needs: []string{"disk/up"}},
		}, [][]string{{"app"}, {"cache", "db"}, {"disk", "alone"}}},
		{"a stage is stopped before the next, whoever needs whom", []Spec{
			{Name: "a", Stage: 1, Provides: "a/up"}, {Name: "b", Needs: []string{"a/up"}},
		}, [][]string{{"a"}, {"b"}}},
		{"gaps and the order of the list do not matter", []Spec{
			{Name: "x", Stage: 7}, {Name: "y", Stage: -1}, {Name: "z", Stage: 7},
		}, [][]string{{"z", "x"}, {"y"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, StopOrder(tt.specs)); diff != "" {
				t.Errorf("StopOrder (-want +got):\n%s", diff)
			}
		})
	}
}
