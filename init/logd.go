// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"os/signal"
	"path/filepath"

	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/syslog"
	"github.com/umbra-vm/umbra/init/notify"
	"golang.org/x/sys/unix"
)

// logd sends what programs print to a syslog server.
func logd([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, _ := loadConfig() // PID 1 has told what is wrong with it
	log := daemonLogger(logProgram, cfg.Debug)
	network, addr, err := cfg.Log.Target()
	if err != nil || network == "" {
		log.Error("there is no syslog server", "err", err)
		return 1
	}
	err = syslog.Run(ctx, syslog.Options{
		Network: network, Address: addr.String(), Hostname: cfg.Hostname,
		Source: notify.NewClient(""), State: filepath.Join(boot.RunDir, "logd.last"), Logger: log,
	})
	if err != nil {
		log.Error("syslog", "err", err)
		return 1
	}
	return 0
}
