// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config/slot"
	"github.com/umbra-vm/umbra/init/internal/disks"
)

// ErrBusy: another process is at the disk.
var ErrBusy = errors.New("another update is going on")

// What f of withSlots does in the directory.
const (
	reads  = unix.MS_RDONLY // a look changes nothing on the disk
	writes = 0
)

// withSlots calls f with the directory of the slots, mounted for it alone and for as long
// as it takes: in a mount namespace that ends with the thread, and so with a process that
// is killed. Only one is let in at a time, by a lock in the directory run.
func withSlots(run string, access uintptr, f func(dir string) error) error {
	lock, err := os.OpenFile(filepath.Join(run, "update.lock"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	name, err := disks.Find(disks.Class, disks.Wanted{Partition: slot.Partition})
	if err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: Go ends the thread with the goroutine
		done <- mounted(filepath.Join("/dev", name), filepath.Join(run, "slots"), access, f)
	}()
	return <-done
}

func mounted(dev, at string, access uintptr, f func(dir string) error) (err error) {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	flags := unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | access
	if err := unix.Mount(dev, at, "vfat", flags, "umask=0077,errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	defer func() {
		if e := unix.Unmount(at, 0); e != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", dev, e))
		}
	}()
	return f(filepath.Join(at, slot.Dir))
}
