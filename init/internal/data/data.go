// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package data mounts the disk on which a guest keeps what is to outlive its boot, and
// says what became of it.
//
// It looks at bytes that are not the image's and loads drivers to get at them, so it is
// not for process 1. It never makes a file system, nor repairs one, and must never know
// who needs the data.
package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/disks"
)

// pause is how long the disk is left alone after it could not be had: disks come by
// hot-plug, too.
const pause = time.Second

// Errors that a caller may want to tell apart.
var (
	// ErrFileSystem: the disk has no file system that can be used.
	ErrFileSystem = errors.New("no usable file system")
	// ErrReadOnly: the file system is mounted, and cannot be written to.
	ErrReadOnly = errors.New("mounted read-only")
)

// Keep loads the modules and tries to mount the disk on [config.DataPath] until it can be
// written to, or ctx ends. What keeps it from that is told once, and kept in the file of
// that name for [Look]. Whoever was killed over it may begin again at any point.
func Keep(ctx context.Context, log *slog.Logger, want config.Data, modules []string, file string) error {
	hw, err := disks.NewDrivers(log, modules)
	if err != nil {
		return err
	}
	var last note
	for {
		hw.Load(ctx)
		n, err := try(log, want)
		if n != last {
			if err != nil {
				log.Warn("data: services that need it wait: " + n.Message)
			}
			if err := n.save(file); err != nil {
				log.Warn("what became of the data cannot be told", "err", err)
			}
			last = n
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try mounts the disk, unless it is mounted.
func try(log *slog.Logger, want config.Data) (note, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return note{Message: err.Error()}, err
	}
	if m, ok := mountAt(string(mounts), config.DataPath); ok {
		n := note{Device: filepath.Base(m.device)}
		if m.readOnly {
			n.Message = readOnly(n.Device)
			return n, ErrReadOnly
		}
		return n, nil
	}
	name, err := disks.Find(disks.Class, disks.Wanted(want))
	if err != nil {
		return note{Message: err.Error()}, err
	}
	n := note{Device: name}
	if err := mount(log, filepath.Join("/dev", name), config.DataPath); err != nil {
		n.Message = err.Error()
		if errors.Is(err, ErrReadOnly) {
			n.Message = readOnly(name)
		}
		return n, err
	}
	return n, nil
}

func readOnly(device string) string {
	return fmt.Sprintf("the file system on %s has errors and is mounted read-only; "+
		"power the guest off and have e2fsck look at it", device)
}

// mount mounts the file system of a device. The kernel plays its journal back. One that
// is marked to have errors is mounted read-only, for writing could make them worse.
func mount(log *slog.Logger, dev, dir string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	head := make([]byte, superblockAt+superblockSize)
	_, err = io.ReadFull(f, head)
	f.Close()
	if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrFileSystem, dev, err)
	}
	s, err := parseSuperblock(head[superblockAt:])
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME)
	if s.errors {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(dev, dir, fsType, flags, "errors=remount-ro"); err != nil {
		return fmt.Errorf("%w: mount %s: %w", ErrFileSystem, dev, err)
	}
	if s.errors {
		return fmt.Errorf("%w: %s has errors", ErrReadOnly, dev)
	}
	log.Info(fmt.Sprintf("data: %s is mounted on %s", filepath.Base(dev), dir), "journal_replayed", s.recover)
	return nil
}
