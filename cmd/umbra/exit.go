// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/hotplug"
	"github.com/umbra-vm/umbra/migrate/xen"
)

// The exit codes. They are an interface: scripts act on them.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitRefused    = 3
	exitRolledBack = 4
	exitUnknown    = 5
	exitLacks      = 6
)

func exitHelp() string {
	var b strings.Builder
	for _, c := range []struct {
		code int
		text string
	}{
		{exitOK, "done"},
		{exitFailed, "failed"},
		{exitUsage, "wrong usage, or a fault in an image description (file, line and key are named)"},
		{exitRefused, "refused before anything was changed: what is needed is not there, or is in use"},
		{exitRolledBack, "a migration failed; the guest runs on the source, as before"},
		{exitUnknown, "a migration failed, and it is not known that the guest runs: look before you act"},
		{exitLacks, "the guest runs, but lacks a device or may still lose one: see umbra migrate --help"},
	} {
		fmt.Fprintf(&b, "  %d  %s\n", c.code, c.text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// codeError is an error with the exit code it asks for.
type codeError struct {
	code int
	error
}

func (e *codeError) Unwrap() error { return e.error }

// refused marks an error as one before which nothing was changed.
func refused(err error) error { return &codeError{exitRefused, err} }

func exitCode(err error) int {
	var coded *codeError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, image.ErrConfig):
		return exitUsage
	case errors.Is(err, image.ErrNoSource), errors.Is(err, image.ErrNoBundle):
		return exitRefused
	}
	return exitFailed
}

// migrateCode is exitCode for what hotplug.Run and xen.Plan.Move returned.
func migrateCode(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, xen.ErrNoDevices) {
		return exitLacks
	}
	if errors.Is(err, xen.ErrSourceLeft) {
		return exitFailed
	}
	for _, e := range []error{migrate.ErrUnknownOutcome, migrate.ErrSourceNotResumed, migrate.ErrSourceLost} {
		if errors.Is(err, e) {
			return exitUnknown
		}
	}
	for _, e := range []error{hotplug.ErrNotPlugged, hotplug.ErrNotPluggedBack, hotplug.ErrPending} {
		if errors.Is(err, e) {
			return exitLacks
		}
	}
	var changed *hotplug.Error
	if errors.As(err, &changed) {
		return exitRolledBack
	}
	for _, e := range []error{
		migrate.ErrNotRunning, migrate.ErrNotIncoming, migrate.ErrCapability, migrate.ErrNoDevice,
		hotplug.ErrOptions, hotplug.ErrInUse,
	} {
		if errors.Is(err, e) {
			return exitRefused
		}
	}
	return exitRolledBack
}
