// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package notify

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// EnvFDs names the descriptors a program inherits from its predecessor,
// separated by colons; the first is descriptor 3.
const EnvFDs = "UMBRA_FDS"

// Inherited returns the descriptors that PID 1 kept for this program, by name,
// and takes [EnvFDs] out of the environment so that no child mistakes them for
// its own. It is to be called once, before anything else opens files; they are
// closed on exec from then on.
func Inherited() map[string]*os.File {
	files := inherited(os.Getenv(EnvFDs), 3)
	os.Unsetenv(EnvFDs)
	return files
}

func inherited(names string, first int) map[string]*os.File {
	files := make(map[string]*os.File)
	if names == "" {
		return files
	}
	for i, name := range strings.Split(names, ":") {
		fd := first + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			continue
		}
		files[name] = os.NewFile(uintptr(fd), name)
	}
	return files
}
