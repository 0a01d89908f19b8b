// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/clock"
	"github.com/umbra-vm/umbra/init/internal/netcfg"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// ntpd keeps the clock right by what NTP servers say.
func ntpd([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, _ := loadConfig() // PID 1 has told what is wrong with it
	clock.New(clock.Options{
		Servers: func() []string { return timeServers(cfg.NTP, netState) },
		Moved:   moves(ctx, movedFile, time.Second),
		Clock:   clock.Kernel{}, Logger: daemonLogger(ntpProgram, cfg.Debug),
	}).Run(ctx)
	return 0
}

// timeServers returns those of the configuration and those that DHCP offers, if wanted,
// [config.MaxTimeServers] of them at the most.
func timeServers(cfg config.NTP, leases string) []string {
	servers := slices.Clone(cfg.Servers)
	if cfg.DHCP != config.On {
		return servers
	}
	for _, a := range netcfg.TimeServers(leases) {
		if s := a.String(); len(servers) < config.MaxTimeServers && !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	return servers
}

// movedFile changes whenever the agent finds that the guest has moved. It is on a tmpfs.
var movedFile = filepath.Join(boot.RunDir, "moved")

// tellMoved returns what changes the file.
func tellMoved(file string, log *slog.Logger) func() {
	return func() {
		now, err := ctl.ReadClock()
		if err == nil {
			err = os.WriteFile(file, fmt.Appendln(nil, now.Boottime), 0o644)
		}
		if err != nil {
			log.Warn("nobody is told that the guest has moved", "err", err)
		}
	}
}

// moves returns a channel that tells of each change of the file, which is looked at every
// so often: the network takes longer to come back after a move.
func moves(ctx context.Context, file string, every time.Duration) <-chan struct{} {
	told := make(chan struct{})
	last, _ := os.ReadFile(file)
	go func() {
		for {
			select {
			case <-time.After(every):
			case <-ctx.Done():
				return
			}
			now, err := os.ReadFile(file)
			if err != nil || slices.Equal(now, last) {
				continue
			}
			last = now
			select {
			case told <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return told
}
