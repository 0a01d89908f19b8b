// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package kmod

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/drivers/internal/ko"
)

// Kernel is the module loader of a kernel. Errors are those of the system
// calls, matchable as unix.Errno.
type Kernel interface {
	// InitModule loads the module in file, as finit_module(2). It returns when
	// the module's init function has, and so has the probe of every device it
	// serves (do_init_module waits for asynchronous ones).
	InitModule(file *os.File, params string) error
	// DeleteModule unloads the module called name, as delete_module(2) with
	// O_NONBLOCK: EWOULDBLOCK when something holds it. It returns when the
	// module's drivers have let go of their devices, which takes seconds for
	// some drivers whose device is gone.
	DeleteModule(name string) error
}

// Linux is the running kernel.
type Linux struct{}

var _ Kernel = Linux{}

// InitModule implements Kernel. Compressed files are unpacked here and go
// through init_module(2): MODULE_INIT_COMPRESSED_FILE needs a kernel built with
// CONFIG_MODULE_DECOMPRESS and its one configured format.
func (Linux) InitModule(file *os.File, params string) error {
	if ko.Compressed(file.Name()) {
		image, err := ko.Unpack(file)
		if err != nil {
			return err
		}
		return ignoreEINTR(func() error { return unix.InitModule(image, params) })
	}
	return ignoreEINTR(func() error { return unix.FinitModule(int(file.Fd()), params, 0) })
}

// DeleteModule implements Kernel.
func (Linux) DeleteModule(name string) error {
	return ignoreEINTR(func() error { return unix.DeleteModule(name, unix.O_NONBLOCK) })
}

func ignoreEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
