// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package data

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/internal/onestep"
)

// The states of the data.
const (
	Mounted  = "mounted"
	ReadOnly = "read-only" // mounted, but the file system has errors
	Waiting  = "waiting"   // for the disk, or for one with a file system
)

// Status is what is known of the data. Sizes are in bytes.
type Status struct {
	State  string
	Path   string
	Device string
	Size   int64
	Free   int64
	// Errors counts those of the file system since e2fsck looked last.
	Errors  int
	Message string // why the state is not Mounted
}

// note is what [Keep] leaves behind.
type note struct {
	Device  string `json:"device,omitempty"`
	Message string `json:"message,omitempty"`
}

// save replaces the file.
func (n note) save(file string) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return onestep.Replace(file, text, 0o644)
}

// Look returns what became of the data: what the kernel says now and, if it is not
// mounted, what [Keep] has left in the file of that name.
func Look(file string) Status {
	s := Status{State: Waiting, Path: config.DataPath, Message: "nobody has looked for it yet"}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	m, ok := mountAt(string(mounts), config.DataPath)
	if !ok {
		var n note
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &n) == nil {
			s.Device, s.Message = n.Device, n.Message
		}
		return s
	}
	s.State, s.Device, s.Message = Mounted, filepath.Base(m.device), ""
	// How many errors: fs/ext4/sysfs.c, errors_count.
	if text, err := os.ReadFile(filepath.Join("/sys/fs/ext4", s.Device, "errors_count")); err == nil {
		s.Errors, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if m.readOnly {
		s.State, s.Message = ReadOnly, readOnly(s.Device)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Path, &fs); err == nil {
		s.Size, s.Free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	}
	return s
}
