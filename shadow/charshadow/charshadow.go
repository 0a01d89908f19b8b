// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package charshadow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/umbra-vm/umbra/drivers"
	"github.com/umbra-vm/umbra/shadow"
	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/journal"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

// Class makes the shadows of devices without a class of their own.
type Class struct {
	sysfs Sysfs
	log   *slog.Logger
}

var _ shadow.Class = (*Class)(nil)

// New returns the generic class.
func New(sysfs Sysfs, log *slog.Logger) *Class { return &Class{sysfs, log} }

// Name returns "char".
func (c *Class) Name() string { return className }

// Owns reports whether dev is for the generic shadow: whatever is no part of
// the machine itself. The kernel drives bridges, memory, processors, interrupt
// and DMA controllers and timers on its own, and a guest without them is none.
// The numbers are those of the PCI Code and ID Assignment Specification.
func (c *Class) Owns(dev drivers.Device) bool {
	const (
		memory, bridge, system, processor = 0x05, 0x06, 0x08, 0x0b

		sdHost, otherSystem = 0x0805, 0x0880
	)
	switch dev.Class >> 16 {
	case memory, bridge, processor:
		return false
	case system:
		sub := dev.Class >> 8
		return sub == sdHost || sub == otherSystem
	}
	return true
}

// Identify tells a device by its address and its ids.
func (c *Class) Identify(dev drivers.Device) shadow.Identity {
	if dev.Address == "" {
		return shadow.Identity{}
	}
	return shadow.Identity{Address: dev.Address, IDs: dev.IDs.String()}
}

// New returns the shadow of a role, with the log that the journal holds.
func (c *Class) New(role shadow.Role, j *journal.Journal) (shadow.Shadow, error) {
	state := j.State()
	s := &charShadow{class: c, role: role.Name, journal: j, log: state.Log}
	if _, err := state.Fact(factSeen, &s.seen); err != nil {
		return nil, fmt.Errorf("role %s: journal: %w", role.Name, err)
	}
	return s, nil
}

// factSeen is the journal's fact that holds charShadow.seen.
const factSeen = "char.seen"

// charShadow is the shadow of one role.
//
// The kernel announces no change of these settings, but keeps them in its own
// memory: they are read when somebody asks, and once more when the device has
// gone and its directory is still there. What differs from what was last seen
// was set by somebody, and goes into the log; what a driver chose on its own
// does not, or the choice of one driver would be forced on the next.
// Parameters are logged in any case: they belong to a module, not to a device.
type charShadow struct {
	class   *Class
	role    string
	journal *journal.Journal

	mu   sync.Mutex
	log  *oplog.Log
	dev  drivers.Device    // zero Address while vacant
	seen map[string]string // key -> value, of dev
}

// Activate reads the settings of old for the last time. There is nothing to
// hold: see the package comment.
func (s *charShadow) Activate(ctx context.Context, old shadow.Old, _ *shadow.Recovery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old.Address == "" || old.Address != s.dev.Address {
		return nil
	}
	err := s.look(ctx)
	s.dev = drivers.Device{}
	return err
}

// Detach has nothing to do.
func (s *charShadow) Detach(context.Context, shadow.Old, *shadow.Recovery) error { return nil }

// Open has nothing to do: applications open such a device themselves.
func (s *charShadow) Open(context.Context, drivers.Device, *shadow.Recovery) error { return nil }

// Complete replays the log on dev and adds to it the parameters that dev's
// modules came with.
func (s *charShadow) Complete(ctx context.Context, dev drivers.Device, rec *shadow.Recovery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dev = drivers.Device{}
	deferred, err := s.class.sysfs.Replay(ctx, dev, s.log.Snapshot())
	if err != nil {
		return err
	}
	s.mark(deferred)
	rec.Defer(summarize(deferred)...)
	rec.Stamp(ctl.StampReplayed)

	now, err := s.class.sysfs.Snapshot(ctx, dev)
	if err != nil {
		return err
	}
	s.dev, s.seen = dev, make(map[string]string)
	for _, op := range now {
		s.seen[op.Key] = op.Value
		if _, known := s.log.Get(op.Key); !known && strings.HasPrefix(op.Key, paramPrefix) {
			s.record(op)
		}
	}
	s.note(s.journal.Fact(factSeen, s.seen))
	return nil
}

