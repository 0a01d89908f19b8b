// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package fdstore keeps open file descriptors by name for a program that may
// be killed at any instant and whose successor is to go on with them.
//
// It knows descriptors and names. It must never know what a descriptor is:
// it duplicates nothing, reads nothing and changes no flag, because flags such
// as O_NONBLOCK are shared with whoever holds the same open file.
package fdstore

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/umbra-vm/umbra/init/notify"
	"golang.org/x/sys/unix"
)

// Max is how many descriptors a Store keeps.
const Max = 128

// Errors of a Store.
var (
	ErrFull = errors.New("descriptor store is full")
	ErrName = errors.New("not a name for a descriptor: want 1 to 64 letters, digits and . _ -")
	ErrNone = errors.New("no descriptor has that name")
)

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// A Store keeps descriptors in the order in which their names came. The zero
// Store is empty and ready to use; it is safe for concurrent use.
type Store struct {
	mu    sync.Mutex
	names []string
	fds   []int
}

// Put keeps fd under name. The descriptor kept under that name before is
// closed. The Store owns fd from then on, and closes it if there is an error.
func (s *Store) Put(name string, fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := func() error {
		if !validName.MatchString(name) {
			return ErrName
		}
		if i := slices.Index(s.names, name); i >= 0 {
			old := s.fds[i]
			s.fds[i] = fd
			return unix.Close(old)
		}
		if len(s.names) == Max {
			return ErrFull
		}
		s.names, s.fds = append(s.names, name), append(s.fds, fd)
		return nil
	}()
	if err != nil {
		if errors.Is(err, ErrName) || errors.Is(err, ErrFull) {
			unix.Close(fd)
		}
		return fmt.Errorf("keep descriptor %q: %w", name, err)
	}
	return nil
}

// Remove closes and forgets the descriptor of that name.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.names, name)
	if i < 0 {
		return fmt.Errorf("remove descriptor %q: %w", name, ErrNone)
	}
	fd := s.fds[i]
	s.names, s.fds = slices.Delete(s.names, i, i+1), slices.Delete(s.fds, i, i+1)
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("remove descriptor %q: %w", name, err)
	}
	return nil
}

// Names returns the names in their order.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.names)
}

// Lend calls start with the descriptors, in the order of their names, and the
// environment that names them. None is removed before start returns.
func (s *Store) Lend(start func(fds []int, env []string) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return start(slices.Clone(s.fds), []string{notify.EnvFDs + "=" + strings.Join(s.names, ":")})
}
