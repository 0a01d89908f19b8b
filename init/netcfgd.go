// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"os/signal"
	"path/filepath"

	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/netcfg"
	"github.com/umbra-vm/umbra/init/notify"
	"golang.org/x/sys/unix"
)

// netState is the directory in which netcfgd keeps what it knows of interfaces.
var netState = filepath.Join(boot.RunDir, "net")

// netcfgd configures the interfaces of network roles until it is told to end.
func netcfgd([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, _ := loadConfig() // PID 1 has told what is wrong with it
	d := netcfg.New(netcfg.Options{
		Roles:      cfg.Roles,
		StateDir:   netState,
		ResolvConf: "/etc/resolv.conf",
		Hostname:   cfg.Hostname,
		Tell:       notify.NewClient("").SetRole,
		Logger:     daemonLogger(netProgram, cfg.Debug),
	})
	_ = d.Run(ctx) // it ends for one reason only
	return 0
}
