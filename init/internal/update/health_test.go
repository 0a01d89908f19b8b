// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

func TestWrong(t *testing.T) {
	cfg := &config.Config{
		Roles: []config.Role{{Name: "net0"}},
		Services: []config.Service{
			{Name: "app", Type: config.TypeSimple}, {Name: "check", Type: config.TypeOneshot},
		},
	}
	passive, active := []ctl.RoleStatus{{Name: "net0", Mode: ctl.ModePassive}}, []ctl.RoleStatus{{Name: "net0", Mode: ctl.ModeActive}}
	up := map[string]bool{"net0": true}
	services := func(app, check notify.Service) []notify.Service {
		app.Name, check.Name = "app", "check"
		return []notify.Service{app, check}
	}
	runs, done := notify.Service{State: "running"}, notify.Service{State: "ended", LastExit: "exit code 0"}
	for _, tt := range []struct {
		rule  string
		init  notify.Status
		roles []ctl.RoleStatus
		says  string
	}{
		{"all is well", notify.Status{Roles: up, Services: services(runs, done)}, passive, ""},
		{"a service may ask to be left", notify.Status{Roles: up, Services: services(notify.Service{State: "ended", LastExit: "exit code 125"}, done)}, passive, ""},
		{"a role in active mode has no hardware", notify.Status{Roles: up, Services: services(runs, done)}, active, "role net0 is not in passive mode"},
		{"nor has one of which nobody knows", notify.Status{Roles: up, Services: services(runs, done)}, nil, "role net0 is not in passive mode"},
		{"a role needs its network", notify.Status{Services: services(runs, done)}, passive, "role net0 has no network"},
		{"a service that failed is not well", notify.Status{Roles: up, Services: services(notify.Service{State: "backing off", LastExit: "exit code 1"}, done)},
			passive, "service app is not as it should be: backing off, exit code 1"},
		{"nor is one that ended for good", notify.Status{Roles: up, Services: services(notify.Service{State: "ended", LastExit: "signal 9 (killed)"}, done)},
			passive, "service app is not"},
		{"nor one that waits", notify.Status{Roles: up, Services: services(notify.Service{State: "waiting"}, done)}, passive, "service app is not as it should be: waiting"},
		{"a check is done when it has ended", notify.Status{Roles: up, Services: services(runs, runs)}, passive, "service check is not as it should be: running"},
		{"a check that fails is none", notify.Status{Roles: up, Services: services(runs, notify.Service{State: "ended", LastExit: "exit code 1"})},
			passive, "service check is not"},
		{"a service that nobody knows is not there", notify.Status{Roles: up, Services: services(runs, done)[:1]}, passive, "service check is not"},
		{"a configuration that is refused starts nothing", notify.Status{Roles: up, Faults: []string{"fw_cfg x"}, Services: services(runs, done)},
			passive, "fw_cfg x"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got := wrong(cfg, &tt.init, tt.roles); (got == "") != (tt.says == "") || !strings.Contains(got, tt.says) {
				t.Errorf("wrong is %q, want %q", got, tt.says)
			}
		})
	}
}

// deaf is a guest of which PID 1, or the agent, does not answer.
type deaf struct{ init, agent error }

func (d deaf) Status(context.Context) (*notify.Status, error) { return new(notify.Status), d.init }

func (d deaf) Roles(context.Context) ([]ctl.RoleStatus, error) { return nil, d.agent }

func (deaf) Uptime() time.Duration { return time.Minute }

func (deaf) Reboot(context.Context) error { return nil }

func TestWhoDoesNotAnswerIsNotWell(t *testing.T) {
	gone := errors.New("gone")
	for _, tt := range []struct {
		rule  string
		guest deaf
		want  verdict
	}{
		{"PID 1", deaf{init: gone}, failed},
		{"the agent", deaf{agent: gone}, failed},
		{"nobody", deaf{}, healthy},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			tr := trial{settle: time.Second, timeout: time.Minute, since: time.Second}
			if v, why := judge(t.Context(), &tr, new(config.Config), tt.guest); v != tt.want || (why == "gone") != (v == failed) {
				t.Errorf("verdict %d, %q", v, why)
			}
		})
	}
}

func TestTrial(t *testing.T) {
	type sample struct {
		at     int // seconds
		wrong  string
		starts int
	}
	const settle, timeout = 10, 60
	for _, tt := range []struct {
		rule    string
		samples []sample
		want    verdict // of the last; the others are undecided
	}{
		{"well for long enough", []sample{{5, "", 1}, {14, "", 1}, {15, "", 1}}, healthy},
		{"well, not for long enough", []sample{{5, "", 1}, {14, "", 1}}, undecided},
		{"a move in between begins the wait anew", []sample{{5, "", 1}, {12, "active mode", 1}, {13, "", 1}, {22, "", 1}, {23, "", 1}}, healthy},
		{"so does a service that was started again", []sample{{5, "", 1}, {14, "", 2}, {15, "", 2}, {24, "", 2}}, healthy},
		{"never well", []sample{{5, "x", 1}, {59, "x", 1}, {60, "x", 1}}, failed},
		{"well and not well", []sample{{5, "", 1}, {50, "x", 1}, {55, "", 1}, {60, "", 1}}, failed},
		{"starting again and again", []sample{{5, "", 1}, {14, "", 2}, {23, "", 3}, {60, "", 4}}, failed},
		{"just in time", []sample{{50, "", 1}, {60, "", 1}}, healthy},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			tr := newTrial(config.Update{Settle: settle, Timeout: timeout})
			for i, s := range tt.samples {
				want := undecided
				if i == len(tt.samples)-1 {
					want = tt.want
				}
				got := tr.look(time.Duration(s.at)*time.Second, s.wrong, map[string]int{"app": s.starts})
				if got != want {
					t.Errorf("after %d s: verdict %d, want %d", s.at, got, want)
				}
			}
		})
	}
}
