// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// WithPins keeps the programs attached when this process dies between Arm and
// Disarm: they are pinned in dir, which must be on a bpf file system. Nobody
// reads the frames that they see then, but they are counted, see [Orphaned].
func WithPins(dir string) Option { return func(h *Harvester) { h.pins = dir } }

// What is pinned, by file name: two links, and the memory of the counters.
const (
	pinCounters = "counters"
	pinLinks    = "link-"
)

// pin pins what is attached. Without pins a harvest works all the same.
func (h *Harvester) pin() {
	if h.pins == "" {
		return
	}
	err := os.MkdirAll(h.pins, 0o700)
	if err == nil {
		err = h.variables.Pin(filepath.Join(h.pins, pinCounters))
	}
	for i, l := range h.links {
		if err == nil {
			err = l.Pin(filepath.Join(h.pins, fmt.Sprint(pinLinks, i)))
		}
	}
	if err != nil {
		h.log.Warn("harvest: frames that are freed after the death of this process will not be counted", "err", err)
	}
}

// unpin undoes pin, or as much of it as was done.
func (h *Harvester) unpin() error {
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Unpin())
	}
	return errors.Join(append(errs, h.variables.Unpin())...)
}

// Orphaned detaches the programs that a predecessor of this process left armed
// in dir, and returns what its [Counters.Seen] would be now; ok is false if it
// left none.
func Orphaned(dir string) (seen uint64, ok bool, err error) {
	names, err := filepath.Glob(filepath.Join(dir, pinLinks+"*"))
	if err != nil {
		return 0, false, fmt.Errorf("harvest: %w", err)
	}
	var errs []error
	for _, name := range names {
		l, err := link.LoadPinnedLink(name, nil)
		if err == nil {
			err = errors.Join(l.Unpin(), l.Close())
		}
		errs = append(errs, err)
	}
	seen, ok, err = orphanedSeen(filepath.Join(dir, pinCounters))
	if err := errors.Join(append(errs, err)...); err != nil {
		return 0, false, fmt.Errorf("harvest: programs of a predecessor: %w", err)
	}
	return seen, ok, nil
}

func orphanedSeen(name string) (uint64, bool, error) {
	m, err := ebpf.LoadPinnedMap(name, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer m.Close()
	b, err := m.LookupBytes(uint32(0))
	if err := errors.Join(err, m.Unpin()); err != nil {
		return 0, false, err
	}
	spec, err := loadPrograms()
	if err != nil {
		return 0, false, err
	}
	at := spec.Variables["seen"].Offset
	if uint64(len(b)) < uint64(at)+8 {
		return 0, false, fmt.Errorf("%d bytes of counters, want one at %d", len(b), at)
	}
	return binary.NativeEndian.Uint64(b[at:]), true, nil
}