// Intact reports whether dev's driver is still the one that was bound.
func (s *charShadow) Intact(_ context.Context, dev drivers.Device) (bool, error) {
	driver, err := os.Readlink(filepath.Join(dev.Path, "driver"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("driver of %s: %w", dev, err)
	}
	if filepath.Base(driver) != dev.Driver {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil { // a predecessor was killed before it had looked
		return false, nil
	}
	s.dev = dev
	return true, nil
}

// Status fills in the counts of the log.
func (s *charShadow) Status(st *ctl.RoleStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	st.Log, st.Deferred = s.log.Len(), len(s.log.Deferred())
}

// Log returns the role's log.
func (s *charShadow) Log() []ctl.LogEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	var entries []ctl.LogEntry
	for _, e := range s.log.Entries() {
		entries = append(entries, ctl.LogEntry{Role: s.role, Key: e.Op.Key, Value: e.Op.Value, Deferred: e.Deferred})
	}
	return entries
}

// refresh is look for those who cannot do anything about its error.
func (s *charShadow) refresh() {
	if s.dev.Address == "" {
		return
	}
	if err := s.look(context.Background()); err != nil {
		s.class.log.Debug("settings not read", "role", s.role, "err", err)
	}
}

// look records what changed since it was last seen. A device whose directory
// is gone has nothing more to say.
func (s *charShadow) look(ctx context.Context) error {
	now, err := s.class.sysfs.Snapshot(ctx, s.dev)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	changed := false
	for _, op := range now {
		old, known := s.seen[op.Key]
		if known && old == op.Value {
			continue
		}
		if known { // else a file that could not be read before
			s.record(op)
		}
		s.seen[op.Key] = op.Value
		changed = true
	}
	if changed {
		s.note(s.journal.Fact(factSeen, s.seen))
	}
	return nil
}

func (s *charShadow) record(op oplog.Op) {
	changed, err := s.log.Apply(op)
	if err == nil && changed {
		err = s.journal.Op(op)
	}
	s.note(err)
}

// mark makes deferred the marks of the log.
func (s *charShadow) mark(deferred []oplog.Entry) {
	before := s.log.Deferred()
	s.log.ClearDeferred()
	for _, e := range deferred {
		s.log.Defer(e.Op, e.Deferred)
		s.note(s.journal.Defer(e.Op, e.Deferred))
	}
	for _, e := range before {
		if !marked(deferred, e.Op) {
			s.note(s.journal.Defer(e.Op, ""))
		}
	}
}

func marked(entries []oplog.Entry, op oplog.Op) bool {
	for _, e := range entries {
		if e.Op == op {
			return true
		}
	}
	return false
}

// note reports a journal that cannot be written: that costs a successor its
// knowledge, not this process its work.
func (s *charShadow) note(err error) {
	if err != nil {
		s.class.log.Error("journal not written", "role", s.role, "err", err)
	}
}

// summarize makes of deferred operations what a timeline tells. The parameters
// of a module that does not drive the new device at all are one entry.
func summarize(deferred []oplog.Entry) []ctl.Deferred {
	var out []ctl.Deferred
	told := make(map[string]bool) // by module
	for _, e := range deferred {
		if e.Deferred != errOtherModule.Error() {
			out = append(out, ctl.Deferred{Op: e.Op.String(), Reason: e.Deferred})
			continue
		}
		module, _, _ := strings.Cut(strings.TrimPrefix(e.Op.Key, paramPrefix), ".")
		if !told[module] {
			told[module] = true
			out = append(out, ctl.Deferred{Op: paramPrefix + module + ".*", Reason: e.Deferred})
		}
	}
	return out
}
