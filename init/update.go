// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/boot"
	"github.com/umbra-vm/umbra/init/internal/supervise"
	"github.com/umbra-vm/umbra/init/internal/update"
	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// confirmUpdate is the name of the program that has a new version prove itself.
const confirmUpdate = "confirm-update"

// confirmVersion is the program.
func confirmVersion([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, _ := loadConfig() // faults are told by PID 1, whose status counts
	log := daemonLogger(confirmUpdate, cfg.Debug)
	err := update.Confirm(ctx, log, boot.RunDir, cfg, guest{notify.NewClient("")})
	if err != nil && ctx.Err() == nil {
		log.Error("update: not known whether this version has proved itself", "err", err)
		return 1
	}
	return 0
}

// updateConfirmation is the program as PID 1 looks after it.
func updateConfirmation() supervise.Spec { return untilDone(config.UpdateName, confirmUpdate) }

// guest implements update.Guest.
type guest struct{ *notify.Client }

// Roles implements update.Guest.
func (guest) Roles(ctx context.Context) ([]ctl.RoleStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, shadowctlTimeout)
	defer cancel()
	c, err := ctl.Dial(ctx, ctl.SocketPath, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var st ctl.Status
	err = c.Call(ctx, ctl.CmdStatus, nil, &st)
	return st.Roles, err
}

// Uptime implements update.Guest.
func (guest) Uptime() time.Duration { return boot.Uptime() }

// Reboot implements update.Guest.
func (g guest) Reboot(ctx context.Context) error { return g.Power(ctx, notify.Reboot) }

// lookAtUpdate returns what the agent tells of the versions on the disk, nil if the guest
// was not booted from one.
func lookAtUpdate(cfg *config.Config) *ctl.Update {
	if !updatable(cfg) {
		return nil
	}
	u := ctl.Update(update.Look(boot.RunDir))
	return &u
}

func updatable(cfg *config.Config) bool { return cfg.Slot.Image != "" }

// writeUpdate writes the image in a file, or from standard input, beside the version that
// runs.
func writeUpdate(ctx context.Context, w io.Writer, file, sha256 string) error {
	sum, err := update.ParseSum(sha256)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	image := os.Stdin
	if file != "-" {
		if image, err = os.Open(file); err != nil {
			return err
		}
		defer image.Close()
	}
	cfg, _ := loadConfig()
	next, err := update.Install(ctx, boot.RunDir, cfg.Slot, image, sum)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s is written; the next boot tries it\n", next)
	return err
}
