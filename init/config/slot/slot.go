// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package slot names the versions of an image that lie side by side on one disk, and
// decides what may happen to them.
//
// A version is a unified kernel image in [Dir] of the EFI system partition. The number of
// times that systemd-boot will still try it is in its file's name, and goes down with each
// try; a file without one has proved itself
// (https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT). The package knows names only and must
// never touch a file.
package slot

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// Partition is the name, in a GPT, of the EFI system partition of a disk with slots.
	Partition = "umbra-slots"

	// Dir is where systemd-boot looks for unified kernel images
	// (https://uapi-group.org/specifications/specs/boot_loader_specification/, type #2).
	Dir = "EFI/Linux"

	// Word is the word of the kernel command line by which a guest knows what it was
	// booted from.
	Word = "umbra.slot"

	// Tries is how often a version is started that has not proved itself yet.
	Tries = 3

	suffix = ".efi"
)

// Errors that a caller may want to tell apart.
var (
	// ErrName: it does not name a version of an image.
	ErrName = errors.New("want IMAGE-VERSION, with numbers for a version, such as app-1.4.2")
	// ErrNone: the version that runs is none of those on the disk.
	ErrNone = errors.New("not booted from a slot")
	// ErrOnTrial: the version that runs has not proved itself, so that it could not be
	// fallen back to.
	ErrOnTrial = errors.New("on trial")
	// ErrOtherImage: it is a version of something else.
	ErrOtherImage = errors.New("another image")
	// ErrNotNewer: systemd-boot starts the newest version, so this one would never run.
	ErrNotNewer = errors.New("not newer")
)

// Slot is a version of an image.
type Slot struct {
	Image   string `json:"image"`
	Version string `json:"version"`
}

var (
	image   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	version = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}$`)
)

// Parse reads what [Slot.String] writes. Errors match [ErrName].
func Parse(s string) (Slot, error) {
	at := strings.LastIndexByte(s, '-')
	if at < 0 {
		return Slot{}, fmt.Errorf("%q: %w", s, ErrName)
	}
	slot := Slot{s[:at], s[at+1:]}
	if !image.MatchString(slot.Image) || !IsVersion(slot.Version) {
		return Slot{}, fmt.Errorf("%q: %w", s, ErrName)
	}
	return slot, nil
}

// IsVersion reports whether it is a version: one to four numbers with dots between them,
// which everybody who compares versions compares alike.
func IsVersion(s string) bool { return version.MatchString(s) }

func (s Slot) String() string { return s.Image + "-" + s.Version }

// File is the name of the file of a version that has proved itself.
func (s Slot) File() string { return s.String() + suffix }

// TryFile is the name of the file of one that has still to do so.
func (s Slot) TryFile() string { return s.String() + "+" + strconv.Itoa(Tries) + suffix }

// Compare is negative if version a is older than b, and 0 if they are the same.
func Compare(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)) // no number begins with a zero
	})
}

// Entry is a file of a version.
type Entry struct {
	Slot
	Name string // of the file

	// OnTrial says that tries are counted: those that are left, and those done.
	OnTrial    bool
	Left, Done int
}

// ParseFile reads the name of a file, IMAGE-VERSION[+LEFT[-DONE]].efi.
func ParseFile(name string) (Entry, bool) {
	stem, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return Entry{}, false
	}
	e := Entry{Name: name}
	stem, counter, counted := strings.Cut(stem, "+")
	if counted {
		left, done, both := strings.Cut(counter, "-")
		if !both {
			done = "0"
		}
		var errLeft, errDone error
		e.Left, errLeft = parseCount(left)
		e.Done, errDone = parseCount(done)
		if errLeft != nil || errDone != nil {
			return Entry{}, false
		}
		e.OnTrial = true
	}
	var err error
	if e.Slot, err = Parse(stem); err != nil {
		return Entry{}, false
	}
	return e, true
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}

// Disk is what is on a disk with slots.
type Disk struct {
	Running Entry
	Others  []Entry // of the same image, the newest first
}

// Look finds the version that runs among the names of the files of [Dir], of which those
// of other images are left out. Errors match [ErrNone].
func Look(running Slot, names []string) (Disk, error) {
	var d Disk
	for _, name := range names {
		switch e, ok := ParseFile(name); {
		case !ok || e.Image != running.Image:
		case e.Slot == running && (d.Running.Name == "" || !e.OnTrial): // two after a crash: what is proved is
			d.Running = e
		case e.Slot != running:
			d.Others = append(d.Others, e)
		}
	}
	slices.SortFunc(d.Others, func(a, b Entry) int { return Compare(b.Version, a.Version) })
	if d.Running.Name == "" {
		return d, fmt.Errorf("%w: the disk has no file of %s", ErrNone, running)
	}
	return d, nil
}

// Ready returns an error that matches [ErrOnTrial] if no other version may be written now.
func (d Disk) Ready() error {
	if d.Running.OnTrial {
		return fmt.Errorf("%s is %w: until it has proved itself the other version is needed", d.Running.Slot, ErrOnTrial)
	}
	return nil
}

// Takes returns why a version may not be written beside the one that runs: an error that
// matches [ErrOtherImage] or [ErrNotNewer].
func (d Disk) Takes(next Slot) error {
	if next.Image != d.Running.Image {
		return fmt.Errorf("%w: it is %s, this is %s", ErrOtherImage, next, d.Running.Slot)
	}
	if Compare(next.Version, d.Running.Version) <= 0 {
		return fmt.Errorf("%w: it is %s, this is %s", ErrNotNewer, next, d.Running.Slot)
	}
	return nil
}

// Stale returns the names of the files that a version which was written as keep leaves
// without a use: the one that runs is what is fallen back to.
func (d Disk) Stale(keep string) []string {
	var names []string
	for _, e := range d.Others {
		if e.Name != keep {
			names = append(names, e.Name)
		}
	}
	return names
}

// Next returns the version that is started next time, if that is another one.
func (d Disk) Next() (Entry, bool) {
	for _, e := range d.Others {
		if d.Running.Name != "" && Compare(e.Version, d.Running.Version) > 0 && (!e.OnTrial || e.Left > 0) {
			return e, true
		}
	}
	return Entry{}, false
}

// Failed returns the newest version that was tried in vain.
func (d Disk) Failed() (Entry, bool) {
	for _, e := range d.Others {
		if e.OnTrial && e.Left == 0 {
			return e, true
		}
	}
	return Entry{}, false
}
