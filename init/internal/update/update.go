// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package update writes a new version of the image beside the one that runs, and has the
// new one prove itself once it was booted.
//
// A version that does not do so in time is left by a reboot, and after [slot.Tries] of them
// by the loader. All that is remembered of this is in the names of files on the disk with
// the slots: whoever is killed may begin again at any point. The package must never touch
// the version that runs but to say that it has proved itself, and never knows what a
// program is for.
package update

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/slot"
	"github.com/umbra-vm/umbra/init/internal/disks"
	"github.com/umbra-vm/umbra/init/notify"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// pause is between two looks at what a version on trial does, and for a disk that is not
// there yet.
const pause = time.Second

// Guest is what is asked, and told, about the guest.
type Guest interface {
	Status(ctx context.Context) (*notify.Status, error) // of PID 1
	Roles(ctx context.Context) ([]ctl.RoleStatus, error)
	Uptime() time.Duration
	Reboot(ctx context.Context) error
}

// Install writes the image with that sum, so that it is booted next time, and returns its
// version. The state goes to a file in the directory run, for [Look].
func Install(ctx context.Context, run string, running slot.Slot, image io.Reader, sum [sha256.Size]byte) (next slot.Slot, err error) {
	if running == (slot.Slot{}) {
		return next, fmt.Errorf("%w: its kernel command line has no %s", slot.ErrNone, slot.Word)
	}
	err = withSlots(run, writes, func(dir string) (err error) {
		next, err = install(ctx, dir, running, image, sum)
		return errors.Join(err, remember(run, dir, running))
	})
	return next, err
}

// Confirm waits until the version that runs, which is cfg.Slot, has proved itself, and has
// that remembered. If it does not in time the guest is rebooted, for which it waits.
func Confirm(ctx context.Context, log *slog.Logger, run string, cfg *config.Config, guest Guest) error {
	hw, err := disks.NewDrivers(log, cfg.Disks)
	if err != nil {
		return err
	}
	d, err := find(ctx, log, hw, run, cfg.Slot)
	if err != nil {
		return err
	}
	if !d.Running.OnTrial {
		return nil
	}
	log.Info(fmt.Sprintf("update: %s is on trial", cfg.Slot), "tries_left", d.Running.Left)
	t := newTrial(cfg.Update)
	// The trial cannot have begun before the disk was there.
	t.timeout = max(t.timeout, guest.Uptime()+2*t.settle)
	for {
		v, why := judge(ctx, &t, cfg, guest)
		switch v {
		case healthy:
			if err := confirm(log, run, cfg.Slot); !errors.Is(err, ErrBusy) {
				return err
			}
		case failed:
			log.Error(fmt.Sprintf("update: %s has not proved itself in %v: %s; the guest reboots", cfg.Slot, t.timeout,
				cmp.Or(why, "all is well, but not for long enough")))
			if err := guest.Reboot(ctx); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		if err := sleep(ctx); err != nil {
			return err
		}
	}
}

func newTrial(u config.Update) trial {
	return trial{settle: time.Duration(u.Settle) * time.Second, timeout: time.Duration(u.Timeout) * time.Second}
}

// find waits for the disk with the slots. Without it nobody knows whether the version is on
// trial, and one that is not must not be left.
func find(ctx context.Context, log *slog.Logger, hw *disks.Drivers, run string, running slot.Slot) (d slot.Disk, err error) {
	var told string
	for {
		hw.Load(ctx)
		err := withSlots(run, reads, func(dir string) (err error) {
			d, err = look(dir, running)
			return errors.Join(err, remember(run, dir, running))
		})
		if err == nil {
			return d, nil
		}
		if err.Error() != told && !errors.Is(err, ErrBusy) {
			told = err.Error()
			log.Warn("update: nothing is known of the versions on the disk", "err", err)
			if err := save(run, Status{State: NoSlot, Version: running.Version, Message: told}); err != nil {
				return d, err
			}
		}
		if err := sleep(ctx); err != nil {
			return d, err
		}
	}
}

// judge looks at the guest once and says what is wrong, if something is.
func judge(ctx context.Context, t *trial, cfg *config.Config, guest Guest) (verdict, string) {
	st, err := guest.Status(ctx)
	if err != nil {
		return t.look(guest.Uptime(), err.Error(), nil), err.Error()
	}
	roles, err := guest.Roles(ctx)
	if err != nil {
		return t.look(guest.Uptime(), err.Error(), nil), err.Error()
	}
	why := wrong(cfg, st, roles)
	return t.look(guest.Uptime(), why, starts(st.Services)), why
}

// confirm has it remembered that the version has proved itself.
func confirm(log *slog.Logger, run string, running slot.Slot) error {
	err := withSlots(run, writes, func(dir string) error {
		return errors.Join(bless(dir, running), remember(run, dir, running))
	})
	if err != nil {
		return err
	}
	log.Info(fmt.Sprintf("update: %s has proved itself", running))
	return nil
}

// remember leaves what is on the disk for [Look].
func remember(run, dir string, running slot.Slot) error {
	d, err := look(dir, running)
	if err != nil {
		return err
	}
	return save(run, statusOf(d))
}

func save(run string, s Status) error { return s.save(filepath.Join(run, statusFile)) }

func sleep(ctx context.Context) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
