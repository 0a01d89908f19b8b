// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/supervise"
	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// wrong returns what is not as the configuration wants it, "" if all is: every role in
// passive mode and its network up, every service running, and those that end, ended well.
func wrong(cfg *config.Config, init *notify.Status, roles []ctl.RoleStatus) string {
	if len(init.Faults) > 0 {
		return "the configuration was refused: " + init.Faults[0]
	}
	for _, r := range cfg.Roles {
		i := slices.IndexFunc(roles, func(st ctl.RoleStatus) bool { return st.Name == r.Name })
		switch {
		case i < 0 || roles[i].Mode != ctl.ModePassive:
			return fmt.Sprintf("role %s is not in passive mode", r.Name)
		case !init.Roles[r.Name]:
			return fmt.Sprintf("role %s has no network", r.Name)
		}
	}
	for _, s := range cfg.Services {
		i := slices.IndexFunc(init.Services, func(st notify.Service) bool { return st.Name == s.Name })
		if i < 0 || !well(init.Services[i], s.Type == config.TypeOneshot) {
			return "service " + s.Name + " is not as it should be" + how(init.Services, i)
		}
	}
	return ""
}

// Ends that are as a service wants it.
var (
	done  = supervise.Exit{}.String()
	leave = supervise.Exit{Code: supervise.ExitStop}.String()
)

func well(s notify.Service, oneshot bool) bool {
	endedWell := s.State == string(supervise.Ended) && (s.LastExit == done || s.LastExit == leave)
	return endedWell || s.State == string(supervise.Running) && !oneshot
}

func how(all []notify.Service, i int) string {
	if i < 0 {
		return ""
	}
	text := ": " + all[i].State
	if all[i].LastExit != "" {
		text += ", " + all[i].LastExit
	}
	return text
}

// verdict is what is known of a version on trial.
type verdict int

const (
	undecided verdict = iota
	healthy
	failed
)

// trial decides when a version has proved itself. Times are since the kernel's start, so
// that no crash of whoever looks gives it more.
type trial struct {
	settle, timeout time.Duration

	since  time.Duration  // all is well, 0 if it is not
	starts map[string]int // of the services, then
}

// look takes what is wrong at that time, and how often services were started.
func (t *trial) look(now time.Duration, wrong string, starts map[string]int) verdict {
	switch {
	case wrong != "":
		t.since = 0
	case t.since == 0 || !maps.Equal(starts, t.starts): // one that starts again and again is not well
		t.since, t.starts = now, starts
	case now-t.since >= t.settle:
		return healthy
	}
	if now >= t.timeout {
		return failed
	}
	return undecided
}

func starts(all []notify.Service) map[string]int {
	m := make(map[string]int)
	for _, s := range all {
		m[s.Name] = s.Starts
	}
	return m
}
