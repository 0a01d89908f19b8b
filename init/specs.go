// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"os"
	"slices"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/cgroup"
	"github.com/umbra-vm/umbra/init/internal/confine"
	"github.com/umbra-vm/umbra/init/internal/supervise"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// Stages of the stop: services first, while there is a network; then what sends their
// last words; then what keeps the network; the shadow last.
const (
	stageShadow = iota
	stageNetwork
	stageLogs
	stageServices
)

// daemon is one of our own programs.
type daemon struct {
	name  string
	stage int
	fds   bool
}

// daemons are our own programs, in the order of their start.
func daemons(cfg *config.Config) []supervise.Spec {
	all := []daemon{{agentProgram, stageShadow, true}, {netProgram, stageNetwork, false}}
	if cfg.Log.Syslog != "" {
		all = append(all, daemon{logProgram, stageLogs, false})
	}
	if cfg.NTP.Enabled() {
		all = append(all, daemon{ntpProgram, stageNetwork, false})
	}
	var specs []supervise.Spec
	for _, d := range all {
		if programs()[d.name] == nil {
			continue
		}
		specs = append(specs, supervise.Spec{
			Name: d.name, Path: "/sbin/" + d.name, Argv: []string{d.name}, Dir: "/",
			Restart: supervise.Always, Backoff: supervise.Backoff{Min: 20 * time.Millisecond, Max: 5 * time.Second},
			Stage: d.stage, StopTimeout: supervise.DefaultStopTimeout, KeepsFDs: d.fds, OOMScoreAdj: -900,
		})
	}
	return specs
}

// untilDone is one of our own programs that ends when its work is done, and begins again
// if it fails.
func untilDone(name, program string) supervise.Spec {
	return supervise.Spec{
		Name: name, Path: "/sbin/" + program, Argv: []string{program}, Dir: "/",
		Oneshot: true, Restart: supervise.OnFailure,
		Backoff: supervise.Backoff{Min: 20 * time.Millisecond, Max: 5 * time.Second},
		Stage:   stageShadow, StopTimeout: supervise.DefaultStopTimeout, OOMScoreAdj: -900,
	}
}

// statusd is the program of the status page.
const statusd = "statusd"

// statusPage is the program that serves the page, confined like a service. Nothing that
// others need, it is the first to go when memory is short.
func statusPage(cfg *config.Config) supervise.Spec {
	page := cfg.Status
	s := config.Service{
		Name: statusd, Argv: []string{"/sbin/" + statusd, "-listen", page.Listen, "-agent", ctl.LookPath}, Dir: "/",
		Restart: config.RestartAlways, Backoff: config.Backoff{Min: 100, Max: 5000}, StopTimeout: 1000,
		Limits: config.Limits{MemoryMB: 64, PIDs: 64},
		User:   &config.User{UID: config.StatusUser, GID: config.StatusUser, Name: statusd, Home: "/"},
		// Not even those that its user could be given.
		Capabilities: []string{}, NoNewPrivileges: config.On, ReadOnlyRoot: config.On,
	}
	if page.Role != "" {
		s.Argv = append(s.Argv, "-interface", page.Role)
		s.Needs = []string{page.Role}
	}
	spec := service(cfg, &s)
	spec.OOMScoreAdj = 900
	return spec
}

func isDaemon(name string) bool {
	return slices.Contains([]string{agentProgram, netProgram, logProgram, ntpProgram, statusd, config.DataNeed, config.UpdateName}, name)
}

// Behind a name with one of these, what a service may need: that the settings of a role
// are recorded, for what a service changes as soon as it runs is to be in the log, and
// that a service was started or, if it is a oneshot, is done. No role's name has a slash.
const (
	recorded = "/recorded"
	ready    = "/ready"
)

// specs returns what is to run: our daemons, the services of the configuration
// and, for debugging, a shell on the console.
func specs(cfg *config.Config) []supervise.Spec {
	specs := daemons(cfg)
	if cfg.Data.Enabled() {
		specs = append(specs, dataMount())
	}
	if updatable(cfg) {
		specs = append(specs, updateConfirmation())
	}
	if cfg.Status.Enabled() {
		specs = append(specs, statusPage(cfg))
	}
	for i := range cfg.Services {
		specs = append(specs, service(cfg, &cfg.Services[i]))
	}
	if cfg.Debug {
		if sh, ok := shell(); ok {
			specs = append(specs, sh)
		}
	}
	return specs
}

func service(cfg *config.Config, s *config.Service) supervise.Spec {
	least, most := s.Backoff.Bounds()
	spec := supervise.Spec{
		Name: s.Name, Path: s.Argv[0], Argv: s.Argv, Env: s.Env, Dir: s.Dir,
		Needs: needs(cfg, s), Provides: s.Name + ready, Oneshot: s.Type == config.TypeOneshot,
		Restart: supervise.Policy(s.Restart), Backoff: supervise.Backoff{Min: least, Max: most},
		Limits: &cgroup.Limits{
			Memory: int64(s.Limits.MemoryMB) << 20, CPUPercent: s.Limits.CPUPercent, CPUWeight: s.Limits.CPUWeight, PIDs: s.Limits.PIDs,
		},
		Stage: stageServices, StopTimeout: time.Duration(s.StopTimeout) * time.Millisecond,
	}
	if s.Confined() || s.NoNewPrivileges == config.On {
		spec.Path, spec.Argv = "/sbin/"+confine.Helper, confinement(s).Args(spec.Path, spec.Argv)
	}
	if u := s.User; u != nil {
		// In front of what the service's own environment says.
		spec.Env = slices.Concat([]string{"USER=" + u.Name, "LOGNAME=" + u.Name, "HOME=" + u.Home}, s.Env)
	}
	return spec
}

// needs returns all that must be up before the service is started.
func needs(cfg *config.Config, s *config.Service) []string {
	var needs, behind []string
	for _, name := range s.Needs {
		switch _, role := cfg.Role(name); {
		case !role: // a service, or the data
			needs = append(needs, name+ready)
		case cfg.Shadow.Enabled():
			behind = append(behind, name+recorded)
			fallthrough
		default:
			needs = append(needs, name)
		}
	}
	return append(needs, behind...)
}

func confinement(s *config.Service) confine.Spec {
	spec := confine.Spec{
		Name: s.Name, Capabilities: s.Capabilities, NoNewPrivileges: s.NoNewPrivileges == config.On,
		ReadOnlyRoot: s.ReadOnlyRoot == config.On, Writable: s.Writable,
	}
	if u := s.User; u != nil {
		spec.User = &confine.User{UID: u.UID, GID: u.GID, Groups: u.Groups}
	}
	return spec
}

// shell returns the first shell the image has, on the console.
func shell() (supervise.Spec, bool) {
	tty, err := boot.ConsoleTTY()
	if err != nil {
		return supervise.Spec{}, false
	}
	for _, path := range []string{"/bin/sh", "/bbin/gosh", "/bbin/elvish"} {
		if _, err := os.Stat(path); err == nil {
			return supervise.Spec{
				Name: "shell", Path: path, Argv: []string{path}, Dir: "/", Terminal: tty,
				Restart: supervise.Always, Backoff: supervise.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second},
				Stage: stageServices, StopTimeout: time.Second,
			}, true
		}
	}
	return supervise.Spec{}, false
}
