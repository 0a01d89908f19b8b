// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package confine gives up, for a program, what it is not to have: root's identity,
// capabilities, the way to new privileges, a writable root.
//
// It works in the program's own process, between PID 1's fork and the program: PID 1
// starts [Helper] with a [Spec], which becomes the program. A step that fails ends that
// process, and nobody else's. It must never know why a program is confined.
package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Helper is the name of the program that confines itself and becomes another.
const Helper = "exec-service"

// ExitFailed is its exit code if it could not; that of shells, of nohup and of env.
const ExitFailed = 126

// User is whom a program runs as.
type User struct {
	UID, GID int
	Groups   []int // supplementary
}

// A Spec says what is given up.
type Spec struct {
	// Name is that of the program's own directories below /run and /var/lib.
	Name string
	User *User // nil: as it is

	// Capabilities are those that are left in the bounding set and, of a user other
	// than root, those that it has. nil: as it is.
	Capabilities    []string
	NoNewPrivileges bool

	// ReadOnlyRoot makes all read-only but the directories of Writable, of the program,
	// and those that any program writes to.
	ReadOnlyRoot bool
	Writable     []string
}

// Args returns the arguments, the program's name included, with which Helper becomes
// the program at path.
func (s Spec) Args(path string, argv []string) []string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // there is nothing in a Spec that could not be encoded
	}
	return append([]string{Helper, string(text), path}, argv...)
}

// Main is Helper. It returns only if it fails.
func Main(args []string) (code int) {
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, "umbra: not started:", err)
	}
	return ExitFailed
}

func run(args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("%s is for init alone", Helper)
	}
	var s Spec
	if err := json.Unmarshal([]byte(args[1]), &s); err != nil {
		return fmt.Errorf("%s: %w", Helper, err)
	}
	// What follows is a thread's, and that of whatever the thread becomes.
	runtime.LockOSThread()
	if err := s.apply(); err != nil {
		return err
	}
	if err := syscall.Exec(args[2], args[3:], os.Environ()); err != nil {
		return fmt.Errorf("%s: %w", args[2], err)
	}
	return nil
}

func (s Spec) apply() error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := s.makeDirs(); err != nil {
		return fmt.Errorf("own directories: %w", err)
	}
	if s.ReadOnlyRoot {
		if err := readOnlyRoot(s.writable()); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	// The working directory as it is mounted now.
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("working directory %s: %w", dir, err)
	}
	if err := s.lower(); err != nil {
		return err
	}
	if s.NoNewPrivileges {
		if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no new privileges: %w", err)
		}
	}
	return nil
}

// dirs are the program's own.
func (s Spec) dirs() []string { return []string{"/run/" + s.Name, "/var/lib/" + s.Name} }

// makeDirs makes the program's own directories, and gives them to its user.
func (s Spec) makeDirs() error {
	for _, dir := range s.dirs() {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if s.User == nil {
			continue
		}
		if err := os.Lchown(dir, s.User.UID, s.User.GID); err != nil {
			return err
		}
	}
	return nil
}

// writable are the directories below a read-only root that can be written to, those
// above others first.
func (s Spec) writable() []string {
	all := slices.Concat([]string{"/dev/shm", "/run", "/tmp", "/var/tmp"}, s.dirs(), s.Writable)
	slices.Sort(all)
	return slices.Compact(all)
}

// readOnlyRoot makes all that is mounted read-only but the directories given.
//
// The root file system is the kernel's rootfs, which nobody can mount another way; but
// whether a mount may be written through is a property of the mount, and those of a
// mount namespace are its own (mount_setattr(2)). Device nodes, pipes and sockets work
// as ever.
func readOnlyRoot(writable []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	for _, dir := range writable {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, readOnly); err != nil {
		return err
	}
	for _, dir := range writable {
		again := &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE, again); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// lower gives up capabilities and root. The library does so in all threads, and keeps
// what the next step needs; all that is not ambient ends with the exec
// (capabilities(7)).
func (s Spec) lower() error {
	if s.User != nil {
		if err := cap.SetGroups(s.User.GID, s.User.Groups...); err != nil {
			return fmt.Errorf("groups: %w", err)
		}
		if err := cap.SetUID(s.User.UID); err != nil {
			return fmt.Errorf("user %d: %w", s.User.UID, err)
		}
	}
	if s.Capabilities == nil && !s.drops() {
		return nil
	}
	iab, err := s.vectors()
	if err != nil {
		return err
	}
	if err := iab.SetProc(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// drops reports whether the program is another user's than root's.
func (s Spec) drops() bool { return s.User != nil && s.User.UID != 0 }

// vectors returns what the program's capabilities become.
func (s Spec) vectors() (*cap.IAB, error) {
	iab := cap.NewIAB()
	for c := range cap.MaxBits() {
		if err := iab.SetVector(cap.Bound, true, c); err != nil {
			return nil, err
		}
	}
	for _, name := range s.Capabilities {
		c, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return nil, fmt.Errorf("capability %s: %w", name, err)
		}
		if err := iab.SetVector(cap.Bound, false, c); err != nil {
			return nil, fmt.Errorf("capability %s: %w", name, err)
		}
		if !s.drops() {
			continue
		}
		if err := iab.SetVector(cap.Amb, true, c); err != nil {
			return nil, fmt.Errorf("capability %s: %w", name, err)
		}
	}
	return iab, nil
}
