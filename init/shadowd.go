// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"os/signal"

	"github.com/umbra-vm/umbra/init/internal/agent"
	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"golang.org/x/sys/unix"
)

// shadowd is the agent: it loads every driver, and keeps the roles alive.
func shadowd([]string) int {
	inherited := notify.Inherited() // before anything else opens files
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, faults := loadConfig()
	log := daemonLogger(agentProgram, cfg.Debug)
	pid1 := notify.NewClient("")
	err := agent.Run(ctx, agent.Options{
		Config: cfg, Faults: faults, Store: pid1, Inherited: inherited, Recording: pid1.SetRecorded, PID1: pid1Client{pid1},
		Data:    func() *ctl.Data { return lookAtData(cfg) },
		Update:  func() *ctl.Update { return lookAtUpdate(cfg) },
		Moved:   tellMoved(movedFile, log),
		Version: version, Logger: log,
	})
	if err != nil {
		log.Error("shadowd ends", "err", err)
		return 1
	}
	return 0
}
