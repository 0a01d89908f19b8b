// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package fdstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/umbra-vm/umbra/init/internal/fdstore"
	"golang.org/x/sys/unix"
)

// eventfd returns a descriptor the test can recognise by its count.
func eventfd(t *testing.T, count uint) int {
	t.Helper()
	fd, err := unix.Eventfd(count, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

func TestStore(t *testing.T) {
	var s fdstore.Store
	a, b, a2 := eventfd(t, 1), eventfd(t, 2), eventfd(t, 3)
	for _, put := range []struct {
		name string
		fd   int
	}{{"net0-tap", a}, {"net1-tap", b}, {"net0-tap", a2}} {
		if err := s.Put(put.name, put.fd); err != nil {
			t.Fatal(err)
		}
	}
	if isOpen(a) {
		t.Error("a descriptor whose name was given to another is still open")
	}
	err := s.Lend(func(fds []int, env []string) error {
		if diff := cmp.Diff([]int{a2, b}, fds); diff != "" {
			t.Errorf("descriptors (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"UMBRA_FDS=net0-tap:net1-tap"}, env); diff != "" {
			t.Errorf("environment (-want +got):\n%s", diff)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.Remove("net0-tap"); err != nil {
		t.Error(err)
	}
	if isOpen(a2) {
		t.Error("a removed descriptor is still open")
	}
	if err := s.Remove("net0-tap"); !errors.Is(err, fdstore.ErrNone) {
		t.Errorf("removing what is not there: %v, want ErrNone", err)
	}
	if diff := cmp.Diff([]string{"net1-tap"}, s.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestRefusedDescriptorsAreClosed(t *testing.T) {
	full := new(fdstore.Store)
	for i := range fdstore.Max {
		if err := full.Put(fmt.Sprint("fd", i), eventfd(t, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		s    *fdstore.Store
		key  string
		want error
	}{
		{"no name", new(fdstore.Store), "", fdstore.ErrName},
		{"a colon would split the environment's list", new(fdstore.Store), "a:b", fdstore.ErrName},
		{"a name of 65 bytes", new(fdstore.Store), strings.Repeat("x", 65), fdstore.ErrName},
		{"a full store", full, "one-more", fdstore.ErrFull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := eventfd(t, 0)
			if err := tt.s.Put(tt.key, fd); !errors.Is(err, tt.want) {
				t.Errorf("Put: %v, want %v", err, tt.want)
			}
			if isOpen(fd) {
				t.Error("the descriptor is still open")
			}
		})
	}
	if err := full.Put("fd0", eventfd(t, 0)); err != nil {
		t.Errorf("a full store takes a name it has: %v", err)
	}
}
