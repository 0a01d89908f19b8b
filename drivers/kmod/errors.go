// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmod

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors that callers act on. They come wrapped: use errors.Is.
var (
	// ErrNoModule: neither a module nor an alias of that name is in the index.
	ErrNoModule = errors.New("no such module")
	// ErrCycle: modules.dep says that a module needs itself.
	ErrCycle = errors.New("dependency cycle")
	// ErrInUse: something holds the module: another module, an open file, a
	// mounted file system; or it was built without a way to leave.
	ErrInUse = errors.New("module is in use")
	// ErrBuiltin: the module is part of the kernel image and cannot leave it.
	ErrBuiltin = errors.New("module is built into the kernel")
	// ErrLoaded: parameters were given for a module that is there already.
	ErrLoaded = errors.New("module is already loaded, its parameters stay as they are")
	// ErrBusy: the module was being loaded or unloaded by somebody else, and
	// that did not end.
	ErrBusy = errors.New("module is changing its state")
)

// An OpError is an operation on a module that failed.
type OpError struct {
	Op     string // "load", "unload" or "resolve"
	Module string // name, with underscores
	Err    error
}

func (e *OpError) Error() string { return fmt.Sprintf("%s module %s: %v", e.Op, e.Module, e.Err) }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// explain puts into words what finit_module(2) means by an error number
// (kernel/module/main.c and signing.c); the number alone sends people to the
// wrong place: ENOENT, for one, is not about a file.
func explain(err error) error {
	var text string
	switch {
	case errors.Is(err, unix.ENOENT):
		text = "it needs a symbol that no loaded module exports"
	case errors.Is(err, unix.ENOEXEC):
		text = "not a module for this kernel (other version or architecture)"
	case errors.Is(err, unix.ENOKEY):
		text = "not signed with a key the kernel knows"
	case errors.Is(err, unix.EKEYREJECTED):
		text = "the kernel rejects its signature"
	case errors.Is(err, unix.EPERM):
		text = "the kernel permits no module loading (CAP_SYS_MODULE, lockdown or modules_disabled)"
	case errors.Is(err, unix.EINVAL):
		text = "the module or one of its parameters is invalid"
	default:
		return err
	}
	return fmt.Errorf("%s: %w", text, err)
}
