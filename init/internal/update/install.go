// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config/slot"
)

// Errors that a caller may want to tell apart, beside those of package slot.
var (
	// ErrSum: the image is not the one that was meant.
	ErrSum = errors.New("another SHA-256")
	// ErrNoRoom: the image is larger than what is free.
	ErrNoRoom = errors.New("no room for the image")
	// ErrUnsigned: the version that runs is signed, and this one is not.
	ErrUnsigned = errors.New("not signed")
)

// A version is written under a name that the loader does not know.
const unfinished = "update.tmp"

// syncEvery is after how many bytes what is written goes to the disk. A machine that ends
// in between may leave so much of the file system marked as used by nothing, and no more.
const syncEvery = 4 << 20

// ParseSum reads a SHA-256 as sha256sum prints it.
func ParseSum(s string) (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("%q is no SHA-256: want %d hexadecimal digits", s, 2*len(sum))
	}
	return [sha256.Size]byte(b), nil
}

// install writes the image with that sum beside the version that runs, in the directory of
// the slots, and returns its version. If it cannot, both versions are as they were.
func install(ctx context.Context, dir string, running slot.Slot, image io.Reader, sum [sha256.Size]byte) (slot.Slot, error) {
	disk, err := look(dir, running)
	if err == nil {
		err = disk.Ready()
	}
	if err == nil && len(disk.Others) > 1 { // one that ended before it had removed what it replaced
		err = remove(dir, disk.Stale(disk.Others[0].Name)...)
	}
	if err != nil {
		return slot.Slot{}, err
	}
	name := filepath.Join(dir, unfinished)
	next, err := write(ctx, name, image, sum)
	if err == nil {
		err = disk.Takes(next.Slot)
	}
	if err == nil && !next.signed {
		err = alike(filepath.Join(dir, disk.Running.Name))
	}
	if err != nil {
		return slot.Slot{}, errors.Join(err, remove(dir, unfinished))
	}
	if err := os.Rename(name, filepath.Join(dir, next.TryFile())); err != nil {
		return slot.Slot{}, errors.Join(err, remove(dir, unfinished))
	}
	if err := syncDir(dir); err != nil {
		return slot.Slot{}, err
	}
	return next.Slot, remove(dir, disk.Stale(next.TryFile())...)
}

// alike returns an error that matches [ErrUnsigned] if the version that runs is signed.
func alike(running string) error {
	f, err := os.Open(running)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if p, err := identify(f, info.Size()); err != nil || p.signed {
		return errors.Join(fmt.Errorf("%w, as the version that runs is", ErrUnsigned), err)
	}
	return nil
}

// write writes the image to a file, on the disk when it returns, and looks at it.
func write(ctx context.Context, name string, image io.Reader, sum [sha256.Size]byte) (p program, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	for {
		n, err := io.CopyN(io.MultiWriter(f, hash), image, syncEvery)
		if errors.Is(err, unix.ENOSPC) {
			return p, fmt.Errorf("%w, which has more than %s (update.slot_mb): %w", ErrNoRoom, written(f), err)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return p, fmt.Errorf("write the image: %w", err)
		}
		if err := errors.Join(f.Sync(), ctx.Err()); err != nil {
			return p, fmt.Errorf("write the image: %w", err)
		}
		if n < syncEvery {
			break
		}
	}
	if got := hash.Sum(nil); !bytes.Equal(got, sum[:]) {
		return p, fmt.Errorf("%w: of the %s that were read it is %x, want %x", ErrSum, written(f), got, sum)
	}
	info, err := f.Stat()
	if err != nil {
		return p, err
	}
	return identify(f, info.Size())
}

func written(f *os.File) string {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return "unknown size"
	}
	return fmt.Sprintf("%d bytes", at)
}

// bless gives the version that runs, if it is on trial, the name of one that has proved
// itself.
func bless(dir string, running slot.Slot) error {
	disk, err := look(dir, running)
	if err != nil || !disk.Running.OnTrial {
		return err
	}
	if err := os.Rename(filepath.Join(dir, disk.Running.Name), filepath.Join(dir, running.File())); err != nil {
		return err
	}
	return syncDir(dir)
}

// look returns what is in the directory of the slots.
func look(dir string, running slot.Slot) (slot.Disk, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return slot.Disk{}, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return slot.Look(running, names)
}

// remove removes files, of which some may be gone.
func remove(dir string, names ...string) error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, syncDir(dir))...)
}

// syncDir waits until names and places of files are on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
