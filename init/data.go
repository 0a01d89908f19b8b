// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/data"
	"github.com/umbra-vm/umbra/init/internal/supervise"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// mountData is the name of the program that mounts the disk for data.
const mountData = "mount-data"

// dataFile is where it leaves why it waits.
var dataFile = filepath.Join(boot.RunDir, "data.json")

// keepData is the program.
func keepData([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, _ := loadConfig() // faults are told by others
	log := daemonLogger(mountData, cfg.Debug)
	if err := data.Keep(ctx, log, cfg.Data, cfg.Disks, dataFile); err != nil {
		log.Error("data is not mounted", "err", err)
		return 1
	}
	return 0
}

// dataMount is the program as PID 1 looks after it: services that need the data are
// started once it has ended well.
func dataMount() supervise.Spec {
	spec := untilDone(config.DataNeed, mountData)
	spec.Provides = config.DataNeed + ready
	return spec
}

// lookAtData returns what the agent tells of the data, nil if there is to be none.
func lookAtData(cfg *config.Config) *ctl.Data {
	if !cfg.Data.Enabled() {
		return nil
	}
	d := ctl.Data(data.Look(dataFile))
	return &d
}
